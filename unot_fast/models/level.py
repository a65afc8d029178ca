"""The grid that a network works on, and the way from and to that of the measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unot_fast.geometry import Coarser, Geometry, Grid, Sphere, Structure
from unot_fast.geometry.cells import pooled
from unot_fast.ops.compiling import constant_object_when_compiled
from unot_fast.solver.dispatch import half_step, prolong

_SQUARE = 1.15  # longest side by shortest
_RESOLUTION = 0.4  # as in the multiscale start: smallest epsilon in units of what cells resolve


@dataclass(frozen=True, eq=False)
class Level:
    """A grid for a network.

    Attributes
    ----------
    geom : Geometry
        What the network works on: cells, or the grid itself.
    unit : float
        Cost to which epsilon is relative: of neighbouring cells, or of the whole domain.
    domain : float
        Cost to which the range of epsilon is relative: 1 on the unit square and the unit sphere.
    coarser : Coarser, optional
        From the grid to the cells.
    grid : Geometry
        Of the measures.
    """

    geom: Geometry
    unit: float
    domain: float
    coarser: Coarser | None
    grid: Geometry

    @classmethod
    def of(cls, geom: Geometry, cells: Sequence[int] | None) -> Level:
        """That of a geometry; made once.

        Raises
        ------
        ValueError
            The geometry has other points on the target's side, or is far from square.
        """
        return _level(geom, None if cells is None else tuple(cells))

    @property
    def points(self) -> int:
        """Of the network's grid."""
        return math.prod(self.geom.shape)

    def epsilon(self, epsilon: Tensor) -> Tensor:
        """That of the network's grid: smaller by what the cells blur, as far as they resolve it."""
        if self.coarser is None:
            return epsilon
        return self.coarser.epsilon(epsilon, _RESOLUTION)

    def pool(self, x: Tensor) -> Tensor:
        """Masses (B, n_1, n_2) on the cells."""
        return x if self.coarser is None else pooled(x, self.coarser.pool_source)

    def to_grid(self, a: Tensor, b: Tensor, g: Tensor, epsilon: Tensor, backend: str) -> Tensor:
        """Potential g of the cells, whose masses are a and b, on the grid: exact half-steps."""
        if self.coarser is None:
            return g
        own = self.epsilon(epsilon)
        f = half_step(self.geom, b, g, own, backend)
        between = self.coarser.epsilon_between(epsilon, own)
        scale = between.to(a)[:, None, None]
        h = a.log() + f / scale
        return -scale * prolong(self.coarser, h, between.to(a), self.grid, backend)


@constant_object_when_compiled
def _level(geom: Geometry, cells: tuple[int, ...] | None) -> Level:
    cache = geom.__dict__.setdefault("_network_levels", {})
    if cells not in cache:
        cache[cells] = _make_level(geom, cells)
    return cache[cells]


def _make_level(geom: Geometry, cells: tuple[int, ...] | None) -> Level:
    whole = math.pi if isinstance(geom, Sphere) else 2.0
    if geom.structure is not Structure.SEPARABLE and not isinstance(geom, Sphere):
        whole = math.sqrt(2)
    domain = geom.max_cost / whole
    if isinstance(geom, Grid):
        _check_square(geom)
    if cells is None:
        return Level(geom, domain, domain, None, geom)
    coarser = geom.cells(cells)
    return Level(coarser.geom, coarser.resolved, domain, coarser, geom)


def _check_square(geom: Grid) -> None:
    same = map(torch.equal, geom.coordinates, geom.target_coordinates)
    if geom.shape != geom.target_shape or not all(same):
        raise ValueError("geom must have the same points on either side")
    # From the outer border of the first pixel to that of the last.
    sides = [float(c[-1] - c[0]) * len(c) / max(len(c) - 1, 1) for c in geom.coordinates]
    long, short = max(sides), min(sides)
    if long > _SQUARE * short:
        raise ValueError(
            f"geom must be about square, as in the training; its sides are {long:.3g} and "
            f"{short:.3g}"
        )
