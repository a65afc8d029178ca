"""Sinkhorn on a cost that depends on the last axis only through a shift."""

from __future__ import annotations

from torch import Tensor

from unot_fast.reference.sinkhorn import solve
from unot_fast.reference.stationary_lse import dense_cost


def sinkhorn_stationary(
    a: Tensor, b: Tensor, table: Tensor, row_class: Tensor, epsilon: Tensor, g: Tensor, *options
) -> tuple[Tensor, ...]:
    """See `unot_fast.ops.sinkhorn_stationary` for the contract."""
    cost = dense_cost(table, row_class, 1, a.shape[-1], b.shape[-1])
    return solve(a, b, cost, epsilon, g, *options)
