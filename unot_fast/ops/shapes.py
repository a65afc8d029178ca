"""What operators check of their arguments, because kernels see nothing but addresses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_REALS = torch.float32, torch.float64


def expect(operator: str, **arguments: tuple[Tensor | None, Sequence[int]]) -> None:
    """Raise ValueError if a tensor that is there has another shape than the one beside it."""
    for name, (tensor, shape) in arguments.items():
        if tensor is not None and tuple(tensor.shape) != tuple(shape):
            raise ValueError(
                f"{operator}: {name} must have shape {tuple(shape)}; got {tuple(tensor.shape)}"
            )


def expect_mlp(operator: str, c_in: int, w1, b1, w2, b2) -> tuple[int, int]:
    """The same for two pointwise layers on ``c_in`` channels; returns their channels."""
    hidden, out = w1.shape[0], w2.shape[0]
    expect(
        operator, w1=(w1, (hidden, c_in)), b1=(b1, (hidden,)), w2=(w2, (out, hidden)),
        b2=(b2, (out,)),
    )  # fmt: skip
    return hidden, out


def expect_alike(operator: str, tables: Sequence[Tensor] = (), **tensors: Tensor | None) -> None:
    """Raise unless all have the device and the dtype of the first, float32 or float64."""
    (first, like), *others = tensors.items()
    dtype, device = like.dtype, like.device
    if dtype not in _REALS:
        raise TypeError(f"{operator}: {first} must be float32 or float64; got {dtype}")
    for name, tensor in (*others, *(("table", t) for t in tables)):
        if tensor is None:
            continue
        if tensor.dtype is not dtype:
            raise TypeError(
                f"{operator}: {name} must have the dtype of {first}, {dtype}; got {tensor.dtype}"
            )
        if tensor.device != device:
            raise ValueError(
                f"{operator}: {name} must be where {first} is, on {device}; got {tensor.device}"
            )
