"""From a geometry to the operators that take its cost."""

from __future__ import annotations

from torch import Tensor

from unot_fast.geometry import Coarser, Geometry, LineCost
from unot_fast.ops import (
    Solution,
    separable_lse,
    sinkhorn_separable,
    sinkhorn_stationary,
    stationary_lse,
)


def solve(a: Tensor, b: Tensor, geom: Geometry, epsilon: Tensor, g: Tensor, **options) -> Solution:
    """Sinkhorn's iteration from ``g``; options are those of `sinkhorn_separable`."""
    structure, costs = geom.kernel_costs
    costs = [c.to(a.device) for c in costs]
    if structure == "stationary":
        return sinkhorn_stationary(a, b, *costs, epsilon, g, **options)
    return sinkhorn_separable(a, b, [c.to(a.dtype) for c in costs], epsilon, g, **options)


def prolong(level: Coarser, h: Tensor, epsilon: Tensor, finer: Geometry, backend: str) -> Tensor:
    """Log-sum-exp of ``h`` on a level's source at the target points of the finer geometry."""
    cost = level.prolongation
    if isinstance(cost, LineCost):
        table, row_class = (x.to(h.device) for x in (cost.table, cost.row_class))
        shape = finer.target_shape
        return stationary_lse(h, table, row_class, cost.step, shape, epsilon, backend=backend)
    return separable_lse(h, [c.to(h) for c in cost], epsilon, backend=backend)
