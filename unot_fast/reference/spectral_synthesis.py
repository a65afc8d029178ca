"""Functions from coefficients by complex sums, and the pointwise rest, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.reference.channel_mlp import channel_mlp, channel_mlp_vjp, phi, slope
from unot_fast.reference.spectral_analysis import spectral_analysis


def spectral_synthesis(
    c: Tensor,
    tables: Sequence[Tensor],
    x: Tensor | None,
    skip: Tensor | None,
    bias: Tensor | None,
    w1: Tensor | None,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    gate: Tensor | None,
    gelu: bool,
) -> Tensor:
    z = _before_activation(c, tables, x, skip, bias, gate if w1 is None else None)
    h = z * phi(z) if gelu else z
    if w1 is not None:
        h = channel_mlp(h, w1, b1, w2, b2, None if gate is None else x, gate, gelu)
    return h.to(c.dtype)


def spectral_synthesis_vjp(
    grad: Tensor,
    c: Tensor,
    tables: Sequence[Tensor],
    x: Tensor | None,
    skip: Tensor | None,
    bias: Tensor | None,
    w1: Tensor | None,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    gate: Tensor | None,
    gelu: bool,
    weights: bool,
) -> tuple[Tensor, ...]:
    """Also where those of the weights are not asked for."""
    dz = grad.double()
    none = dz.new_empty(0)
    z = _before_activation(c, tables, x, skip, bias, gate if w1 is None else None)
    dr, mlp = none, [none] * 5
    if w1 is not None:
        h, residual = (z * phi(z) if gelu else z), None if gate is None else x
        dz, *mlp[:4], dr, mlp[4] = channel_mlp_vjp(
            dz, h, w1, b1, w2, b2, residual, gate, gelu, weights
        )
    if gelu:
        dz = dz * slope(z)
    if w1 is None and gate is not None:
        dr = _along_channels(gate, dz) * dz
        mlp[4] = (dz * x.double()).transpose(0, 1).flatten(1).sum(1)
    dx = dskip = none
    if x is not None:
        dx = torch.zeros_like(x, dtype=torch.float64)
        if gate is not None:
            dx = dx + dr
    if skip is not None:
        dx = dx + torch.einsum("oi,bo...->bi...", skip.double(), dz)
        dskip = torch.einsum("bop,bip->oi", dz.flatten(2), x.double().flatten(2))
    dbias = none if bias is None else dz.transpose(0, 1).flatten(1).sum(1)
    dc = spectral_analysis(dz, [_adjoint(t) for t in tables])
    return tuple(t.to(c.dtype) for t in (dc, dx, dskip, dbias, *mlp))


def _adjoint(table: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(table.double().contiguous()).mH.resolve_conj())


def _along_channels(v: Tensor, like: Tensor) -> Tensor:
    return v.double().view(-1, *(1,) * (like.ndim - 2))


def _before_activation(c, tables, x, skip, bias, gate) -> Tensor:
    z = torch.complex(*c.double().unbind(-len(tables) - 1))
    for axis, table in enumerate(tables, z.ndim - len(tables)):
        matrix = torch.view_as_complex(table.double().contiguous())
        z = torch.tensordot(z, matrix, dims=([axis], [1])).movedim(-1, axis)
    z = z.real
    if skip is not None:
        z = z + torch.einsum("oi,bi...->bo...", skip.double(), x.double())
    if bias is not None:
        z = z + _along_channels(bias, z)
    if gate is not None:
        z = z + _along_channels(gate, z) * x.double()
    return z.contiguous()
