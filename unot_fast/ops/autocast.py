"""What autocast does to operators that have no half precision."""

from __future__ import annotations

import torch


def keep_single(*operators: str) -> None:
    """Let autocast pass float32 to operators, and leave alone what they call."""
    for operator in operators:
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(f"unot_fast::{operator}", device, torch.float32)
