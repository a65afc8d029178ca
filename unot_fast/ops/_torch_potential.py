"""A potential of input-convex shape as matrix products of torch, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def potential(
    x: Tensor,
    labels: Tensor | None,
    maps: Tensor,
    hidden: Sequence[Tensor],
    bias: Tensor,
    top: Tensor,
    linear: Tensor,
    strong: float,
    sharpness: float,
) -> Tensor:
    layers, ax = _forward(x, labels, maps, hidden, bias, top, sharpness)
    h = _softplus(layers[-1][0], sharpness)
    square = ax.square().sum(1) + strong * x.square().sum(1)
    return h @ top + square / 2 + (_of_class(linear, labels) * x).sum(1)


def potential_gradient(x, labels, maps, hidden, bias, top, linear, strong, sharpness) -> Tensor:
    """Differentiable in everything."""
    factors, _ = _factors(x, labels, maps, hidden, bias, top, sharpness)
    return factors @ maps + strong * x + _of_class(linear, labels)


def potential_vjp(
    grad, x, labels, maps, hidden, bias, top, linear, strong, sharpness
) -> tuple[Tensor, ...]:
    factors, layers = _factors(x, labels, maps, hidden, bias, top, sharpness, grad)
    deltas = _split(factors, [p.shape[1] for p, _ in layers])[:-1:2]
    h = [_softplus(p, sharpness) for p, _ in layers]
    dx = factors @ maps + grad[:, None] * (strong * x + _of_class(linear, labels))
    return (
        dx,
        factors.T @ x,
        _by_class(torch.cat(deltas, 1), labels, len(bias)),
        grad @ h[-1],
        _by_class(grad[:, None] * x, labels, len(linear)),
        *(delta.T @ below for delta, below in zip(deltas[1:], h, strict=False)),
    )


def _forward(x, labels, maps, hidden, bias, top, sharpness):
    """p and R x of every layer, and A x."""
    widths = [*(v.shape[1] for v in hidden), len(top)]
    rows = _split(x @ maps.T, widths)
    layers: list[tuple[Tensor, Tensor]] = []
    for k, b in enumerate(_of_class(bias, labels).split(widths, 1)):
        r = rows[2 * k + 1]
        p = rows[2 * k] + r * r + b
        if k:
            p = p + _softplus(layers[-1][0], sharpness) @ hidden[k - 1].T
        layers.append((p, r))
    return layers, rows[-1]


def _factors(x, labels, maps, hidden, bias, top, sharpness, weight=None):
    """What multiplies the maps in the gradient in x, times ``weight`` where there is one."""
    layers, ax = _forward(x, labels, maps, hidden, bias, top, sharpness)
    above = top if weight is None else weight[:, None] * top
    found = [ax if weight is None else weight[:, None] * ax]
    for k in reversed(range(len(layers))):
        p, r = layers[k]
        delta = above * torch.sigmoid(sharpness * p)
        found = [delta, 2 * r * delta, *found]
        if k:
            above = delta @ hidden[k - 1]
    return torch.cat(found, 1), layers


def _softplus(p: Tensor, sharpness: float) -> Tensor:
    # torch's own threshold, 20, is for single precision.
    return F.softplus(p, sharpness, 40.0)


def _split(products: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
    """Columns that belong to W_1, R_1, W_2, ..., A."""
    sizes = [n for width in widths for n in (width, width)]
    return products.split([*sizes, products.shape[1] - sum(sizes)], dim=1)


def _of_class(table: Tensor, labels: Tensor | None) -> Tensor:
    return table if labels is None else table[labels]


def _by_class(x: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    if labels is None:
        return x.sum(0, keepdim=True)
    return x.new_zeros(classes, x.shape[1]).index_add(0, labels, x)
