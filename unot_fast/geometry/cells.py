"""Cells of points, of which coarser grids are made."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.geometry.base import placed


def blocks(n: int, m: int) -> Tensor:
    """Share of each of n pixels that lies in each of m equal blocks, shape (m, n)."""
    edges = torch.linspace(0, n, m + 1, dtype=torch.float64)
    left = torch.arange(n, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], left + 1) - torch.maximum(edges[:-1, None], left)
    return overlap.clamp_min(0)


def pooled(x: Tensor, pools: Sequence[Tensor]) -> Tensor:
    r"""Sums over cells, of masses (\*batch, \*points) and one matrix (cells, points) per axis."""
    for k, pool in enumerate(pools):
        m, n = pool.shape
        if m == n:
            continue
        shape = (*x.shape[: k + 1], m, *x.shape[k + 2 :])
        if k == len(pools) - 1:
            x = x.reshape(-1, n) @ placed(pool, x.device, x.dtype).T
        else:  # bmm, since matmul would transpose and leave a strided result
            lines = x.reshape(math.prod(x.shape[: k + 1]), n, -1)
            x = torch.bmm(placed(pool, x.device, x.dtype).expand(len(lines), m, n), lines)
        x = x.reshape(shape)
    return x


def spread(pool: Tensor, centres: Tensor, points: Tensor) -> float:
    """Mean squared distance of points from the centres of their cells, weighted by ``pool``."""
    return float((pool * (centres[:, None] - points).square()).sum() / pool.sum())


def block_middles(x: Tensor, m: int) -> Tensor:
    """Middles of m equal blocks of equally spaced points."""
    if len(x) == 1:
        return x.expand(m) if m == 1 else x + torch.zeros(m, dtype=x.dtype)
    n = len(x)
    position = (torch.arange(m, dtype=torch.float64) + 0.5) * n / m - 0.5
    return x[0] + (x[-1] - x[0]) * position / (n - 1)
