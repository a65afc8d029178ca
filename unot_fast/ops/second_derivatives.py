"""Derivatives of what an operator's backward pass gives, by torch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def pull_back(
    function: Callable[..., Sequence[Tensor]],
    arguments: Sequence[Tensor | None],
    needed: Sequence[bool],
    cotangents: Sequence[Tensor],
) -> list[Tensor | None]:
    """Cotangents of the results pulled back to the arguments that need it, to any order.

    Kernels have no backward passes of their backward passes: ``function`` is the same gradient in
    operators of torch. Autograd sees what happens here, and so may go on to higher derivatives.
    """
    chosen = [
        k
        for k, (x, need) in enumerate(zip(arguments, needed, strict=True))
        if need and x is not None
    ]

    def of_chosen(*tensors: Tensor) -> tuple[Tensor, ...]:
        every = list(arguments)
        for k, x in zip(chosen, tensors, strict=True):
            every[k] = x
        return tuple(function(*every))

    _, pull = torch.func.vjp(of_chosen, *(arguments[k] for k in chosen))
    found: list[Tensor | None] = [None] * len(arguments)
    for k, x in zip(chosen, pull(tuple(cotangents)), strict=True):
        found[k] = x
    return found
