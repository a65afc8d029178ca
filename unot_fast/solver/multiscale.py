"""The start from a pyramid of coarser problems."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unot_fast.geometry import Grid
from unot_fast.ops import separable_lse, sinkhorn_separable
from unot_fast.solver.gaussian import gaussian_start


@dataclass(frozen=True)
class Pyramid:
    """Settings of the multiscale start.

    Attributes
    ----------
    coarsest : int
        Axes are halved while they are longer than this.
    tol : float
        Each level stops at this marginal error.
    max_iter : int
        Most iterations on a level.
    resolution : float
        A level with spacing h is solved at ``max(epsilon, resolution * h**2)``: a grid that
        cannot resolve ``sqrt(epsilon)`` gains nothing from the smaller value.
    """

    coarsest: int = 8
    tol: float = 1e-3
    max_iter: int = 200
    resolution: float = 0.4


def multiscale_start(
    a: Tensor, b: Tensor, geom: Grid, epsilon: Tensor, backend: str, pyramid: Pyramid
) -> tuple[Tensor, Tensor]:
    r"""Solve coarser problems, each from the one below it, and evaluate the last on the grid.

    A coarse cell is a block of pixels, fractional at the borders: its mass is their sum, its
    coordinate their mean. From a level to the next the potential goes by the half-step of
    Sinkhorn's iteration with the rectangular kernel,
    :math:`g(y) = -\varepsilon \log \sum_X a(X) e^{(f(X) - C(X, y)) / \varepsilon}`, which is exact
    wherever it is evaluated, instead of an interpolation.

    Parameters
    ----------
    a, b : Tensor, shapes (B, n_1, ..., n_d) and (B, m_1, ..., m_d)
        Masses that sum to 1.
    geom : Grid
    epsilon : Tensor, shape (B,)
    backend : str
    pyramid : Pyramid

    Returns
    -------
    g : Tensor, shape of b
        In units of cost.
    work : Tensor, shape (B,)
        Arithmetic of the coarse solves, in iterations on the grid of ``geom``.
    """
    fine_work = _iteration_work(geom.shape, geom.target_shape)
    work = torch.zeros_like(epsilon)
    coarse_f = coarse_mass = below = None
    for level in _levels(geom, pyramid.coarsest):
        mass_a = _pool(a, level.pool_source)
        mass_b = _pool(b, level.pool_target)
        eps = epsilon.clamp_min(pyramid.resolution * level.spacing**2)
        if below is not None:
            g = _evaluate(coarse_f, coarse_mass, below, level.grid, last_eps, backend)
        elif geom.p == 2:
            g = gaussian_start(mass_a, mass_b, level.grid, eps).to(a.dtype)
        else:
            g = torch.zeros_like(mass_b)
        solution = sinkhorn_separable(
            mass_a,
            mass_b,
            _costs(level.grid, a),
            eps,
            g,
            tol=pyramid.tol,
            criterion="marginal",
            max_iter=pyramid.max_iter,
            overrelaxation=None,
            backend=backend,
        )
        share = _iteration_work(level.grid.shape, level.grid.target_shape) / fine_work
        work = work + (solution.n_iters + 0.5) * share
        coarse_f, coarse_mass, below, last_eps = solution.f, mass_a, level.grid, eps
    if below is None:
        g = gaussian_start(a, b, geom, epsilon).to(a.dtype) if geom.p == 2 else torch.zeros_like(b)
        return g, work
    return _evaluate(coarse_f, coarse_mass, below, geom, last_eps, backend), work


@dataclass(frozen=True)
class _Level:
    grid: Grid
    pool_source: tuple[Tensor, ...]
    pool_target: tuple[Tensor, ...]
    spacing: float


def _levels(geom: Grid, coarsest: int) -> list[_Level]:
    """Coarser grids, the coarsest first; made once per geometry."""
    cache = geom.__dict__.setdefault("_pyramid_levels", {})
    if coarsest not in cache:
        shapes = []
        source, target = geom.shape, geom.target_shape
        while True:
            halved = tuple(_halve(source, coarsest)), tuple(_halve(target, coarsest))
            if halved == (source, target):
                break
            source, target = halved
            shapes.append(halved)
        cache[coarsest] = [_coarsen(geom, *s) for s in reversed(shapes)]
    return cache[coarsest]


def _halve(shape: tuple[int, ...], coarsest: int) -> list[int]:
    # An axis just above the limit stays: halving it would lose more than it saves.
    return [(n + 1) // 2 if n >= 1.5 * coarsest else n for n in shape]


def _coarsen(geom: Grid, source: tuple[int, ...], target: tuple[int, ...]) -> _Level:
    pools = [
        tuple(_blocks(n, m) for n, m in zip(fine, coarse, strict=True))
        for fine, coarse in ((geom.shape, source), (geom.target_shape, target))
    ]
    coordinates = [
        [pool @ x / pool.sum(1) for pool, x in zip(pool_side, fine, strict=True)]
        for pool_side, fine in zip(
            pools, (geom.coordinates, geom.target_coordinates), strict=True
        )
    ]
    grid = Grid.from_coordinates(*coordinates, geom.cost, p=geom.p if geom.cost == "lp" else None)
    gaps = [float(x.diff().max()) for side in coordinates for x in side if len(x) > 1]
    return _Level(grid, *pools, max(gaps, default=0.0))


def _blocks(n: int, m: int) -> Tensor:
    """Share of each of n pixels that lies in each of m equal blocks, shape (m, n)."""
    edges = torch.linspace(0, n, m + 1, dtype=torch.float64)
    left = torch.arange(n, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], left + 1) - torch.maximum(edges[:-1, None], left)
    return overlap.clamp_min(0)


def _pool(x: Tensor, pools: tuple[Tensor, ...]) -> Tensor:
    for k, pool in enumerate(pools):
        if pool.shape[0] != pool.shape[1]:
            x = (x.movedim(k + 1, -1) @ pool.to(x).T).movedim(-1, k + 1)
    return x.contiguous()


def _evaluate(
    f: Tensor, mass: Tensor, source: Grid, target: Grid, epsilon: Tensor, backend: str
) -> Tensor:
    """The c-transform of a solution on ``source``, at the target points of ``target``."""
    costs = [
        (y[:, None] - x).abs().pow(source.p).to(f)
        for x, y in zip(source.coordinates, target.target_coordinates, strict=True)
    ]
    eps = epsilon.view(-1, *(1,) * (f.ndim - 1)).to(f)
    return -eps * separable_lse(mass.log() + f / eps, costs, epsilon.to(f), backend=backend)


def _costs(geom: Grid, like: Tensor) -> list[Tensor]:
    return [c.to(like) for c in geom.axis_costs]


def _iteration_work(source: tuple[int, ...], target: tuple[int, ...]) -> float:
    """Multiplications of one iteration: each axis in turn, there and back."""
    work, shape = 0.0, list(target)
    for k in reversed(range(len(source))):
        work += torch.Size(shape).numel() * source[k]
        shape[k] = source[k]
    return 2 * work
