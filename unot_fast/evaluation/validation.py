"""The error of a network on real pairs, while it is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from unot_fast.evaluation.datasets import CELLS, pairs
from unot_fast.evaluation.protocol import Evaluation
from unot_fast.evaluation.starts import Start
from unot_fast.models import UNOT, UNOTConfig

_SEED = 0
_PLANAR_SIZE = 28  # of the published table


class CostError:
    """Mean relative error of the cost after a network and one plain iteration, over real pairs.

    The pairs are those of the published cells that the network's cost is for, in the plane at
    28 x 28, and epsilon is the network's default.

    Parameters
    ----------
    data : str or Path
        Folder of the image sets; cells without theirs are left out.
    config : UNOTConfig
        Of the networks.
    count : int
        Pairs of each cell.
    device : torch.device

    Attributes
    ----------
    cells : list of str
        Those that are there.
    missing : list of str
        Why others are not.

    Raises
    ------
    ValueError
        No cell is there.
    """

    def __init__(
        self,
        data: str | Path,
        config: UNOTConfig,
        count: int = 16,
        device: torch.device | str = "cpu",
    ):
        self.epsilon = config.default_epsilon
        self.cells: list[str] = []
        self.missing: list[str] = []
        self._evaluations: list[Evaluation] = []
        spherical = config.cost == "geodesic"
        for cell in (cell for cell in CELLS.values() if cell.spherical == spherical):
            cell = cell if spherical else dataclasses.replace(cell, cost=config.cost)
            n = cell.n if spherical else _PLANAR_SIZE
            try:
                mu, nu = (x.to(device) for x in pairs(cell, count, _SEED, n, data=data))
            except (OSError, ValueError, ModuleNotFoundError) as error:
                self.missing.append(f"{cell.name}: {error}")
                continue
            self._evaluations.append(Evaluation(mu, nu, cell.geometry(n), self.epsilon))
            self.cells.append(cell.name)
        if not self.cells:
            raise ValueError(f"data: {data} has no image sets: {'; '.join(self.missing)}")

    def __call__(self, model: UNOT) -> float:
        """The mean over all pairs whose reference converged."""
        errors = []
        for evaluation in self._evaluations:
            with torch.no_grad():
                g = model(evaluation.mu, evaluation.nu, evaluation.geom, self.epsilon)
            errors.append(evaluation.relative_errors(Start("network", g), 1)[0])
        return float(torch.cat(errors).nanmean())
