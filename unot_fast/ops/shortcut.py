"""Calls past torch's dispatcher, which takes 40 to 100 us for an operator written in Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._C import _get_tracing_state, _len_torch_dispatch_stack
from torch._C._autograd import _profiler_enabled
from torch._C._functorch import peek_interpreter_stack
from torch.nn import Parameter

_PLAIN = (Tensor, Parameter)


def shortcut(operator: Callable, implementation: Callable, *tensors: Tensor | None) -> Callable:
    """``implementation`` where torch would do no more than call it, else ``operator``.

    That is where these tensors are on the CPU and ask for no gradient, and nothing traces,
    transforms, counts or casts.
    """
    if (
        torch.compiler.is_compiling()
        or peek_interpreter_stack() is not None
        or _len_torch_dispatch_stack()
        or _get_tracing_state() is not None
        or _profiler_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
    ):
        return operator
    differentiates = torch.is_grad_enabled()
    for x in tensors:
        if x is None:
            continue
        if type(x) not in _PLAIN or not x.is_cpu or (differentiates and x.requires_grad):
            return operator
    return implementation
