"""What a forward pass leaves for the backward pass, which else computes it again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops.pages import empty
from unot_fast.ops.shapes import expect


def is_recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for the gradient of an operator of these tensors."""
    # Not in an exported graph, which is for inference as a rule.
    if torch.compiler.is_exporting() or not torch.is_grad_enabled():
        return False
    return any(x is not None and x.requires_grad for x in tensors)


def shape_of_kept(shape: Sequence[int], keep: bool, backend: str) -> Sequence[int]:
    """``shape``, or that of no entries where nothing is kept: by all backends but the CPU's."""
    return shape if keep and backend == "cpu" else (0,)


def room_for_kept(like: Tensor, shape: Sequence[int], backend: str) -> Tensor:
    """A tensor that ``backend`` is to fill, of a shape of `shape_of_kept`."""
    return empty(shape, like.dtype) if backend == "cpu" else like.new_zeros(shape)


def expect_kept(operator: str, kept: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError if what is kept has entries, but another shape."""
    expect(operator, kept=(kept if kept.numel() else None, shape))


def passed_on(kept: Tensor, backend: str) -> dict[str, Tensor]:
    """The argument for kernels that fill or read what is kept."""
    return {"kept": kept.contiguous()} if backend == "cpu" and kept.numel() else {}
