"""Log-sum-exp against a dense cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def dense_cost(costs: Sequence[Tensor]) -> Tensor:
    """The (N, M) matrix of a sum of per-axis costs ``(n_k, m_k)``, flattened row-major."""
    total = torch.zeros((1, 1), dtype=torch.float64, device=costs[0].device)
    for cost in costs:
        n, m = total.shape
        total = total[:, None, :, None] + cost.to(torch.float64)[None, :, None, :]
        total = total.reshape(n * cost.shape[0], m * cost.shape[1])
    return total


def separable_lse(h: Tensor, costs: Sequence[Tensor], epsilon: Tensor) -> Tensor:
    """``out[b, x] = log sum_y exp(h[b, y] - C(x, y) / epsilon[b])`` in float64."""
    cost = dense_cost(costs)
    rows = [
        torch.logsumexp(hb.reshape(1, -1) - cost / eps, dim=1)
        for hb, eps in zip(h.to(torch.float64), epsilon.to(torch.float64), strict=True)
    ]
    shape = tuple(c.shape[0] for c in costs)
    return torch.stack(rows).reshape(-1, *shape) if rows else h.new_empty((0, *shape))
