"""Functions on a grid from a few modes, with the pointwise rest of a Fourier layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from unot_fast.kernels.layer import Layer
from unot_fast.kernels.products import expect_single


def spectral_synthesis(c: Tensor, tables: Sequence[Tensor], x: Tensor | None, *rest) -> Tensor:
    """See `unot_fast.ops.spectral_synthesis`; one or two axes, float32."""
    expect_single("spectral_synthesis", c)
    *rest, gate, gelu = rest
    return Layer(c, tables, x, *rest, x, gate, gelu).value()


def spectral_synthesis_vjp(
    grad: Tensor, c: Tensor, tables: Sequence[Tensor], x: Tensor | None, *rest
) -> tuple[Tensor, ...]:
    """Also where those of the weights are not asked for."""
    expect_single("spectral_synthesis", c)
    *rest, gate, gelu, _ = rest
    *found, _, dgate = Layer(c, tables, x, *rest, x, gate, gelu).vjp(grad)
    return *found, dgate
