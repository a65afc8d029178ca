"""Two pointwise layers, one after the other, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


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
    return (z * phi(z) if gelu else z).unflatten(2, x.shape[2:]).to(x.dtype)


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
    """Also where those of the weights are not asked for."""
    inner, h, z = _layers(x, w1, b1, w2, b2, residual, gate)
    dz = grad.double().flatten(2)
    dz = dz * slope(z) if gelu else dz
    dh = torch.einsum("oh,bop->bhp", w2.double(), dz) * slope(inner)
    dx = torch.einsum("hi,bhp->bip", w1.double(), dh).reshape(x.shape)
    dw1 = torch.einsum("bhp,bip->hi", dh, x.double().flatten(2))
    dw2 = torch.einsum("bop,bhp->oh", dz, h)
    none = dz.new_empty(0)
    dr = dgate = none
    if residual is not None:
        factor = 1.0 if gate is None else gate.double().view(-1, 1)
        dr = (factor * dz).reshape(residual.shape)
        if gate is not None:
            dgate = (dz * residual.double().flatten(2)).sum((0, 2))
    db1, db2 = (none if b is None else d.sum((0, 2)) for b, d in ((b1, dh), (b2, dz)))
    return tuple(t.to(x.dtype) for t in (dx, dw1, db1, dw2, db2, dr, dgate))


def _layers(x, w1, b1, w2, b2, residual, gate) -> tuple[Tensor, Tensor, Tensor]:
    """Before the inner activation, after it and before the outer one, shapes (B, ., points)."""
    inner = torch.einsum("hi,bip->bhp", w1.double(), x.double().flatten(2))
    if b1 is not None:
        inner = inner + b1.double().view(-1, 1)
    h = inner * phi(inner)
    z = torch.einsum("oh,bhp->bop", w2.double(), h)
    if b2 is not None:
        z = z + b2.double().view(-1, 1)
    if residual is not None:
        factor = 1.0 if gate is None else gate.double().view(-1, 1)
        z = z + factor * residual.double().flatten(2)
    return inner, h, z


def phi(z: Tensor) -> Tensor:
    """The normal distribution function; z phi(z) is the GELU."""
    return torch.erfc(-z / 2**0.5) / 2


def slope(z: Tensor) -> Tensor:
    """The derivative of the GELU."""
    return phi(z) + z * torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5
