"""``unot-fast info``: what is installed and what can run here."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import click
import torch

from unot_fast import __version__, backends
from unot_fast.ops.backends import cpu_isa, cpu_library


@click.command()
def command() -> None:
    """Versions, hardware and backends."""
    rows = {
        "unot-fast": __version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "triton": _version("triton"),
        "cpu": _cpu_model(),
        "threads": str(torch.get_num_threads()),
        "isa": cpu_isa() if cpu_library() else "none: the compiled kernels are not installed",
        "gpu": _gpu(),
    }
    for name, value in rows.items():
        click.echo(f"{name:<10} {value}")
    click.echo(f"\n{backends()}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none visible to torch"
    devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return "; ".join(f"{d.name}, {d.total_memory / 2**30:.0f} GiB" for d in devices)
