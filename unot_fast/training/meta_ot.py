"""Training of Meta OT, by the dual objective alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from unot_fast.geometry import Grid
from unot_fast.models import MetaOT
from unot_fast.solver.dispatch import backend_for, half_step


def train_meta_ot(
    measures: Tensor,
    geom: Grid,
    epsilon: float = 0.01,
    *,
    steps: int | None = None,
    budget: float | None = None,
    batch: int = 128,
    width: int = 1024,
    learning_rate: float = 1e-3,
    seed: int = 0,
    report: Callable[[int, float], None] | None = None,
) -> MetaOT:
    r"""Train the network of Meta OT on random pairs of the measures.

    Adam ascends the mean of `semidual`; its rate falls to zero along a cosine. No problem is
    solved.

    Parameters
    ----------
    measures : Tensor, shape (N, n_1, n_2)
        Of total 1 and positive everywhere.
    geom : Grid
    epsilon : float
    steps : int, optional
        With it the result is a function of the arguments.
    budget : float, optional
        Seconds, instead; the rate follows the clock.
    batch : int
        Pairs per step.
    width : int
        Of the network's hidden layers.
    learning_rate : float
    seed : int
    report : callable, optional
        Called after every step with its number and objective.

    Returns
    -------
    MetaOT
        For inference.
    """
    if (steps is None) == (budget is None):
        raise ValueError("steps: give either steps or budget")
    if tuple(measures.shape[1:]) != geom.shape or len(measures) == 0:
        raise ValueError(f"measures must have shape (N, *{geom.shape}); got {measures.shape}")
    if not bool((measures > 0).all()):
        raise ValueError("measures must be positive everywhere")
    measures = measures.float()
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MetaOT(geom, epsilon, width).to(measures.device)
    optimiser = torch.optim.Adam(model.parameters(), learning_rate)
    step, start = 0, time.perf_counter()
    while (done := step / steps if steps else (time.perf_counter() - start) / budget) < 1:
        optimiser.param_groups[0]["lr"] = 0.5 * learning_rate * (1 + math.cos(math.pi * done))
        a, b = measures[torch.randint(len(measures), (2, batch), generator=random)]
        f = model.predict(a, b)
        objective, gradient = semidual(a, b, geom, epsilon, f.detach())
        optimiser.zero_grad(set_to_none=True)
        # Linear in f, with the gradient of the objective: it is known without a graph.
        (-(f * gradient).sum() / batch).backward()
        optimiser.step()
        step += 1
        if report is not None:
            report(step, float(objective.mean()))
    return model.requires_grad_(False).eval()


@torch.no_grad()
def semidual(a: Tensor, b: Tensor, geom: Grid, epsilon: float, f: Tensor) -> tuple[Tensor, Tensor]:
    r"""Semi-dual objective of the entropic problem, and its gradient in f.

    With g the half-step of Sinkhorn's iteration from f the plan has the marginal b, and

    .. math:: J(f) = \langle f, a \rangle + \langle g(f), b \rangle, \qquad
        \nabla J(f) = a - P 1 = a \, (1 - e^{(f - f') / \varepsilon})

    with :math:`f'` the half-step from g. The maximum over f is the value of the entropic problem.

    Parameters
    ----------
    a, b : Tensor, shape (B, n_1, n_2)
        Masses of total 1, positive.
    geom : Grid
        With the same points on either side.
    epsilon : float
    f : Tensor, shape (B, n_1, n_2)

    Returns
    -------
    objective : Tensor, shape (B,)
    gradient : Tensor, shape (B, n_1, n_2)
    """
    backend = backend_for("auto", geom, a.device)
    of_each = torch.full((len(a),), epsilon, dtype=torch.float64, device=a.device)
    g = half_step(geom, a, f, of_each, backend)  # the costs are the same from either side
    after = half_step(geom, b, g, of_each, backend)
    objective = (f * a + g * b).flatten(1).sum(1)
    return objective, -a * torch.expm1((f - after) / epsilon)
