"""Sinkhorn on a sum of per-axis costs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from unot_fast.reference.separable_lse import dense_cost
from unot_fast.reference.sinkhorn import solve


def sinkhorn_separable(
    a: Tensor, b: Tensor, costs: Sequence[Tensor], epsilon: Tensor, g: Tensor, *options
) -> tuple[Tensor, ...]:
    """See `unot_fast.ops.sinkhorn_separable` for the contract."""
    return solve(a, b, dense_cost(costs), epsilon, g, *options)
