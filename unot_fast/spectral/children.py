"""Modules that a faster layer reads and never calls, so that they must be what they seem."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as modules
from torch.nn.utils.parametrize import type_before_parametrizations


def alteration(module: nn.Module, kind: type) -> str | None:
    """What makes a call of ``module`` another thing than ``kind`` on its weights, or None.

    Parametrizations do not: they act where a weight is read.
    """
    if type(module) is not kind and type_before_parametrizations(module) is not kind:
        return f"{name_of(type(module))} in place of {kind.__name__}"
    if (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    ):
        return f"hooks on its {kind.__name__}"
    if "forward" in module.__dict__:
        return f"another forward on its {kind.__name__}"
    return None


def not_pointwise(module: nn.Module, kind: type) -> str | None:
    """`alteration` of a convolution, or that it is of more than a point."""
    reason = alteration(module, kind)
    if reason is None:
        options = *module.kernel_size, *module.stride, module.groups
        if any(n != 1 for n in options) or any(n != 0 for n in module.padding):
            reason = f"{kind.__name__} of more than one point"
    return reason


def calls_are_seen() -> bool:
    """Whether hooks on the modules of all kinds wait for calls."""
    return bool(modules._has_any_global_hook())


def name_of(x: object) -> str:
    return getattr(x, "__name__", repr(x))
