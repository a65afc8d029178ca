"""From a geometry to the operators that take its cost."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.geometry import Coarser, Geometry, LineCost
from unot_fast.geometry.base import lasting, placed
from unot_fast.ops import (
    Solution,
    _cuda,
    resolve,
    separable_lse,
    sinkhorn_separable,
    sinkhorn_stationary,
    stationary_lse,
)
from unot_fast.ops.compiling import constant_when_compiled
from unot_fast.solver.scaled_lse import dense_lse, in_range, separable_product_lse


def backend_for(backend: str, geom: Geometry, device: torch.device) -> str:
    """Name of the backend that solves on ``geom``; ``"auto"`` is the fastest that can."""
    chosen = resolve(backend, device)
    if backend == "auto" and chosen == "cuda" and not _cuda_takes(geom, device):
        return resolve("triton", device)
    return chosen


@constant_when_compiled
def _cuda_takes(geom: Geometry, device: torch.device) -> bool:
    if geom.kernel_costs[0] != "separable":
        return True
    return _cuda.supports(geom.shape, geom.target_shape, device)


@constant_when_compiled
def costs_on(geom: Geometry, device: torch.device) -> tuple[str, tuple[Tensor, ...]]:
    """`Geometry.kernel_costs` on a device; copied there once."""
    cache = geom.__dict__.setdefault("_kernel_costs_on", {})
    if device not in cache:
        cache[device] = _moved_costs(geom, device)
    return cache[device]


@lasting
def _moved_costs(geom: Geometry, device: torch.device) -> tuple[str, tuple[Tensor, ...]]:
    structure, costs = geom.kernel_costs
    moved = {id(c): c.to(device) for c in costs}  # what is shared stays so
    return structure, tuple(moved[id(c)] for c in costs)


def solve(a: Tensor, b: Tensor, geom: Geometry, epsilon: Tensor, g: Tensor, **options) -> Solution:
    """Sinkhorn's iteration from ``g``; options are those of `sinkhorn_separable`."""
    structure, costs = costs_on(geom, a.device)
    if structure == "stationary":
        return sinkhorn_stationary(a, b, *costs, epsilon, g, **options)
    return sinkhorn_separable(a, b, costs, epsilon, g, **options)


def half_step(
    geom: Geometry, mass: Tensor, potential: Tensor, epsilon: Tensor, backend: str
) -> Tensor:
    """The source potential that an update makes of the target's, (B, \\*target_shape)."""
    scale = epsilon.view(-1, *(1,) * (mass.ndim - 1)).to(mass)
    h = mass.log() + potential / scale
    structure, costs = costs_on(geom, mass.device)
    if structure == "stationary":
        lse = stationary_lse(h, *costs, 1, geom.shape, epsilon.to(h), backend=backend)
    else:
        lse = _separable(h, costs, epsilon, geom.max_cost, backend)
    return -scale * lse


def prolong(level: Coarser, h: Tensor, epsilon: Tensor, finer: Geometry, backend: str) -> Tensor:
    """Log-sum-exp of ``h`` on a level's source at the target points of the finer geometry.

    ``h`` spans no more than the costs in units of epsilon and the masses do.
    """
    cost = level.prolongation
    if isinstance(cost, LineCost):
        table, row_class = (placed(x, h.device) for x in (cost.table, cost.row_class))
        shape = finer.target_shape
        return stationary_lse(h, table, row_class, cost.step, shape, epsilon, backend=backend)
    if isinstance(cost, Tensor):
        flat = dense_lse(h.flatten(1), placed(cost, h.device), epsilon, 1.1 * finer.max_cost)
        return flat.unflatten(1, finer.target_shape)
    return _separable(h, cost, epsilon, finer.max_cost, backend)


def _separable(
    h: Tensor, costs: tuple[Tensor, ...], epsilon: Tensor, largest: float, backend: str
) -> Tensor:
    if len(costs) == 2 and in_range(epsilon, largest):
        return separable_product_lse(h, [placed(c, h.device) for c in costs], epsilon)
    return separable_lse(
        h, [placed(c, h.device, h.dtype) for c in costs], epsilon.to(h), backend=backend
    )
