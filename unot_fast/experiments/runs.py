"""Fits of pairs whose optimal map is known, and how far they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from unot_fast.experiments.gaussians import GaussianPair
from unot_fast.experiments.metrics import cosine, l2_uvp
from unot_fast.experiments.tables import Table
from unot_fast.models import NeuralPotential
from unot_fast.neural_ot import NeuralOT, energy_distance, mmd, sliced_w2

HELD_OUT = 2**14  # points that no fit has seen
_MOVED = 4096  # points that a table is compared with: more than its test rows, for less noise


class Pair(Protocol):
    """Two measures and the optimal map between them."""

    dim: int
    source_variance: float
    target_variance: float

    def source(self, n: int, generator: torch.Generator) -> Tensor: ...

    def target(self, n: int, generator: torch.Generator) -> Tensor: ...

    def transport(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Outcome:
    """How good a fit is on points that it has not seen."""

    dim: int
    forward: float  # L2-UVP, %
    backward: float  # the same of the inverse map
    forward_cosine: float
    backward_cosine: float
    converged: float  # share of the inverse searches
    iterations: float  # gradients of an inverse search
    steps: int
    seconds: float


def judge(ot: NeuralOT, pair: Pair, seconds: float, seed: int = 12345) -> Outcome:
    """Both maps of a fit against the optimal ones, on fresh points."""
    x = pair.source(HELD_OUT, torch.Generator().manual_seed(seed))
    z = pair.transport(x)
    ahead, found = ot.transport(x), ot.conjugate(z)
    back = ot.units.source_back(found.y)
    return Outcome(
        dim=pair.dim,
        forward=l2_uvp(ahead, z, pair.target_variance),
        backward=l2_uvp(back, x, pair.source_variance),
        forward_cosine=cosine(x, ahead, z),
        backward_cosine=cosine(z, back, x),
        converged=float(found.converged.double().mean()),
        iterations=float(found.n_iters.double().mean()),
        steps=ot.history[-1].step,
        seconds=seconds,
    )


def fit_pair(
    pair: Pair,
    budget: float,
    *,
    seed: int = 0,
    quadratic: int | None = None,
    convex_g: bool = False,
    report: Callable | None = None,
    progress: bool = False,
) -> Outcome:
    """Fit a pair by the defaults, from fresh samples, and judge it.

    Parameters
    ----------
    pair : Pair
    budget : float
        Seconds.
    seed : int
    quadratic : int, optional
        Rank of the potential's quadratic term: full if None.
    convex_g : bool
        Keep g itself convex, and not only |x|^2/2 + g: the published constraint, whose maps
        contract nowhere, in the units of the data.
    """
    options = {"strong": 1.0} if convex_g else {}
    potential = NeuralPotential(pair.dim, quadratic=quadratic, seed=seed, **options)
    start = time.perf_counter()
    ot = NeuralOT(pair.dim, potential=potential, standardize=not convex_g, seed=seed)
    ot.fit(pair.source, pair.target, budget=budget, report=report, progress=progress)
    return judge(ot, pair, time.perf_counter() - start)


def fit_table(
    rows: Table, budget: float, *, seed: int = 0, progress: bool = False
) -> dict[str, float]:
    """Fit the map from a standard normal to the rows of a table, and judge it on its test rows.

    Returns
    -------
    dict
        ``mmd``, ``energy`` and ``sliced_w2`` between moved normals and test rows; the same of
        training rows, ``floor_...``, and of Gaussians with their mean and covariance,
        ``gaussian_...``; ``cycle``, the mean of |T(S(z)) - z|^2 on test rows over their variance;
        ``converged``, the share of their searches.
    """
    known = torch.cat((rows.train, rows.validation))
    ot = NeuralOT(rows.dim, seed=seed)

    def normal(n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, rows.dim, generator=generator)

    ot.fit(normal, known, budget=budget, progress=progress)
    random = torch.Generator().manual_seed(12345)
    test = rows.test[:_MOVED]
    x = normal(_MOVED, random)
    own = known[torch.randperm(len(known), generator=random)[:_MOVED]]
    root = torch.linalg.cholesky(torch.cov(known.T.double()) + 1e-6 * torch.eye(rows.dim).double())
    plain = known.mean(0) + x @ root.T.float()
    found: dict[str, float] = {}
    for name, points in (("", ot.transport(x)), ("floor_", own), ("gaussian_", plain)):
        found[f"{name}mmd"] = float(mmd(points, test))
        found[f"{name}energy"] = float(energy_distance(points, test))
        found[f"{name}sliced_w2"] = float(
            sliced_w2(points, test, generator=torch.Generator().manual_seed(0))
        )
    back = ot.conjugate(test)
    again = ot.transport(ot.units.source_back(back.y))
    found["cycle"] = float((again - test).square().sum(1).mean() / test.var(0).sum())
    found["converged"] = float(back.converged.double().mean())
    return found


def gaussian_pair(dim: int, seed: int, covariances: Path | None = None) -> GaussianPair:
    """A pair from a file with arrays ``d{dim}_Sigma0`` and ``d{dim}_Sigma1``, or a random one.

    Raises
    ------
    ValueError
        The file has none of this dimension.
    """
    if covariances is None:
        return GaussianPair.random(dim, seed)
    with np.load(covariances) as file:
        names = [f"d{dim}_Sigma{k}" for k in (0, 1)]
        if not set(names) <= set(file.files):
            raise ValueError(f"{covariances} has no {names[0]}")
        first, second = (torch.from_numpy(np.array(file[k], np.float64)) for k in names)
    return GaussianPair(first, second)


def table(outcomes: Iterable[Outcome]) -> str:
    """A Markdown table, several fits of one dimension in one row: mean and, if many, spread."""
    lines = [
        "| d | fits | forward UVP % | backward UVP % | cosine | inverse converged | gradients "
        "| steps | seconds |",
        "|" + "---|" * 9,
    ]
    by_dim: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        by_dim.setdefault(outcome.dim, []).append(outcome)
    for dim, group in sorted(by_dim.items()):

        def cell(name: str, digits: int, group: list[Outcome] = group) -> str:
            values = np.array([getattr(o, name) for o in group], np.float64)
            spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
            return f"{values.mean():.{digits}f}{spread}"

        lines.append(
            f"| {dim} | {len(group)} | {cell('forward', 4)} | {cell('backward', 4)} "
            f"| {cell('forward_cosine', 4)} | {np.mean([o.converged for o in group]):.2%} "
            f"| {np.mean([o.iterations for o in group]):.1f} "
            f"| {np.mean([o.steps for o in group]):.0f} "
            f"| {np.mean([o.seconds for o in group]):.0f} |"
        )
    return "\n".join(lines)
