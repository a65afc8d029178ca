"""First derivatives that say so where second ones are asked for."""

from __future__ import annotations

import torch
from torch import Tensor


def first_order(value: Tensor, *inputs: Tensor) -> Tensor:
    """The same value, whose first derivatives raise when they are differentiated in ``inputs``.

    For values whose graph knows nothing of how an optimum moves: by the envelope theorem that does
    not matter once, and would be silently wrong twice.
    """
    if value.requires_grad:
        inputs = [x for x in inputs if x.requires_grad]

        def guard(grad: Tensor) -> Tensor:
            return _Refuse.apply(grad, *inputs) if torch.is_grad_enabled() else grad

        value.register_hook(guard)
    return value


class _Refuse(torch.autograd.Function):
    """The first argument; connected to all of them, without a derivative in any."""

    @staticmethod
    def forward(ctx, grad, *inputs):
        return grad.clone()

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            "c_transform: second derivatives of the value are not available; they need how y moves"
        )
