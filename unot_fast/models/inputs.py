"""What a transport network takes in, on scales that do not depend on the resolution."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unot_fast.geometry import Geometry, Sphere, Structure
from unot_fast.geometry.base import placed
from unot_fast.models.level import Level
from unot_fast.ops import Solution, normalise
from unot_fast.ops.folding import all_values
from unot_fast.solver.dispatch import backend_for, solve
from unot_fast.solver.gaussian import gaussian_start
from unot_fast.solver.multiscale import Pyramid, solve_multiscale

DUST = 1e-6  # smallest density, relative to the uniform one
_WEIGHT = 1.5  # of the overrelaxed sweeps, all but the last
_ONE_LEVEL = Pyramid(coarsest=2**30, tol=0.0)


class Inputs(NamedTuple):
    """Inputs of a network.

    Attributes
    ----------
    planes : Tensor, shape (B, C, m_1, m_2)
        Roots and logarithms of the densities relative to the uniform one, of source and target;
        then, as far as they are asked for, potentials in units of epsilon, without their means:
        g of the start, f beside it, and the last change of g.
    scalars : Tensor, shape (B, 1)
        Logarithm of epsilon, relative to `Level.unit`.
    start : Tensor, shape (B, m_1, m_2)
        The potential g that the network corrects, in units of epsilon.
    """

    planes: Tensor
    scalars: Tensor
    start: Tensor


def count(cost: str, sweeps: int) -> int:
    """Planes there are."""
    return 4 + (cost == "sqeuclidean" or sweeps > 0) + 2 * (sweeps > 0)


def inputs(
    a: Tensor, b: Tensor, level: Level, epsilon: Tensor, sweeps: int, backend: str = "auto"
) -> Inputs:
    """Inputs of a network, for masses (B, m_1, m_2) on its grid and epsilon (B,).

    The start is the potential of Gaussians where the cost is :math:`|x - y|^2`, otherwise zero,
    after some iterations. Only the densities carry a gradient.
    """
    area = _areas(level.geom, a)
    densities = [x / area for x in (a, b)]
    planes = [x.sqrt() for x in densities] + [x.log() / 3 for x in densities]
    with torch.no_grad():
        epsilon = epsilon.double()
        f, g, change = _sweep(a.detach(), b.detach(), level.geom, epsilon, sweeps, backend)
        scale = epsilon.to(a)[:, None, None]
        g = centred(g, b) / scale
        if sweeps or has_gaussian(level.geom):
            planes.append(g / 10)
        if sweeps:
            planes += [centred(f, a) / (10 * scale), centred(change, b) / (3 * scale)]
    scalars = (epsilon / level.unit).log().to(a)[:, None]
    return Inputs(torch.stack(planes, 1), scalars, g)


def masses(mu: Tensor, nu: Tensor) -> tuple[Tensor, Tensor]:
    """Measures (B, n_1, n_2) scaled to a total of 1.

    Raises
    ------
    ValueError
        One is none.
    """
    done = None if torch.compiler.is_compiling() else normalise(mu, nu, 2, validate=True)
    if done is not None:
        return done.masses
    scaled = []
    for name, x in (("mu", mu), ("nu", nu)):
        total = x.sum((-2, -1), keepdim=True)
        if not torch.compiler.is_compiling():
            x_, total_ = all_values(x), all_values(total)
            if not bool((x_ >= 0).all() & (total_ > 0).all() & total_.isfinite().all()):
                raise ValueError(f"{name} must be finite, non-negative and not zero everywhere")
        scaled.append(x / total)
    return scaled[0], scaled[1]


def centred(g: Tensor, mass: Tensor) -> Tensor:
    """Without its mean under a measure."""
    return g - (g * mass).sum((-2, -1), keepdim=True)


def has_gaussian(geom: Geometry) -> bool:
    return geom.structure is Structure.SEPARABLE and geom.p == 2


def _sweep(
    a: Tensor, b: Tensor, geom: Geometry, epsilon: Tensor, sweeps: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Potentials f and g after some iterations, and the last change of g."""
    backend = backend_for(backend, geom, a.device)
    if sweeps == 0:
        g = gaussian_start(a, b, geom, epsilon) if has_gaussian(geom) else torch.zeros_like(b)
        return torch.zeros_like(a), g.to(a), torch.zeros_like(b)
    before = torch.zeros_like(b)
    if has_gaussian(geom) and backend in ("cpu", "cuda"):  # one call of a compiled library
        options = _options(max(sweeps - 1, 1), backend, _WEIGHT)
        if sweeps > 1:
            before = solve_multiscale(a, b, geom, epsilon, _ONE_LEVEL, **options)[0].g
        else:
            before = gaussian_start(a, b, geom, epsilon).to(b)
    else:
        if has_gaussian(geom):
            before = gaussian_start(a, b, geom, epsilon).to(b)
        if sweeps > 1:
            before = sweep(a, b, geom, epsilon, before, sweeps - 1, backend)
    after = iterate(a, b, geom, epsilon, before, 1, backend)
    return after.f, after.g, after.g - before


def iterate(
    a: Tensor, b: Tensor, geom: Geometry, epsilon: Tensor, g: Tensor, count: int, backend: str
) -> Solution:
    """Plain Sinkhorn iterations from g."""
    return solve(a, b, geom, epsilon, g, **_options(count, backend))


@torch.no_grad()
def sweep(
    a: Tensor, b: Tensor, geom: Geometry, epsilon: Tensor, g: Tensor, count: int, backend: str,
    weight: float = _WEIGHT,
) -> Tensor:  # fmt: skip
    """The potential g after overrelaxed iterations."""
    return solve(a, b, geom, epsilon, g, **_options(count, backend, weight)).g


def _options(count: int, backend: str, weight: float = 1.0) -> dict:
    return {
        "tol": 0.0,
        "criterion": "marginal",
        "max_iter": count,
        "overrelaxation": weight,
        "backend": backend,
    }


def _areas(geom: Geometry, like: Tensor) -> Tensor | float:
    """Share of every point in the uniform measure."""
    if isinstance(geom, Sphere) and geom.weights is not None:
        weights = placed(geom.weights, like.device)
        return (weights / weights.sum()).to(like)
    return 1 / like[0].numel()
