"""Products of channels by complex sums, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def spectral_mixing(c: Tensor, weight: Tensor) -> Tensor:
    out = torch.einsum("bi...,io...->bo...", _coefficients(c), _weight(weight))
    return _parts(out, c.dtype)


def spectral_mixing_vjp(grad: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    dy = _coefficients(grad)
    dc = torch.einsum("bo...,io...->bi...", dy, _weight(weight).conj())
    dw = torch.einsum("bi...,bo...->io...", _coefficients(c).conj(), dy)
    return _parts(dc, c.dtype), torch.view_as_real(dw.resolve_conj()).to(weight.dtype)


def _coefficients(c: Tensor) -> Tensor:
    return torch.complex(*c.double().unbind(2))


def _weight(weight: Tensor) -> Tensor:
    return torch.view_as_complex(weight.double().contiguous())


def _parts(c: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.stack((c.real, c.imag), 2).to(dtype)
