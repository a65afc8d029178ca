"""Pairs under a cost that is no sum over the axes, their truth, and the ways to solve them.

Nobody else has a solver for these grids, so the rivals take the dense cost matrix. One matrix
serves the whole batch: the products are those of a matrix with a block of columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import unot_fast
from bench import problems

Scalings = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class DenseProblem:
    """A batch of pairs and the geometry that they live on.

    Attributes
    ----------
    name : str
    a, b : Tensor, shape (B, *shape), float64
        Each of total mass 1.
    geom : unot_fast.Geometry
    epsilon : float
    """

    name: str
    a: Tensor
    b: Tensor
    geom: unot_fast.Geometry
    epsilon: float

    @functools.cached_property
    def cost(self) -> Tensor:
        return self.geom.cost_matrix()

    @functools.cached_property
    def kernel(self) -> Tensor:
        return torch.exp(-self.cost / self.epsilon)

    @functools.cached_property
    def weighted(self) -> Tensor:
        return self.kernel * self.cost

    def transport_cost(self, u: Tensor, v: Tensor) -> Tensor:
        """``<C, P>`` for ``P = diag(u) K diag(v)``, u and v of shape (points, B), float64."""
        return (u * (self.weighted @ v)).sum(0)

    @functools.cached_property
    def converged_cost(self) -> Tensor:
        """``<C, P>`` at a marginal error of 1e-9."""
        for u, v, error in iterate(self.kernel, *self.columns(torch.float64), 1.5):
            if bool((error <= 1e-9).all()):
                return self.transport_cost(u, v)
        raise AssertionError

    def columns(self, dtype: torch.dtype) -> Scalings:
        return tuple(x.flatten(1).T.contiguous().to(dtype) for x in (self.a, self.b))

    def error(self, u: Tensor, v: Tensor) -> Tensor:
        """Relative error of ``<C, P>`` of the first pairs, as many as there are columns."""
        reference = self.converged_cost[: u.shape[1]]
        return (self.transport_cost(u, v) - reference).abs() / reference

    def iterations(self, weight: float, tol: float, most: int = 300) -> int | None:
        """Fewest iterations that bring every pair within ``tol`` of the cost."""
        for k, (u, v, _) in enumerate(
            iterate(self.kernel, *self.columns(torch.float64), weight), start=1
        ):
            if bool((self.error(u, v) <= tol).all()):
                return k
            if k == most:
                return None
        raise AssertionError


def iterate(kernel: Tensor, a: Tensor, b: Tensor, weight: float):
    """Sinkhorn's scalings (u, v) and marginal errors, f first, from v = b."""
    u, v = None, b
    while True:
        s = kernel @ v
        new = a / s
        u = new if u is None or weight == 1.0 else new * (new / u).pow(weight - 1)
        s = kernel.T @ u
        new = b / s
        v = new if weight == 1.0 else new * (new / v).pow(weight - 1)
        error = (u * (kernel @ v) - a).abs().sum(0) + (v * s - b).abs().sum(0)
        yield u, v, error


@dataclass(frozen=True)
class Solve:
    """A prepared solve: ``launch()`` runs it, ``scalings(state)`` are the (u, v) it returned."""

    launch: Callable[[], object]
    scalings: Callable[[object], Scalings]
    pairs: int


def ours(problem: DenseProblem, dtype: torch.dtype, **options) -> Solve:
    a, b = problem.a.to(dtype), problem.b.to(dtype)
    geom, eps = problem.geom, problem.epsilon

    def scalings(result):
        f, g = (x.double().flatten(1).T / eps for x in (result.f, result.g))
        return torch.exp(f) * problem.a.flatten(1).T, torch.exp(g) * problem.b.flatten(1).T

    return Solve(lambda: unot_fast.sinkhorn(a, b, geom, eps, **options), scalings, len(a))


