"""Displacement interpolation along an entropic plan."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from unot_fast.geometry import Geometry, Grid, Sphere, Structure
from unot_fast.ops.folding import all_values

_CHUNK = 2**22  # pairs of leading indices held at a time
_SAFE_EXPONENT = 600.0  # of float64's 708


def displacement_interpolation(
    a: Tensor, b: Tensor, f: Tensor, g: Tensor, geom: Geometry, epsilon: Tensor, t: float
) -> Tensor:
    """Push the plan forward along the straight lines, or the great circles, between its points.

    For a cost that is a sum over the axes, the plan is a product over the axes times the
    potentials, so for each pixel coordinate of the last axis the sum over all pairs that land
    there is one matrix product over the last axis, leaving a matrix of pairs of the leading axes,
    which is scattered: O(n^4) multiplications for an n x n image, without an exponential per
    pair. Other plans are formed a few source points at a time and scattered pair by pair.

    Parameters
    ----------
    a, b, f, g : Tensor, shapes (B, \\*shape) and (B, \\*target_shape)
        Masses of total 1 and potentials, in units of cost.
    geom : Grid or Sphere
    epsilon : Tensor, shape (B,)
    t : float
        In [0, 1].

    Returns
    -------
    Tensor, shape (B, \\*shape), float64
        On points that span from the source's extent (t = 0) to the target's (t = 1).
    """
    if geom.structure is not Structure.SEPARABLE:
        return _push_pairs(a, b, f, g, geom, epsilon, t)
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
    # Rows without mass have a top of -inf, which takes every pair of theirs away.
    top_u, top_v = log_u.amax(1, keepdim=True), log_v.amax(1, keepdim=True)
    log_u, log_v = log_u - _finite(top_u), log_v - _finite(top_v)
    u, v = log_u.exp(), log_v.exp()
    last = costs[-1]
    in_range = bool((all_values(last) < _SAFE_EXPONENT).all())
    lead_cost, corners = _leading(costs[:-1], landing[:-1], last)

    out = log_u.new_zeros((math.prod(axis.n for axis in landing[:-1]), n))
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


def _finite(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, 0.0)


def _push_pairs(
    a: Tensor, b: Tensor, f: Tensor, g: Tensor, geom: Geometry, epsilon: Tensor, t: float
) -> Tensor:
    eps = epsilon.double()[:, None]
    log_u = f.double().flatten(1) / eps + a.double().flatten(1).log()
    log_v = g.double().flatten(1) / eps + b.double().flatten(1).log()
    if isinstance(geom, Sphere):
        corners = _sphere_corners(geom, t, a.device)
    else:
        axes = [_Landing(geom, k, t, a.device) for k in range(geom.ndim)]
        corners = _grid_corners(geom, axes)
    out = log_u.new_zeros(log_u.shape)
    for rows in torch.arange(log_u.shape[1], device=a.device).split(
        max(1, _CHUNK // log_v.shape[1])
    ):
        landed, cost = corners(rows), geom.cost_matrix(rows.cpu()).to(a.device)
        for i in range(len(a)):
            plan = torch.exp(log_u[i, rows, None] + log_v[i] - cost / epsilon[i])
            for index, share in landed:
                out[i].index_add_(0, index.reshape(-1), (plan * share).reshape(-1))
    return out.reshape(-1, *geom.shape)


def _grid_corners(geom: Grid, axes: list[_Landing]):
    """From source points to pixels and weights (points, targets) for every corner of a pixel."""
    source = torch.cartesian_prod(*(torch.arange(n, device="cpu") for n in geom.shape)).view(
        -1, geom.ndim
    )
    target = torch.cartesian_prod(*(torch.arange(n, device="cpu") for n in geom.target_shape))
    source = source.to(axes[0].index.device)
    target = target.view(-1, geom.ndim).to(source.device)

    def corners(rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = []
        for choice in itertools.product(*(range(len(axis.index)) for axis in axes)):
            index, share = 0, 1
            for k, (corner, axis) in enumerate(zip(choice, axes, strict=True)):
                pair = source[rows, k][:, None], target[:, k]
                index = index * axis.n + axis.index[corner][pair]
                share = share * axis.weight[corner][pair]
            found.append((index, share))
        return found

    return corners


def _sphere_corners(geom: Sphere, t: float, device: torch.device):
    points = geom.points().reshape(-1, 3).to(device)
    latitudes = geom.latitudes.to(device)
    down = bool(latitudes[0] > latitudes[-1])
    upward = latitudes.flip(0) if down else latitudes
    nlat, nlon = geom.shape
    spacing = float(geom.longitudes[1]) if nlon > 1 else 2 * math.pi

    def corners(rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        x, y = points[rows][:, None], points
        angle = 2 * torch.atan2((x - y).norm(dim=-1), (x + y).norm(dim=-1))[..., None]
        # Shares of the two ends on the arc, up to a factor; equal points have no arc.
        near = torch.where(angle < 1e-9, 1 - t, torch.sin((1 - t) * angle))
        far = torch.where(angle < 1e-9, t, torch.sin(t * angle))
        z = near * x + far * y
        size = z.norm(dim=-1, keepdim=True)
        z = torch.where(size < 1e-12, x if t < 0.5 else y, z / size.clamp_min(1e-12))
        latitude = torch.asin(z[..., 2].clamp(-1, 1))
        lower = (torch.searchsorted(upward, latitude.contiguous()) - 1).clamp(0, nlat - 2)
        high = ((latitude - upward[lower]) / (upward[lower + 1] - upward[lower])).clamp(0, 1)
        position = (torch.atan2(z[..., 1], z[..., 0]) % (2 * math.pi)) / spacing
        west = position.floor().long()
        east = position - west
        found = []
        for row, lat_share in ((lower, 1 - high), (lower + 1, high)):
            row = nlat - 1 - row if down else row
            for column, lon_share in ((west % nlon, 1 - east), ((west + 1) % nlon, east)):
                found.append((row * nlon + column, lat_share * lon_share))
        return found

    return corners


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
