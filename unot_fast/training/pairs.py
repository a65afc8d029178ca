"""Batches of pairs with their targets, each a function of the seed and its place alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unot_fast.geometry import Sphere
from unot_fast.models import UNOT, Generator
from unot_fast.models.inputs import Inputs, centred, iterate
from unot_fast.models.level import Level
from unot_fast.solver.dispatch import backend_for, solve
from unot_fast.training.config import TrainingConfig
from unot_fast.training.measures import RandomMeasures
from unot_fast.training.processes import random_at


@dataclass(frozen=True, eq=False)
class Batch:
    """Pairs on a network's own grid.

    Attributes
    ----------
    a, b : Tensor, shape (B, m_1, m_2)
        Masses of total 1.
    level : Level
    epsilon : Tensor, shape (B,)
    inputs : Inputs
        Of the network.
    target : Tensor, shape (B, m_1, m_2), optional
        Potential g in units of epsilon, of mean zero under b.
    """

    a: Tensor
    b: Tensor
    level: Level
    epsilon: Tensor
    inputs: Inputs
    target: Tensor | None

    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.a, self.b, self.epsilon, *self.inputs, self.target

    def of(self, a, b, epsilon, planes, scalars, start, target) -> Batch:
        """One with other `tensors`, on the same level."""
        return Batch(a, b, self.level, epsilon, Inputs(planes, scalars, start), target)


class Pairs:
    """Source of batches for a model.

    Parameters
    ----------
    model : UNOT
        What the batches are for; only its configuration and `UNOT.inputs` are used.
    config : TrainingConfig
    adversary : Generator, optional
        Where part of the measures come from.
    """

    def __init__(self, model: UNOT, config: TrainingConfig, adversary: Generator | None = None):
        self.model, self.config, self.adversary = model, config, adversary
        self.device = next(model.parameters()).device
        self._sources: dict[tuple[int, ...], RandomMeasures] = {}

    def random(self, *place: int) -> torch.Generator:
        """Random numbers of one place of the training, on the CPU so that all devices agree."""
        return random_at(self.config.seed, *place)

    def resolution(self, generator: torch.Generator) -> int:
        low, high = self.config.resolutions
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    def level(self, n: int) -> Level:
        """The network's grid for the square grid of n x n points, or the sphere of n x 2n."""
        sphere = self.model.config.cost == "geodesic"
        return self.model.level(self.model.geometry((n, 2 * n) if sphere else (n, n)))

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator, n: int | None = None) -> Batch:
        """A batch of so many pairs, of a random resolution if none is given."""
        level = self.level(self.resolution(generator) if n is None else n)
        made = round(count * self.config.adversary) if self.adversary is not None else 0
        sides = []
        if made:
            sides.append(self.made(self.noise(made, generator), level))
        if made < count:
            sides.append(self._random_pairs(count - made, generator, level))
        a, b = (torch.cat(side) for side in zip(*sides, strict=True))
        return self.batch(a, b, level, self.epsilons(count, generator, level))

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """What the adversary makes pairs of."""
        n = self.adversary.noise
        return torch.randn((count, 2, n, n), generator=generator).to(self.device)

    def made(self, z: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Pairs from the adversary, on the network's grid; they carry its gradient."""
        a, b = self.adversary.pair(z, level.grid.shape)
        return level.pool(a), level.pool(b)

    def epsilons(self, count: int, generator: torch.Generator, level: Level) -> Tensor:
        """Those of the network's grid, for log-uniform ones of the measures' grid."""
        low, high = (math.log(x * level.domain) for x in self.model.config.epsilon)
        share = torch.rand(count, generator=generator, dtype=torch.float64)
        return level.epsilon((low + (high - low) * share).exp()).to(self.device)

    def batch(self, a: Tensor, b: Tensor, level: Level, epsilon: Tensor) -> Batch:
        inputs = self.model.inputs(a, b, level, epsilon)
        batch = Batch(a, b, level, epsilon, inputs, None)
        if self.config.loss == "converged":
            batch = replace(batch, target=solution(batch, self.config.iterations))
        return batch

    def _random_pairs(
        self, count: int, generator: torch.Generator, level: Level
    ) -> tuple[Tensor, Tensor]:
        key = level.grid.shape
        if key not in self._sources:
            self._sources[key] = RandomMeasures(level.geom, self.device)
        # Each measure serves in several pairs: it costs more than they do.
        measures = self._sources[key](max(2, count // 2), generator)
        i, j = (torch.randint(len(measures), (count,), generator=generator) for _ in "ab")
        return measures[i], measures[j]


def solution(batch: Batch, iterations: int) -> Tensor:
    """Converged potentials, in units of epsilon, of mean zero under b."""
    scale = batch.epsilon.to(batch.a)[:, None, None]
    backend = backend_for("auto", batch.level.geom, batch.a.device)
    solved = solve(
        batch.a, batch.b, batch.level.geom, batch.epsilon, batch.inputs.start * scale,
        tol=1e-3, criterion="marginal", max_iter=iterations, overrelaxation=None, backend=backend,
    )  # fmt: skip
    return centred(solved.g, batch.b) / scale


def bootstrap(batch: Batch, prediction: Tensor, iterations: int) -> Tensor:
    """Potentials after some iterations from a prediction, in units of epsilon, of mean zero."""
    scale = batch.epsilon.to(batch.a)[:, None, None]
    backend = backend_for("auto", batch.level.geom, batch.a.device)
    g = prediction.detach().to(batch.a) * scale
    g = iterate(batch.a, batch.b, batch.level.geom, batch.epsilon, g, iterations, backend).g
    return centred(g, batch.b) / scale


def symmetries(level: Level) -> int:
    """How many symmetries `moved` knows of a grid."""
    if isinstance(level.geom, Sphere):
        return 4 * level.geom.shape[1] if level.coarser is not None else 4
    return 8 if level.geom.shape[0] == level.geom.shape[1] else 4


def moved(x: Tensor, level: Level, which: int) -> Tensor:
    """Functions (..., m_1, m_2) in one of the symmetries of the grid.

    In the plane the flips and the transpose, on the sphere the flips and the turns about its axis.
    """
    dims = [d for d, bit in ((-1, 1), (-2, 2)) if which & bit]
    x = x.flip(dims) if dims else x
    if isinstance(level.geom, Sphere):
        return x.roll(which // 4, -1)
    return x.transpose(-1, -2).contiguous() if which & 4 else x


def moved_batch(batch: Batch, which: int) -> Batch:
    inputs = batch.inputs._replace(
        planes=moved(batch.inputs.planes, batch.level, which),
        start=moved(batch.inputs.start, batch.level, which),
    )
    target = None if batch.target is None else moved(batch.target, batch.level, which)
    a, b = (moved(x, batch.level, which) for x in (batch.a, batch.b))
    return replace(batch, a=a, b=b, inputs=inputs, target=target)
