"""Forward-mode derivatives, of which torch passes custom operators no trace."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad


def refuse_tangents(operator: str, *tensors: Tensor | None) -> None:
    """Raise NotImplementedError if a tensor has a tangent, which torch would take for zero."""
    if forward_ad._current_level < 0 or torch.compiler.is_compiling():
        return
    for tensor in tensors:
        if tensor is not None and _has_tangent(tensor):
            raise NotImplementedError(
                f"{operator}: forward-mode derivatives are not available; use torch.autograd"
            )


def _has_tangent(tensor: Tensor) -> bool:
    while _functorch.is_batchedtensor(tensor):  # vmap cannot unpack
        tensor = _functorch.get_unwrapped(tensor)
    return forward_ad.unpack_dual(tensor).tangent is not None
