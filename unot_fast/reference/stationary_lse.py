"""Log-sum-exp against a cost that depends on the last axis only through a shift."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def dense_cost(table: Tensor, row_class: Tensor, step: int, n: int, m: int) -> Tensor:
    """The matrix between the flattened points, n and m of them on a row of source and target."""
    shift = torch.arange(n)[:, None] - step * torch.arange(m)
    rows, columns = row_class.shape
    cost = table.new_empty((rows, n, columns, m), dtype=torch.float64)
    for r in range(rows):
        for q in range(columns):
            cost[r, :, q] = table[row_class[r, q], shift + step * (m - 1)]
    return cost.reshape(rows * n, columns * m)


def stationary_lse(
    h: Tensor, table: Tensor, row_class: Tensor, step: int, shape: Sequence[int], epsilon: Tensor
) -> Tensor:
    """``out[b, x] = log sum_y exp(h[b, y] - C(x, y) / epsilon[b])`` in float64."""
    cost = dense_cost(table, row_class, step, shape[-1], h.shape[-1])
    rows = [
        torch.logsumexp(hb.reshape(1, -1) - cost / eps, dim=1)
        for hb, eps in zip(h.to(torch.float64), epsilon.to(torch.float64), strict=True)
    ]
    return torch.stack(rows).reshape(-1, *shape) if rows else h.new_empty((0, *shape))
