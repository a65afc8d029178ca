"""Starts of the solver by name, which layers above may add to."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from torch import Tensor

from unot_fast.geometry import Geometry
from unot_fast.ops.compiling import constant_object_when_compiled

Start = Callable[[Tensor, Tensor, Geometry, Tensor], Tensor]

_REGISTERED: dict[str, str] = {}


def register_start(name: str, place: str) -> None:
    """Make ``sinkhorn(..., init=name)`` call a function that is imported when it is needed.

    Parameters
    ----------
    name : str
    place : str
        ``"module:function"``; the function is called as ``function(a, b, geom, epsilon)`` with
        masses (B, \\*shape) of total 1 and epsilon (B,), and returns g.
    """
    _REGISTERED[name] = place


def registered() -> list[str]:
    """Names that were registered."""
    return sorted(_REGISTERED)


@constant_object_when_compiled
def find_start(name: str) -> Start | None:
    """The function of a name, if there is one."""
    if name not in _REGISTERED:
        return None
    module, function = _REGISTERED[name].split(":")
    return getattr(importlib.import_module(module), function)