def torch_products(
    problem: DenseProblem, dtype: torch.dtype, iterations: int, weight: float
) -> Solve:
    """The kernel matrix times all columns, written by hand."""
    kernel = problem.kernel.to(dtype)
    a, b = problem.columns(dtype)

    def launch():
        u, v = None, b
        for _ in range(iterations):
            new = a / (kernel @ v)
            u = new if u is None or weight == 1.0 else new * (new / u).pow(weight - 1)
            new = b / (kernel.T @ u)
            v = new if weight == 1.0 else new * (new / v).pow(weight - 1)
        return u, v

    return Solve(launch, lambda state: tuple(x.double() for x in state), a.shape[1])


def ott(problem: DenseProblem, iterations: int, weight: float) -> Solve:
    """OTT-JAX on the cost matrix, float32 scaling mode, jit and vmap."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.acceleration import Momentum
    from ott.solvers.linear.sinkhorn import Sinkhorn

    eps = problem.epsilon
    momentum = {} if weight == 1.0 else {"momentum": Momentum(value=weight)}
    solver = Sinkhorn(
        lse_mode=False,
        min_iterations=iterations,
        max_iterations=iterations,
        inner_iterations=iterations,
        threshold=0.0,
        **momentum,
    )
    cost = jnp.asarray(problem.cost.float().numpy())

    def one(a, b):
        # OTT updates its second potential first; the cost is symmetric.
        out = solver(LinearProblem(Geometry(cost, epsilon=eps), a=b, b=a), init=(b, a))
        return out.g, out.f

    a, b = (jnp.asarray(x.flatten(1).float().numpy()) for x in (problem.a, problem.b))
    solve = jax.jit(jax.vmap(one))

    def scalings(state):
        return tuple(torch.exp(torch.from_numpy(np.array(x)).double().T / eps) for x in state)

    return Solve(lambda: jax.block_until_ready(solve(a, b)), scalings, len(problem.a))


def pot(problem: DenseProblem, iterations: int, weight: float) -> Solve:
    """POT on the cost matrix, float64, one pair."""
    import ot

    a, b = (x[0].flatten() for x in (problem.a, problem.b))

    def launch():
        _, log = ot.bregman.sinkhorn_knopp(
            b, a, problem.cost, problem.epsilon, numItermax=iterations, stopThr=0.0, warn=False,
            log=True, warmstart=(b.log(), a.log()),
        )  # fmt: skip
        return log

    return Solve(launch, lambda log: (log["v"][:, None], log["u"][:, None]), 1)


def euclidean(cell: str, epsilon: float, pairs: int = 32) -> DenseProblem:
    pair = problems.cell(cell, pairs)
    geom = unot_fast.Grid((pair.n, pair.n), "euclidean")
    return DenseProblem(f"{cell} |x-y|", pair.a, pair.b, geom, epsilon)


def published_sphere(cell: str, epsilon: float, pairs: int = 32) -> DenseProblem:
    pair = problems.cell(cell, pairs)
    return DenseProblem(
        f"{cell} arccos / 10", pair.a, pair.b, unot_fast.Sphere.published(pair.n), epsilon
    )


def sphere(nlat: int, nlon: int, epsilon: float, pairs: int = 32) -> DenseProblem:
    """Smooth random densities on an equiangular grid."""
    geom = unot_fast.Sphere(nlat, nlon)
    points = geom.points()
    rng = torch.Generator().manual_seed(0)

    def side() -> Tensor:
        centres = torch.randn(pairs, 6, 3, generator=rng, dtype=torch.float64)
        centres = centres / centres.norm(dim=-1, keepdim=True)
        bumps = torch.exp(8 * (torch.einsum("bkc,ijc->bkij", centres, points) - 1)).sum(1)
        mass = geom.masses(bumps + 1e-3)
        return mass / mass.sum((1, 2), keepdim=True)

    return DenseProblem(f"bumps arccos {nlat}x{nlon}", side(), side(), geom, epsilon)
