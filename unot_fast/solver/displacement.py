"""Displacement interpolation along an entropic plan."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from unot_fast.geometry import Grid

_CHUNK = 2**22  # pairs of leading indices held at a time
_SAFE_EXPONENT = 600.0  # of float64's 708


def displacement_interpolation(
    a: Tensor, b: Tensor, f: Tensor, g: Tensor, geom: Grid, epsilon: Tensor, t: float
) -> Tensor:
    """Push the plan forward by ``(1 - t) x + t y`` onto the pixels of a grid.

    The plan is a product over the axes times the potentials, so for each pixel coordinate of the
    last axis the sum over all pairs that land there is one matrix product over the last axis,
    leaving a matrix of pairs of the leading axes, which is scattered: O(n^4) multiplications for
    an n x n image, without an exponential per pair.

    Parameters
    ----------
    a, b, f, g : Tensor, shapes (B, \\*shape) and (B, \\*target_shape)
        Masses of total 1 and potentials, in units of cost.
    geom : Grid
    epsilon : Tensor, shape (B,)
    t : float
        In [0, 1].

    Returns
    -------
    Tensor, shape (B, \\*shape), float64
        On points that span from the source's extent (t = 0) to the target's (t = 1).
    """
    landing = [_Landing(geom, k, t, a.device) for k in range(geom.ndim)]
    costs = [c.to(a.device) for c in geom.axis_costs]
    images = [
        _push(
            f[i].double() / epsilon[i] + a[i].double().log(),
            g[i].double() / epsilon[i] + b[i].double().log(),
            [c / epsilon[i] for c in costs],
            landing,
        ).reshape(geom.shape)
        for i in range(a.shape[0])
    ]
    return torch.stack(images) if images else a.double()


class _Landing:
    """Where the pair (i, j) of one axis lands at time t: a pixel and its upper neighbour."""

    def __init__(self, geom: Grid, axis: int, t: float, device: torch.device):
        x = geom.coordinates[axis].to(device)
        y = geom.target_coordinates[axis].to(device)
        self.n = len(x)
        pixels = (1 - t) * x + t * _resample(y, self.n)
        position = (1 - t) * x[:, None] + t * y
        if self.n == 1:
            lower = torch.zeros_like(position, dtype=torch.long)
            self.index, self.weight = lower[None], torch.ones_like(position)[None]
            return
        lower = (torch.searchsorted(pixels, position, right=True) - 1).clamp(0, self.n - 2)
        share = (position - pixels[lower]) / (pixels[lower + 1] - pixels[lower])
        share = share.clamp(0, 1)
        self.index = torch.stack([lower, lower + 1])  # (corner, n, m)
        self.weight = torch.stack([1 - share, share])

    def pairs(self, pixel: int) -> tuple[Tensor, Tensor, Tensor]:
        """Source index, target index and weight of all pairs that touch a pixel."""
        corner, i, j = torch.nonzero((self.index == pixel) & (self.weight > 0), as_tuple=True)
        return i, j, self.weight[corner, i, j]


def _resample(y: Tensor, n: int) -> Tensor:
    """The points of y, or n points spread over its extent where y has another length."""
    if len(y) == n:
        return y
    return y[0] + (y[-1] - y[0]) * torch.linspace(0, 1, n, dtype=y.dtype, device=y.device)


def _push(log_u: Tensor, log_v: Tensor, costs: list[Tensor], landing: list[_Landing]) -> Tensor:
    n, m = costs[-1].shape
    log_u, log_v = log_u.reshape(-1, n), log_v.reshape(-1, m)
    top_u, top_v = _finite_max(log_u), _finite_max(log_v)
    log_u, log_v = log_u - top_u, log_v - top_v
    u, v = log_u.exp(), log_v.exp()
    last = costs[-1]
    in_range = float(last.max()) < _SAFE_EXPONENT
    lead_cost, corners = _leading(costs[:-1], landing[:-1], last)

    out = last.new_zeros((math.prod(axis.n for axis in landing[:-1]), n))
    rows_per_chunk = max(1, _CHUNK // log_v.shape[0])
    for z in range(n):
        i, j, weight = landing[-1].pairs(z)
        if len(i) == 0:
            continue
        for rows in torch.arange(len(log_u), device=out.device).split(rows_per_chunk):
            exponent = top_u[rows] + top_v.T - lead_cost[rows]
            if in_range:  # the largest term is at least e^-600, so the exponent is below 600
                block = (u[rows][:, i] * (weight * torch.exp(-last[i, j]))) @ v[:, j].T
                block = block * exponent.exp()
            else:
                block = _log_block(log_u[rows], log_v, weight.log() - last[i, j], i, j)
                block = torch.exp(block + exponent)
            for index, share in corners:
                out[:, z].index_add_(0, index[rows].reshape(-1), (block * share[rows]).reshape(-1))
    return out


def _log_block(log_u: Tensor, log_v: Tensor, log_k: Tensor, i: Tensor, j: Tensor) -> Tensor:
    rows = [torch.logsumexp(log_u[r, i] + log_v[:, j] + log_k, 1) for r in range(len(log_u))]
    return torch.stack(rows)


def _finite_max(x: Tensor) -> Tensor:
    """Row maxima, shape (rows, 1); 0 for a row without mass."""
    top = x.amax(1, keepdim=True)
    return torch.where(top.isfinite(), top, 0.0)


def _leading(
    costs: list[Tensor], landing: list[_Landing], like: Tensor
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Cost, and landing pixels with weights, of pairs of the flattened leading axes."""
    total = like.new_zeros((1, 1))
    for cost in costs:
        total = _outer(total, cost, torch.add)
    corners = []
    for choice in itertools.product(*(range(len(axis.index)) for axis in landing)):
        index = torch.zeros((1, 1), dtype=torch.long, device=like.device)
        share = like.new_ones((1, 1))
        for corner, axis in zip(choice, landing, strict=True):
            index = _outer(index * axis.n, axis.index[corner], torch.add)
            share = _outer(share, axis.weight[corner], torch.mul)
        corners.append((index, share))
    return total, corners


def _outer(x: Tensor, y: Tensor, combine) -> Tensor:
    """Combine (N, M) and (n, m) into (N n, M m)."""
    out = combine(x[:, None, :, None], y[None, :, None, :])
    return out.reshape(x.shape[0] * y.shape[0], x.shape[1] * y.shape[1])
