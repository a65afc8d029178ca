"""Products of channels by complex sums, bias and GELU, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.reference.channel_mlp import phi, slope


def spectral_mixing(c: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    z = _before_activation(c, weight, bias)
    return (z * phi(z) if gelu else z).to(c.dtype)


def spectral_mixing_vjp(
    grad: Tensor, c: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool, weights: bool
) -> tuple[Tensor, ...]:
    """Also where those of the weights are not asked for."""
    dz = grad.double()
    if gelu:
        dz = dz * slope(_before_activation(c, weight, bias))
    dz = _coefficients(dz)
    dc = torch.einsum("bo...,io...->bi...", dz, _weight(weight).conj())
    dw = torch.einsum("bi...,bo...->io...", _coefficients(c).conj(), dz)
    dbias = grad.new_empty(0) if bias is None else torch.view_as_real(dz.sum(0))
    found = _parts(dc), torch.view_as_real(dw.resolve_conj()), dbias
    return tuple(t.to(c.dtype) for t in found)


def _before_activation(c: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    z = torch.einsum("bi...,io...->bo...", _coefficients(c), _weight(weight))
    return _parts(z if bias is None else z + _weight(bias))


def _coefficients(c: Tensor) -> Tensor:
    return torch.complex(*c.double().unbind(2))


def _weight(weight: Tensor) -> Tensor:
    return torch.view_as_complex(weight.double().contiguous())


def _parts(c: Tensor) -> Tensor:
    return torch.stack((c.real, c.imag), 2)
