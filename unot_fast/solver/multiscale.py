"""The start from a pyramid of coarser problems."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unot_fast.geometry import Coarser, Geometry, Grid, Structure
from unot_fast.geometry.base import lasting
from unot_fast.geometry.cells import blocks, pooled, spread
from unot_fast.geometry.numbers import is_integer, is_size
from unot_fast.ops import Solution, sinkhorn_multiscale
from unot_fast.ops.compiling import constant_object_when_compiled, constant_when_compiled
from unot_fast.solver.dispatch import costs_on, prolong, solve
from unot_fast.solver.gaussian import gaussian_start


@dataclass(frozen=True)
class Pyramid:
    """Settings of the multiscale start.

    Attributes
    ----------
    coarsest : int
        Axes are halved while they are longer than this.
    tol : float, optional
        Each level stops at this marginal error. Default: where the solve itself stops, but within
        1e-3 and 1e-2: a finer one does not pay, and a coarser one costs iterations on the grid.
        It is 1e-3 for a solve that stops by the cost or at ``max_iter``.
    max_iter : int
        Most iterations on a level.
    resolution : float
        A level with spacing h is solved at an epsilon of at least ``resolution * h**2``: a grid
        that cannot resolve ``sqrt(epsilon)`` gains nothing from a smaller one. Where the cost is a
        distance, of at least ``resolution * h / 4``.
    """

    coarsest: int = 8
    tol: float | None = None
    max_iter: int = 200
    resolution: float = 0.4

    def __post_init__(self) -> None:
        for name in ("coarsest", "max_iter"):
            if not is_integer(n := getattr(self, name)):
                raise ValueError(f"{name} must be a positive integer; got {n!r}")
        if self.tol is not None and not is_size(self.tol):
            raise ValueError(f"tol must be None or a finite number >= 0; got {self.tol!r}")
        if not is_size(self.resolution):
            raise ValueError(f"resolution must be a finite number >= 0; got {self.resolution!r}")

    def of_solve(self, tol: float, criterion: str) -> Pyramid:
        """The settings for a solve with these options."""
        if self.tol is not None:
            return self
        return replace(self, tol=min(max(tol, 1e-3), 1e-2) if criterion == "marginal" else 1e-3)


def multiscale_start(
    a: Tensor, b: Tensor, geom: Geometry, epsilon: Tensor, backend: str, pyramid: Pyramid
) -> tuple[Tensor, Tensor]:
    r"""Solve coarser problems, each from the one below it, and evaluate the last on the grid.

    A coarse cell is a block of pixels, fractional at the borders: its mass is their sum, its
    coordinate their mean. From a level to the next the potential goes by the half-step of
    Sinkhorn's iteration with the rectangular kernel,
    :math:`g(y) = -\varepsilon \log \sum_X a(X) e^{(f(X) - C(X, y)) / \varepsilon}`, which is exact
    wherever it is evaluated, instead of an interpolation. Under :math:`|x - y|^2` the epsilon of a
    level is smaller by what its cells blur (see `unot_fast.geometry.Coarser`).

    Parameters
    ----------
    a, b : Tensor, shapes (B, n_1, ..., n_d) and (B, m_1, ..., m_d)
        Masses that sum to 1.
    geom : Grid
    epsilon : Tensor, shape (B,)
    backend : str
    pyramid : Pyramid
        With a ``tol``.

    Returns
    -------
    g : Tensor, shape of b
        In units of cost.
    work : Tensor, shape (B,)
        Arithmetic of the coarse solves, in iterations on the grid of ``geom``.
    """
    levels = _levels(geom, pyramid.coarsest)
    masses = [(a, b)]
    for level in levels:  # from fine to coarse
        mass_a, mass_b = masses[-1]
        masses.append((pooled(mass_a, level.pool_source), pooled(mass_b, level.pool_target)))
    epsilons = [epsilon, *(level.epsilon(epsilon, pyramid.resolution) for level in levels)]
    coarsest = levels[-1].geom if levels else geom
    if _has_gaussian_start(geom):
        g = gaussian_start(*masses[-1], coarsest, epsilons[-1]).to(a.dtype)
    else:
        g = torch.zeros_like(masses[-1][1])
    work = torch.zeros_like(epsilon)
    finer = [geom, *(level.geom for level in levels)]
    for level, above in zip(reversed(levels), reversed(finer[:-1]), strict=True):
        (mass_a, mass_b), own = masses.pop(), epsilons.pop()
        solution = solve(
            mass_a,
            mass_b,
            level.geom,
            own,
            g,
            tol=pyramid.tol,
            criterion="marginal",
            max_iter=pyramid.max_iter,
            overrelaxation=None,
            backend=backend,
        )
        work = work + (solution.n_iters.double() + 0.5) * _relative_work(level, geom)
        # The c-transform at the points of the next finer level.
        between = level.epsilon_between(epsilon, own).to(a)
        scale = between.view(-1, *(1,) * geom.ndim)
        h = mass_a.log() + solution.f / scale
        g = -scale * prolong(level, h, between, above, backend)
    return g, work


def solve_multiscale(
    a: Tensor,
    b: Tensor,
    geom: Grid,
    epsilon: Tensor,
    pyramid: Pyramid,
    *,
    tol: float,
    criterion: str,
    max_iter: int,
    overrelaxation: float | None,
    backend: str,
) -> tuple[Solution, Tensor]:
    """`multiscale_start` and the solve from it in one call of a compiled library."""
    levels = _levels(geom, pyramid.coarsest)
    return sinkhorn_multiscale(
        a,
        b,
        costs_on(geom, a.device)[1],
        epsilon,
        matrices=_matrices(geom, pyramid.coarsest, a.device),
        level_shapes=[n for level in levels for n in (*level.geom.shape, *level.geom.target_shape)],
        level_epsilons=_level_epsilons(levels, pyramid),
        level_work=_level_work(geom, pyramid.coarsest),
        gaussian=_has_gaussian_start(geom),
        level_tol=pyramid.tol,
        level_max_iter=pyramid.max_iter,
        tol=tol,
        criterion=criterion,
        max_iter=max_iter,
        overrelaxation=overrelaxation,
        backend=backend,
    )


def _has_gaussian_start(geom: Geometry) -> bool:
    return geom.structure is Structure.SEPARABLE and geom.p == 2


def _level_epsilons(levels: list[Coarser], pyramid: Pyramid) -> list[float]:
    """The smallest epsilon of each level, its blur and that of the prolongation."""
    return [
        value
        for level in levels
        for value in (pyramid.resolution * level.resolved, level.blur, level.blur_between)
    ]


@constant_object_when_compiled
def _levels(geom: Geometry, coarsest: int) -> list[Coarser]:
    """Coarser geometries, the finest first; made once per geometry."""
    cache = geom.__dict__.setdefault("_pyramid_levels", {})
    if coarsest not in cache:
        separable = geom.structure is Structure.SEPARABLE
        cache[coarsest] = (_separable_levels if separable else _halved_levels)(geom, coarsest)
    return cache[coarsest]


def _halved_levels(geom: Geometry, coarsest: int) -> list[Coarser]:
    levels, finest = [], geom
    while max(*finest.shape, *finest.target_shape) >= 1.5 * coarsest:
        levels.append(finest.halved())
        finest = levels[-1].geom
    return levels


@lasting
def _separable_levels(geom: Grid, coarsest: int) -> list[Coarser]:
    source, target = _halvings(geom.shape, coarsest), _halvings(geom.target_shape, coarsest)
    depth = max(len(source), len(target))
    # The side that is done first stays at its coarsest shape.
    source += [source[-1] if source else geom.shape] * (depth - len(source))
    target += [target[-1] if target else geom.target_shape] * (depth - len(target))
    x, y = geom.coordinates, geom.target_coordinates
    weights = [torch.ones_like(c) for c in (*x, *y)]  # pixels per cell
    spreads = [0.0] * len(weights)  # variance of the pixels of a cell, mean over all
    levels, fine = [], (geom.shape, geom.target_shape)
    for coarse in zip(source, target, strict=True):
        pools = [
            tuple(blocks(n, m) for n, m in zip(*shapes, strict=True))
            for shapes in zip(fine, coarse, strict=True)
        ]
        both = *pools[0], *pools[1]
        heavier = [pool @ w for pool, w in zip(both, weights, strict=True)]
        centres = [
            pool @ (w * c) / h
            for pool, w, c, h in zip(both, weights, (*x, *y), heavier, strict=True)
        ]
        finer_spread_y = sum(spreads[geom.ndim :])
        spreads = [
            s + spread(pool * w, centre, c)
            for s, pool, w, centre, c in zip(spreads, both, weights, centres, (*x, *y), strict=True)
        ]
        spread_x, spread_y = sum(spreads[: geom.ndim]), sum(spreads[geom.ndim :])
        # Of a Gaussian kernel, of variance epsilon / 2, and of the mean axis.
        per_spread = 2 / geom.ndim if geom.p == 2 else 0.0
        finer_y, x, y = y, centres[: geom.ndim], centres[geom.ndim :]
        grid = Grid.from_coordinates(x, y, geom.cost, p=geom.p if geom.cost == "lp" else None)
        levels.append(
            Coarser(
                grid,
                *pools,
                prolongation=tuple(
                    (t[:, None] - c).abs().pow(geom.p) for t, c in zip(finer_y, x, strict=True)
                ),
                resolved=max((float(c.diff().max()) for c in centres if len(c) > 1), default=0)
                ** 2,
                blur=per_spread * (spread_x + spread_y),
                blur_between=per_spread * (spread_x + finer_spread_y),
            )
        )
        weights, fine = heavier, coarse
    return levels


@constant_when_compiled
def _matrices(geom: Grid, coarsest: int, device: torch.device) -> Tensor:
    """All matrices of the levels in the order of `sinkhorn_multiscale`."""
    cache = geom.__dict__.setdefault("_pyramid_matrices", {})
    if (coarsest, device) not in cache:
        cache[coarsest, device] = _joined_matrices(geom, _levels(geom, coarsest)).to(device)
    return cache[coarsest, device]


@lasting
def _joined_matrices(geom: Grid, levels: list[Coarser]) -> Tensor:
    last = levels[-1].geom if levels else geom
    parts = [
        matrix
        for level in levels
        for kind in (
            level.geom.axis_costs,
            level.prolongation,
            level.pool_source,
            level.pool_target,
        )
        for matrix in kind
    ]
    parts += [*last.coordinates, *last.target_coordinates]
    return torch.cat([part.flatten() for part in parts])


@constant_when_compiled
def _level_work(geom: Grid, coarsest: int) -> list[float]:
    """Multiplications of an iteration on each level, in iterations on the grid."""
    cache = geom.__dict__.setdefault("_pyramid_work", {})
    if coarsest not in cache:
        cache[coarsest] = [_relative_work(level, geom) for level in _levels(geom, coarsest)]
    return cache[coarsest]


def _halvings(shape: tuple[int, ...], coarsest: int) -> list[tuple[int, ...]]:
    shapes = []
    while (halved := tuple(_halve(shape, coarsest))) != shape:
        shapes.append(shape := halved)
    return shapes


def _halve(shape: tuple[int, ...], coarsest: int) -> list[int]:
    # An axis just above the limit stays: halving it would lose more than it saves.
    return [(n + 1) // 2 if n >= 1.5 * coarsest else n for n in shape]


def _relative_work(level: Coarser, geom: Geometry) -> float:
    """Multiplications of an iteration on a level, in iterations on the grid."""
    return _iteration_work(level.geom) / _iteration_work(geom)


def _iteration_work(geom: Geometry) -> float:
    source, shape = geom.shape, list(geom.target_shape)
    if geom.structure is not Structure.SEPARABLE:  # every pair of points
        return 2.0 * math.prod(source) * math.prod(shape)
    work = 0.0
    for k in reversed(range(len(source))):  # each axis in turn, there and back
        work += math.prod(shape) * source[k]
        shape[k] = source[k]
    return 2 * work
