"""One-step errors over resolutions and epsilons."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from unot_fast.evaluation.datasets import PUBLISHED_DUST, Cell, pairs
from unot_fast.evaluation.protocol import Evaluation
from unot_fast.evaluation.starts import Start


@dataclass
class Sweep:
    """Mean relative errors after one iteration.

    Attributes
    ----------
    starts, cells : list of str
        Their names.
    resolutions : list of int
    epsilons : list of float
    errors : Tensor, shape (starts, cells, resolutions, epsilons)
        NaN where a start is not for these problems, or no reference converged.
    notes : list of str
        Why a start was not measured, and references that did not converge.
    """

    starts: list[str]
    cells: list[str]
    resolutions: list[int]
    epsilons: list[float]
    errors: Tensor
    notes: list[str] = field(default_factory=list)

    def records(self) -> list[dict]:
        """One record per number."""
        return [
            {"start": start, "cell": cell, "n": n, "epsilon": epsilon,
             "error": float(self.errors[s, c, r, e])}
            for s, start in enumerate(self.starts)
            for c, cell in enumerate(self.cells)
            for r, n in enumerate(self.resolutions)
            for e, epsilon in enumerate(self.epsilons)
        ]  # fmt: skip


def sweep(
    cells: Sequence[Cell],
    starts: Sequence[Start],
    resolutions: Sequence[int],
    epsilons: Sequence[float],
    *,
    count: int,
    seed: int,
    dust: float = PUBLISHED_DUST,
    data: str | Path | None = None,
    device: str | torch.device = "cpu",
    tick: Callable[[], object] = lambda: None,
) -> Sweep:
    """One-step errors of ``count`` pairs at every resolution and epsilon, from the same images.

    ``tick`` is called after every problem, all starts of it included; other arguments are those
    of `pairs`.
    """
    shape = len(starts), len(cells), len(resolutions), len(epsilons)
    out = Sweep(
        [s.name for s in starts], [c.name for c in cells], list(resolutions), list(epsilons),
        torch.full(shape, math.nan, dtype=torch.float64),
    )  # fmt: skip
    refused: dict[str, str] = {}
    unconverged = 0
    for c, cell in enumerate(cells):
        for r, n in enumerate(resolutions):
            mu, nu = (x.to(device) for x in pairs(cell, count, seed, n, dust, data))
            geom = cell.geometry(n)
            for e, epsilon in enumerate(epsilons):
                evaluation = Evaluation(mu, nu, geom, epsilon * cell.epsilon_unit)
                unconverged += evaluation.unconverged
                for s, start in enumerate(starts):
                    try:
                        errors = evaluation.relative_errors(start, 1)
                    except ValueError as error:
                        refused.setdefault(start.name, str(error))
                        continue
                    out.errors[s, c, r, e] = errors.nanmean()
                tick()
    out.notes += [f"{name}, where there is no value: {why}." for name, why in refused.items()]
    if unconverged:
        out.notes.append(f"{unconverged} pairs left out, whose reference did not converge.")
    return out
