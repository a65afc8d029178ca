"""Training of a potential by ascent of the dual."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unot_fast.models import NeuralPotential
from unot_fast.neural_ot.config import FitConfig
from unot_fast.neural_ot.discrepancy import by_class, energy_distance, mmd
from unot_fast.neural_ot.maps import Maps
from unot_fast.neural_ot.samples import Draw, Rows, Samples
from unot_fast.neural_ot.units import Units
from unot_fast.neural_ot.warm_starts import WarmStarts
from unot_fast.training import checkpoint
from unot_fast.training.processes import (
    from_first,
    own_shards,
    random_at,
    rank,
    sum_gradients,
    sum_of_processes,
)


@dataclass(frozen=True)
class Row:
    """A validation during a fit."""

    step: int
    seconds: float
    dual: float  # on points held back, of rows without the farthest; in units of the potential
    n_iters: float  # gradients of a search since the last row, in the mean
    left_out: float  # share of the points that were left out since then


class Fit:
    """A fit that can be stopped and gone on with.

    Parameters
    ----------
    maps : Maps
        Whose potential is trained in place; the rest of them helps the searches.
    units : Units
    source, target
        What `samples` makes.
    config : FitConfig

    Attributes
    ----------
    curvature : float
        The least of u at points held back, with the weights that are the result; see
        `Maps.least_curvature`.
    """

    def __init__(
        self, maps: Maps, units: Units, source: Samples, target: Samples, config: FitConfig
    ) -> None:
        self.maps, self.units, self.config = maps, units, config
        self.potential = potential = maps.potential
        self.average = copy.deepcopy(potential).requires_grad_(False)
        self.best = copy.deepcopy(self.average)
        self.steps, self.seconds, self.history = 0, 0.0, []
        self.curvature = math.nan
        self.device = next(potential.parameters()).device
        split = config.held_back, config.smooth
        self.source, back = source.split(random_at(config.seed, 0), *split)
        self.target, other = target.split(random_at(config.seed, 1), *split)
        self._held_source, self._held_target = back.to(self.device), other.to(self.device)
        some_rows = isinstance(source, Rows) or isinstance(target, Rows)
        self.ends = some_rows and config.patience > 0
        self.warm: WarmStarts | None = None
        if isinstance(self.target, Rows):
            self._held_target = self._typical(self._held_target)
            rows = Draw(self.target.x, self.target.labels, None).to(self.device)
            self.warm = WarmStarts(maps, rows._replace(x=units.target(rows.x)), config.shards)
        self.optimisers = optimisers(potential, config)

    def run(
        self,
        *,
        steps: int | None,
        budget: float | None,
        path: Path | None = None,
        save_every: float = 60.0,
        report: Callable[[float, Row | None], None] | None = None,
    ) -> None:
        """Go on to so many steps or seconds in all; the potential then has the best weights."""
        before, start = self.seconds, time.perf_counter()
        saved, seen = start, _Seen(self.device)

        def progress() -> float:
            self.seconds = from_first(before + time.perf_counter() - start, self.device)
            return self.steps / steps if steps is not None else self.seconds / budget

        while (done := progress()) < 1:
            due = (len(self.history) + 1) / self.config.validations
            if done >= due:
                self._validate(seen)
                if report is not None:
                    report(done, self.history[-1])
                seen = _Seen(self.device)
                if self._settled():
                    break
            seen.add(self._step(done))
            if report is not None:
                report(done, None)
            if path is not None and time.perf_counter() - saved > save_every:
                self.save(path)
                saved = time.perf_counter()
        self._validate(seen)
        if report is not None:
            report(1.0, self.history[-1])
        if path is not None:
            self.save(path)
        self.potential.load_state_dict(self.best.state_dict())
        held = self._held_source
        self.curvature = self.maps.least_curvature(self.units.source(held.x), held.labels)

    def _step(self, done: float) -> Tensor:
        """One step; mean gradients of a search, and the share of points left out."""
        config = self.config
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        size = config.batch // config.shards
        told = torch.zeros(2, dtype=torch.float64, device=self.device)
        for shard in own_shards(config.shards):
            x = self.source.draw(size, random_at(config.seed, 2, self.steps, shard))
            z = self.target.draw(size, random_at(config.seed, 3, self.steps, shard))
            told += self._shard(shard, x.to(self.device), z.to(self.device))
        sum_gradients(self.potential)
        told = sum_of_processes(told) / config.shards
        factor = 0.5 * (1 + math.cos(math.pi * done))
        factor *= min(1.0, (self.steps + 1) / config.warm_up)
        for optimiser, rate in zip(self.optimisers, (config.matrix_rate, config.rate), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.step()
        self.potential.project()
        self.steps += 1
        decay = min(config.ema, self.steps / (self.steps + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.potential.parameters()), 1 - decay
            )
        return told

    def _shard(self, shard: int, x: Draw, z: Draw) -> Tensor:
        """Adds to the gradients; mean gradients of a search and share left out."""
        config = self.config
        target = self.units.target(z.x)
        start = None if self.warm is None else self.warm.start(shard, z.rows, target)
        self.potential.requires_grad_(False)
        found = self.maps.search(
            target, z.labels, start=start, tol=config.tol, max_iter=config.max_iter
        )
        self.potential.requires_grad_(True)
        kept = found.residual <= config.leave_out * (1 + target.norm(dim=1))
        # What ran away may be infinite, and would be so even with a weight of 0.
        y = torch.where(kept[:, None], found.y, target)
        if self.warm is not None:
            self.warm.learn(shard, z.rows, target, y)
        weight = torch.cat(
            (torch.full_like(x.x[:, 0], 1 / len(x.x)), -kept.float() / kept.sum().clamp_min(1))
        )
        labels = None if x.labels is None else torch.cat((x.labels, z.labels))
        points = torch.cat((self.units.source(x.x), y))
        # By the envelope theorem: E g(x) - E (c(y, z) + g(y)) at fixed y.
        loss = (self.potential(points, labels) * weight).sum()
        if config.mmd or config.energy:
            loss = loss + self._discrepancy(x, z, target)
        (loss / config.shards).backward()
        return torch.stack((found.n_iters.double().mean(), (~kept).double().mean()))

    def _discrepancy(self, x: Draw, z: Draw, target: Tensor) -> Tensor:
        moved = self.maps.transport(self.units.source(x.x), x.labels)
        total = moved.new_zeros(())
        for weight, apart in ((self.config.mmd, mmd), (self.config.energy, energy_distance)):
            if not weight:
                continue
            total = total + weight * apart(moved, target)
            if x.labels is not None:
                total = total + weight * by_class(apart, moved, x.labels, target, z.labels)
        return total

    def _typical(self, z: Draw, share: float = 0.95) -> Draw:
        """Without those farthest out, of which few would outweigh all others in a dual value."""
        length = self.maps.start(self.units.target(z.x), z.labels).norm(dim=1)
        near = length <= length.quantile(share)
        return Draw(z.x[near], None if z.labels is None else z.labels[near], None)

    def _validate(self, seen: _Seen) -> None:
        """The averaged weights on the points held back; the best are kept."""
        x, z = self._held_source, self._held_target
        maps = dataclasses.replace(self.maps, potential=self.average)
        found = maps.search(self.units.target(z.x), z.labels, tol=1e-3, max_iter=200)
        source = self.average(self.units.source(x.x), x.labels)
        dual = float(found.value.double().mean() - source.double().mean())
        if not math.isfinite(dual):
            dual = -math.inf
        if not self.ends or not self.history or dual >= max(row.dual for row in self.history):
            self.best.load_state_dict(self.average.state_dict())
        self.history.append(Row(self.steps, self.seconds, dual, *seen.mean()))

    def _settled(self) -> bool:
        """Whether points that are few have nothing more to say."""
        if not self.ends:
            return False
        best = max(range(len(self.history)), key=lambda k: self.history[k].dual)
        return len(self.history) - 1 - best >= self.config.patience

    def save(self, path: Path) -> None:
        """Write a checkpoint, in the first process alone."""
        if rank() != 0:
            return
        state = {
            "training": dataclasses.asdict(self.config),
            "potential": self.potential.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best.state_dict(),
            "units": self.units.state_dict(),
            "linear": self.maps.linear.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "warm": None if self.warm is None else self.warm.state_dict(),
            "history": [dataclasses.asdict(row) for row in self.history],
            "steps": self.steps,
            "seconds": self.seconds,
        }
        checkpoint.save(state, path)

    def resume(self, path: Path) -> None:
        """Go back to where a checkpoint was written.

        Raises
        ------
        ValueError
            The file is no checkpoint, or one of other settings.
        """
        state = checkpoint.load(path)
        if state["training"] != dataclasses.asdict(self.config):
            raise ValueError(f"{path} is of a fit with other settings")
        try:
            for name in ("potential", "average", "best", "units"):
                getattr(self, name).load_state_dict(state[name])
            self.maps.linear.load_state_dict(state["linear"])
        except RuntimeError as error:
            raise ValueError(f"{path} is of another potential: {error}") from error
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        if self.warm is not None:
            self.warm.load_state_dict(state["warm"])
        self.history = [Row(**row) for row in state["history"]]
        self.steps, self.seconds = state["steps"], state["seconds"]


def optimisers(potential: NeuralPotential, config: FitConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, Adam for the rest, a table of classes included."""
    own = dict(potential.named_parameters())
    matrices = {
        name: p
        for name, p in own.items()
        if p.ndim == 2 and min(p.shape) > 1 and name not in ("bias", "linear")
    }
    rest = [p for name, p in own.items() if name not in matrices]
    return [
        torch.optim.Muon(matrices.values(), lr=config.matrix_rate, weight_decay=0.0),
        torch.optim.Adam(rest, lr=config.rate),
    ]


class _Seen:
    """What steps have told since the last validation, summed where they run."""

    def __init__(self, device: torch.device) -> None:
        self._sum, self._steps = torch.zeros(2, dtype=torch.float64, device=device), 0

    def add(self, told: Tensor) -> None:
        self._sum += told
        self._steps += 1

    def mean(self) -> tuple[float, float]:
        n_iters, left_out = (self._sum / max(self._steps, 1)).tolist()
        return n_iters, left_out
