"""Spectral layers as matrix products of torch, on any device and in any dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unot_fast.ops.complex_tables import adjoint


def spectral_analysis(x: Tensor, tables: Sequence[Tensor]) -> Tensor:
    d = len(tables)
    lead, points = x.shape[: x.ndim - d], x.shape[x.ndim - d :]
    *others, last = tables
    c = x.reshape(-1, points[-1]) @ last.permute(1, 2, 0).flatten(1)
    columns = last.shape[0]  # of the axes that are done
    for table, n in zip(reversed(others), reversed(points[:-1]), strict=True):
        c = _complex_product(table, c.reshape(-1, n, 2, columns)).transpose(1, 2)
        columns *= table.shape[0]
    return c.reshape(*lead, 2, *(t.shape[0] for t in tables))


def legendre_products(x: Tensor, table: Tensor, to_lines: bool) -> Tensor:
    if to_lines:
        lines = torch.bmm(table, x.transpose(0, 1).flatten(2))
        return lines.unflatten(2, x.shape[2:]).permute(2, 3, 1, 4, 0)
    c = torch.bmm(table, x.permute(4, 2, 0, 1, 3).flatten(2))
    return c.unflatten(2, (*x.shape[:2], 2)).transpose(0, 1)


def spectral_mixing(c: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    z = _mixed(c, weight, bias)
    return F.gelu(z) if gelu else z


def spectral_mixing_vjp(
    grad: Tensor, c: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool, weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    none = grad.new_empty(0)
    dz = torch.ops.aten.gelu_backward(grad, _mixed(c, weight, bias)) if gelu else grad
    by_mode = _by_mode(dz)
    dc = _coefficients(torch.bmm(by_mode, _matrices(weight).mH), c)
    if not weights:
        return dc, none, none
    dw = torch.bmm(_by_mode(c).mH, by_mode).flatten(1).t().contiguous()
    dbias = none if bias is None else dz.sum(0).movedim(1, -1)
    return dc, torch.view_as_real(dw).view(weight.shape), dbias


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
    h = F.gelu(z) if gelu else z
    return h if w1 is None else channel_mlp(h, w1, b1, w2, b2, _residual(x, gate), gate, gelu)


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
    none = grad.new_empty(0)
    z = none
    if gelu or w1 is not None:
        z = _before_activation(c, tables, x, skip, bias, gate if w1 is None else None)
    dz, dr, mlp = grad, none, [none] * 5
    if w1 is not None:
        h, residual = (F.gelu(z) if gelu else z), _residual(x, gate)
        dz, *mlp[:4], dr, mlp[4] = channel_mlp_vjp(
            grad, h, w1, b1, w2, b2, residual, gate, gelu, weights
        )
    if gelu:
        dz = torch.ops.aten.gelu_backward(dz, z)
    rows = dz.flatten(2)
    if w1 is None and gate is not None:
        dr = _along_channels(gate, dz) * dz
        mlp[4] = (rows * x.flatten(2)).sum((0, 2)) if weights else none
    dx = dskip = none
    if x is not None:
        dx = torch.zeros_like(x) if skip is None else (skip.T @ rows).reshape(x.shape)
        dx = dx + dr if gate is not None else dx
    if skip is not None and weights:
        dskip = _outer(rows, x.flatten(2))
    dbias = none if bias is None or not weights else rows.sum((0, 2))
    return spectral_analysis(dz, [adjoint(t) for t in tables]), dx, dskip, dbias, *mlp


def channel_mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    residual: Tensor | None,
    gate: Tensor | None,
    gelu: bool,
) -> Tensor:
    _, _, z = _layers(x, w1, b1, w2, b2, residual, gate)
    return (F.gelu(z) if gelu else z).unflatten(2, x.shape[2:])


def channel_mlp_vjp(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    residual: Tensor | None,
    gate: Tensor | None,
    gelu: bool,
    weights: bool,
) -> tuple[Tensor, ...]:
    none = grad.new_empty(0)
    inner, h, z = _layers(x, w1, b1, w2, b2, residual, gate)
    dz = grad.flatten(2)
    dz = torch.ops.aten.gelu_backward(dz, z) if gelu else dz
    dh = torch.ops.aten.gelu_backward(w2.T @ dz, inner)
    dx = (w1.T @ dh).reshape(x.shape)
    dw1 = db1 = dw2 = db2 = dr = dgate = none
    if weights:
        dw1, dw2 = _outer(dh, x.flatten(2)), _outer(dz, h)
        db1, db2 = (none if b is None else d.sum((0, 2)) for b, d in ((b1, dh), (b2, dz)))
    if residual is not None:
        dr = (dz.clone() if gate is None else gate.view(-1, 1) * dz).reshape(residual.shape)
        if gate is not None and weights:
            dgate = (dz * residual.flatten(2)).sum((0, 2))
    return dx, dw1, db1, dw2, db2, dr, dgate


def _complex_product(table: Tensor, x: Tensor) -> Tensor:
    """A complex table (m, n, 2) times complex columns, (rows, n, 2, c) to (rows, m, 2, c)."""
    parts = table.movedim(-1, 0).flatten(0, 1) @ x.flatten(2)
    parts = parts.view(x.shape[0], 2, table.shape[0], 2, x.shape[3])
    re = parts[:, 0, :, 0] - parts[:, 1, :, 1]
    im = parts[:, 0, :, 1] + parts[:, 1, :, 0]
    return torch.stack((re, im), 2)


def _by_mode(c: Tensor) -> Tensor:
    """Coefficients (B, C, 2, modes...) as complex matrices (modes, B, C)."""
    z = torch.complex(c[:, :, 0], c[:, :, 1])
    return z.flatten(2).flatten(0, 1).t().contiguous().view(c.shape[3:].numel(), *c.shape[:2])


def _matrices(weight: Tensor) -> Tensor:
    """Weights (C, O, modes..., 2) as complex matrices (modes, C, O)."""
    w = torch.view_as_complex(weight.contiguous())
    return (
        w.flatten(2)
        .flatten(0, 1)
        .t()
        .contiguous()
        .view(weight.shape[2:-1].numel(), *weight.shape[:2])
    )


def _coefficients(z: Tensor, like: Tensor) -> Tensor:
    """Complex matrices (modes, B, O) as coefficients (B, O, 2, modes...), modes as in ``like``."""
    z = torch.view_as_real(z.flatten(1).t().contiguous()).unflatten(0, z.shape[1:])
    return z.movedim(3, 2).reshape(*z.shape[:2], *like.shape[2:])


def _mixed(c: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    z = _coefficients(torch.bmm(_by_mode(c), _matrices(weight)), c)
    return z if bias is None else z + bias.movedim(-1, 1)


def _along_channels(v: Tensor, like: Tensor) -> Tensor:
    return v.view(-1, *(1,) * (like.ndim - 2))


def _before_activation(c, tables, x, skip, bias, gate) -> Tensor:
    d = len(tables)
    lead, columns = c.shape[: -d - 1], c.shape[-d:].numel()
    *others, last = tables
    z = c
    for table in others:
        columns //= table.shape[1]  # of the axes that are left
        z = z.reshape(-1, 2, table.shape[1], columns).transpose(1, 2)
        z = _complex_product(table, z)
    re, im = last.unbind(-1)
    z = z.reshape(-1, 2 * columns) @ torch.cat((re, -im), 1).T
    z = z.view(*lead, *(t.shape[0] for t in tables))
    if skip is not None:
        z = z + (skip @ x.flatten(2)).reshape(z.shape)
    if bias is not None:
        z = z + _along_channels(bias, z)
    if gate is not None:
        z = torch.addcmul(z, _along_channels(gate, z), x)
    return z


def _residual(x: Tensor | None, gate: Tensor | None) -> Tensor | None:
    return None if gate is None else x


def _layers(x, w1, b1, w2, b2, residual, gate) -> tuple[Tensor, Tensor, Tensor]:
    """Before the inner activation, after it and before the outer one, shapes (B, ., points)."""
    inner = w1 @ x.flatten(2)
    if b1 is not None:
        inner = inner + b1.view(-1, 1)
    h = F.gelu(inner)
    z = w2 @ h
    if b2 is not None:
        z = z + b2.view(-1, 1)
    if residual is not None:
        r = residual.flatten(2)
        z = z + (r if gate is None else gate.view(-1, 1) * r)
    return inner, h, z


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """sum over the batch and the points of left right^T."""
    return torch.bmm(left, right.mT).sum(0)
