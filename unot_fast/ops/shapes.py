"""What operators check of their arguments, because kernels see nothing but addresses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


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
