"""What runs the benchmarks."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu_model() -> str:
    """Name of the processor, with the number of logical cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        fields = (line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        name = next((v.strip() for k, v in fields if k.strip() == "model name"), name)
    return f"{name}, {os.cpu_count()} cores"
