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

from unot_fast.conjugate import described
from unot_fast.models import NeuralPotential
from unot_fast.neural_ot.balance import balanced, one_class
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
    # On points held back, of rows without the farthest; in units of the potential, and -inf where
    # more than a hundredth of the searches did not converge.
    dual: float
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
        self._problem = {
            "potential": potential.arguments(), "cost": described(maps.cost),
            "source": source.fingerprint(), "target": target.fingerprint(),
        }  # fmt: skip
        some_rows = isinstance(source, Rows) or isinstance(target, Rows)
        self.ends = some_rows and config.patience > 0
        self.warm: WarmStarts | None = None
        if isinstance(self.target, Rows):
            self._held_target = self._typical(self._held_target)
            if maps.cost is None:
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
        """Go on to so many steps or seconds in all; the potential then has the best weights.

        With a path the fit is saved there every so many seconds and every quarter of it, when it
        ends, and when it is interrupted.
        """
        try:
            self._go_on(steps, budget, path, save_every, report)
        finally:
            if path is not None and self.steps:
                self.save(path)
        self.potential.load_state_dict(self.best.state_dict())
        held = self._held_source
        self.curvature = self.maps.least_curvature(self.units.source(held.x), held.labels)

    def _go_on(
        self,
        steps: int | None,
        budget: float | None,
        path: Path | None,
        save_every: float,
        report: Callable[[float, Row | None], None] | None,
    ) -> None:
        before, start = self.seconds, time.perf_counter()
        seen = _Seen(self.device)

        def progress() -> float:
            self.seconds = from_first(before + time.perf_counter() - start, self.device)
            return self.steps / steps if steps is not None else self.seconds / budget

        saved, saved_at = 0.0, start
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
            long_ago = time.perf_counter() - saved_at > save_every or done - saved >= 0.25
            if path is not None and long_ago:
                self.save(path)
                saved, saved_at = done, time.perf_counter()
        self._validate(seen)
        if report is not None:
            report(1.0, self.history[-1])

    def _step(self, done: float) -> Tensor:
        """One step; mean gradients of a search, and the share of points left out."""
        config = self.config
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        size = config.batch // config.shards
        draws = config.source_draws * size
        told = torch.zeros(2, dtype=torch.float64, device=self.device)
        for shard in own_shards(config.shards):
            x = self.source.draw(draws, random_at(config.seed, 2, self.steps, shard))
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
            target, z.labels, start=start, tol=config.tol, max_iter=config.max_iter, verify=False
        )
        self.potential.requires_grad_(True)
        kept = found.residual <= config.leave_out * (1 + target.norm(dim=1))
        # What ran away may be infinite, and would be so even with a weight of 0.
        y = torch.where(kept[:, None], found.y, target)
        if self.warm is not None:
            self.warm.learn(shard, z.rows, target, y)
        own, others = self._weights(x, z, kept)
        weight = torch.cat((own, -others)).to(y)
        labels = None if x.labels is None else torch.cat((x.labels, z.labels))
        points = torch.cat((self.units.source(x.x), y))
        # By the envelope theorem: E g(x) - E (c(y, z) + g(y)) at fixed y.
        loss = (self.potential(points, labels) * weight).sum()
        if config.mmd or config.energy:
            loss = loss + self._discrepancy(x.first(len(target)), z, target)
        (loss / config.shards).backward()
        return torch.stack((found.n_iters.double().mean(), (~kept).double().mean()))

    def _discrepancy(self, x: Draw, z: Draw, target: Tensor) -> Tensor:
        moved = self.maps.transport(self.units.source(x.x), x.labels)
        total = moved.new_zeros(())
        for weight, apart in ((self.config.mmd, mmd), (self.config.energy, energy_distance)):
            if not weight:
                continue
            labels = None if x.labels is None else (x.labels, z.labels)
            total = total + weight * apart(moved, target, labels)
            if labels is not None:
                total = total + weight * by_class(apart, moved, x.labels, target, z.labels)
        return total

    def _weights(self, x: Draw, z: Draw, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of the points in a dual value; see `balanced`."""
        labels = one_class(x.labels, x.x), one_class(z.labels, z.x)
        return balanced(*labels, self.potential.classes, kept)

    def _typical(self, z: Draw, share: float = 0.95) -> Draw:
        """Without those farthest out, of which few would outweigh all others in a dual value."""
        length = self.maps.start(self.units.target(z.x), z.labels).norm(dim=1)
        near = length <= length.quantile(share)
        return Draw(z.x[near], None if z.labels is None else z.labels[near], None)

    def _validate(self, seen: _Seen) -> None:
        """The averaged weights on the points held back; the best are kept."""
        x, z = self._held_source, self._held_target
        maps = dataclasses.replace(self.maps, potential=self.average)
        own, others = self._weights(x, z)
        with torch.no_grad():
            found = maps.search(self.units.target(z.x), z.labels, tol=1e-3, max_iter=200)
            source = maps.whole(self.units.source(x.x), x.labels)
        dual = float(found.value.double() @ others - source.double() @ own)
        if not math.isfinite(dual) or found.converged.double().mean() < 0.99:
            dual = -math.inf
        before = max((row.dual for row in self.history), default=-math.inf)
        newest = dual > -math.inf and not self.ends
        if newest or dual >= before:
            self.best.load_state_dict(self.average.state_dict())
        self.history.append(Row(self.steps, self.seconds, dual, *seen.mean()))

    def _settled(self) -> bool:
        """Whether points that are few have nothing more to say."""
        if not self.ends:
            return False
        best = max(range(len(self.history)), key=lambda k: self.history[k].dual)
        judged = self.history[best].dual > -math.inf
        return judged and len(self.history) - 1 - best >= self.config.patience

    def save(self, path: Path) -> None:
        """Write a checkpoint, in the first process alone."""
        if rank() != 0:
            return
        state = {
            "training": dataclasses.asdict(self.config),
            "problem": self._problem,
            "potential": self.potential.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best.state_dict(),
            "units": self.units.state_dict(),
            "linear": self.maps.linear.state_dict(),
            "domain": self.maps.domain.state_dict(),
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
            The file is no checkpoint, or one of other settings, samples or costs.
        """
        state = checkpoint.load(path)
        afresh = f"delete {path} to begin afresh, or give another file"
        if state["training"] != dataclasses.asdict(self.config):
            raise ValueError(f"checkpoint: it is of a fit with other settings; {afresh}")
        then = state.get("problem", {})
        other = [name for name, now in self._problem.items() if then.get(name) != now]
        if not other and not self.units.resemble(state["units"]):
            other = ["source or target, or standardize"]
        if other:
            raise ValueError(f"checkpoint: it is of another {' and '.join(other)}; {afresh}")
        for name in ("potential", "average", "best", "units"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("linear", "domain"):
            getattr(self.maps, name).load_state_dict(state[name])
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
