"""Float64 references and error measures, independent of the package and of the peers.

Potentials are relative to the measures and in units of cost:
``P(x, y) = a(x) b(y) exp((f(x) + g(y) - C(x, y)) / epsilon)``.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from bench.problems import Problem

_LARGEST_BLOCK = 2**24  # float64 entries of a log-sum-exp formed at once


def transport_cost(problem: Problem, f: Tensor, g: Tensor) -> Tensor:
    """``<C, P>`` of each pair, shape (B,), float64; NaN where a potential is not finite."""
    kernel = torch.exp(-problem.axis_cost / problem.epsilon)
    weighted = kernel * problem.axis_cost
    shift = (g.amax((-1, -2), keepdim=True) + g.amin((-1, -2), keepdim=True)) / 2
    u = problem.a * torch.exp((f + shift) / problem.epsilon)
    v = problem.b * torch.exp((g - shift) / problem.epsilon)
    return (u * (weighted @ v @ kernel + kernel @ v @ weighted)).sum((-1, -2))


def cost_error(problem: Problem, f: Tensor, g: Tensor) -> Tensor:
    """``|<C, P> - <C, P*>| / <C, P*>`` of each pair, shape (B,), P* being the solution."""
    reference = converged_cost(problem)
    return (transport_cost(problem, f, g) - reference).abs() / reference


@functools.cache
def converged_cost(problem: Problem) -> Tensor:
    """``<C, P>`` at a marginal error of 1e-9, shape (B,).

    Raises
    ------
    RuntimeError
        Some pair did not get there in 20 000 iterations.
    """
    for k, (u, v, cost, error) in enumerate(_scalings(problem, torch.zeros_like(problem.b), 1.5)):
        if not bool(u.isfinite().all() and v.isfinite().all()):
            raise RuntimeError(f"the reference left float64's range on {problem.name}")
        if bool((error <= 1e-9).all()):
            return cost
        if k >= 20_000:
            break
    raise RuntimeError(
        f"the reference did not converge on {problem.name}: {float(error.max()):.1e}"
    )


@functools.cache
def iterations_to(
    problem: Problem, tol: float, start: str, weight: float, relax_first: bool = False
) -> int | None:
    """Fewest iterations of fixed weight that bring every pair within ``tol`` of the cost.

    Parameters
    ----------
    start : {"measures", "ones"}
        ``g = 0`` relative to the measures, or scalings of one without them.
    weight : float
        Overrelaxation of every update; the first one of f is plain unless ``relax_first``.

    Returns
    -------
    int or None
        None where 500 are not enough or the iteration diverges.
    """
    reference = converged_cost(problem)
    g = start_potential(problem, start)
    for k, (*_, cost, _) in enumerate(_scalings(problem, g, weight, start, relax_first), 1):
        error = (cost - reference).abs() / reference
        if bool((error <= tol).all()):
            return k
        if k >= 500 or not bool(error.isfinite().all()):
            return None
    return None


def start_potential(problem: Problem, start: str) -> Tensor:
    """Relative potential g of a named start, shape of ``b``."""
    if start == "measures":
        return torch.zeros_like(problem.b)
    if start == "ones":
        return -problem.epsilon * problem.b.log()
    raise ValueError(f"start must be 'measures' or 'ones'; got {start!r}")


def _scalings(
    problem: Problem,
    g: Tensor,
    weight: float,
    start: str = "measures",
    relax_first: bool = False,
):
    """Overrelaxed iterates as (u, v, <C, P>, marginal error), in the scaling domain."""
    a, b = problem.a, problem.b
    kernel = torch.exp(-problem.axis_cost / problem.epsilon)
    weighted = kernel * problem.axis_cost
    v = torch.exp(g / problem.epsilon)
    u = None
    if relax_first:
        u = torch.ones_like(a) if start == "measures" else 1 / a
    while True:
        plain = 1 / (kernel @ (b * v) @ kernel)
        u = plain if u is None else plain * (plain / u) ** (weight - 1)
        plain = 1 / (kernel @ (a * u) @ kernel)
        v = plain * (plain / v) ** (weight - 1)
        w = b * v
        rows = a * u * (kernel @ w @ kernel)
        error = (rows - a).abs().sum((-1, -2)) + (b * (v / plain - 1)).abs().sum((-1, -2))
        cost = (a * u * (weighted @ w @ kernel + kernel @ w @ weighted)).sum((-1, -2))
        yield u, v, cost, error


@functools.cache
def plain_potentials(problem: Problem, iterations: int) -> tuple[Tensor, Tensor]:
    """Potentials after plain iterations from ``g = 0``, by separable float64 log-sum-exp."""
    log_a, log_b = problem.a.log(), problem.b.log()
    h = torch.zeros_like(log_b)
    for _ in range(iterations):
        f = -log_sum_exp(log_b + h, problem.axis_cost / problem.epsilon)
        h = -log_sum_exp(log_a + f, problem.axis_cost / problem.epsilon)
    return problem.epsilon * f, problem.epsilon * h


def potential_error(
    problem: Problem, solution: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]
) -> float:
    """Largest difference of the potentials in nats, their free constant fixed by <g, b> = 0."""
    worst = 0.0
    centred = []
    for f, g in (solution, reference):
        shift = (g * problem.b).sum((-1, -2), keepdim=True)
        centred.append((f + shift, g - shift))
    for x, y in zip(*centred, strict=True):
        worst = max(worst, float((x - y).abs().max()) / problem.epsilon)
    return worst


def log_sum_exp(h: Tensor, cost: Tensor) -> Tensor:
    """``log sum_jk exp(h[b, j, k] - cost[i, j] - cost[l, k])``: rows, then columns."""
    rows = max(1, _LARGEST_BLOCK // (h.shape[-1] * cost.shape[0]))

    def lines(x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out = [torch.logsumexp(part[:, None, :] - cost, -1) for part in flat.split(rows)]
        return torch.cat(out).reshape(x.shape)

    return lines(lines(h).mT).mT
