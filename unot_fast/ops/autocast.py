"""What autocast does to operators and solvers that have no half precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch

_DEVICES = ("cpu", "cuda")
F = TypeVar("F", bound=Callable)


def keep_single(*operators: str) -> None:
    """Let autocast pass float32 to operators, and leave alone what they call."""
    for operator in operators:
        for device in _DEVICES:
            torch.library.register_autocast(f"unot_fast::{operator}", device, torch.float32)


def in_full_precision(function: F) -> F:
    """Let autocast leave a function alone, whose result would be lost in half precision."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        if not any(map(torch.is_autocast_enabled, _DEVICES)):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return call
