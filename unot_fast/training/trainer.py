"""Training of a transport network."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unot_fast.models import UNOT
from unot_fast.models.level import Level
from unot_fast.training import checkpoint
from unot_fast.training.adversary import adversary
from unot_fast.training.config import TrainingConfig
from unot_fast.training.graphs import Graphs
from unot_fast.training.loss import potential_loss
from unot_fast.training.pairs import Batch, Pairs, bootstrap, moved_batch, symmetries
from unot_fast.training.processes import (
    from_first,
    own_shards,
    rank,
    sum_gradients,
    sum_of_processes,
)


@dataclass(frozen=True)
class Row:
    """What happened up to the end of a round.

    Attributes
    ----------
    round : int
    seconds : float
        Of training, interruptions aside.
    samples : int
        Pairs that the network was shown, each as often as it was.
    loss : float
        Mean over the round.
    validation : float
        Loss on the pairs held back against converged potentials, of the averaged weights.
    learning_rate : float
    cost_error : float, optional
        What `Trainer.run`'s ``cost_error`` gives for the averaged weights.
    """

    round: int
    seconds: float
    samples: int
    loss: float
    validation: float
    learning_rate: float
    cost_error: float | None = None


class DivergedError(RuntimeError):
    """A loss became infinite or NaN. What is on disk is from before."""


class Trainer:
    """Trains a `UNOT`, resumably, in one process or several.

    Parameters
    ----------
    config : TrainingConfig
    device : torch.device
    graphs : Graphs, optional
        Records forward and backward passes and replays them; see `Graphs`.

    Attributes
    ----------
    model, average : UNOT
        As trained, and the average of its weights.
    adversary : Generator or None
    history : list of Row

    Examples
    --------
    >>> from unot_fast.training import PRESETS, Trainer
    >>> trainer = Trainer(PRESETS["tiny"])
    >>> trainer.run(rounds=1)
    >>> model = trainer.average
    """

    def __init__(
        self,
        config: TrainingConfig,
        device: torch.device | str = "cpu",
        graphs: Graphs | None = None,
    ):
        self.config, self.device, self._graphs = config, torch.device(device), graphs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = UNOT(config.model).to(self.device)
            self.adversary = adversary(config).to(self.device) if config.adversary else None
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.generator_optimiser = None
        if self.adversary is not None:
            self.generator_optimiser = torch.optim.Adam(
                self.adversary.parameters(), config.generator_learning_rate, fused=True
            )
        if graphs is not None:  # which know gradients by their addresses
            for optimiser in filter(None, (self.optimiser, self.generator_optimiser)):
                for p in optimiser.param_groups[0]["params"]:
                    p.grad = torch.zeros_like(p)
        self.pairs = Pairs(self.model, config, self.adversary)
        self.history: list[Row] = []
        self.steps = 0
        self._loss = torch.zeros((), device=self.device)  # of the parts of a step
        self._held_back: Batch | None = None

    def run(
        self,
        *,
        rounds: int | None = None,
        budget: float | None = None,
        path: Path | None = None,
        save_every: float = 60.0,
        report: Callable[[Row], None] | None = None,
        cost_error: Callable[[UNOT], float] | None = None,
    ) -> None:
        """Go on until so many rounds are done in all, or so much time is spent.

        Parameters
        ----------
        rounds : int, optional
            With it a training is a function of its configuration: interrupted or not, it ends at
            the same weights.
        budget : float, optional
            Seconds of training; the learning rate follows the clock.
        path : Path, optional
            Where to keep a checkpoint.
        save_every : float
            Seconds between checkpoints.
        report : callable, optional
            Called after every round.
        cost_error : callable, optional
            Called with the averaged weights whenever they are validated; goes to `Row.cost_error`.

        Raises
        ------
        ValueError
            The training has no end, or is at its end from the start.
        DivergedError
            The loss is infinite or NaN. The checkpoint is that of an earlier round, if any.
        """
        if (rounds is None) == (budget is None):
            raise ValueError("rounds: give either rounds or budget")
        for name, value in (("rounds", rounds), ("budget", budget)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive; got {value}")
        before = self.history[-1].seconds if self.history else 0.0
        start = saved = time.perf_counter()

        def spent() -> float:
            return from_first(before + time.perf_counter() - start, self.device)

        def progress() -> float:
            return len(self.history) / rounds if rounds is not None else spent() / budget

        while (done := progress()) < 1:
            rate = 0.5 * self.config.learning_rate * (1 + math.cos(math.pi * done))
            loss, samples = self._round(len(self.history), rate)
            samples += self.history[-1].samples if self.history else 0
            row = Row(len(self.history) + 1, spent(), samples, loss, self.validate(), rate)
            self._check_finite(row)
            if cost_error is not None:
                row = dataclasses.replace(row, cost_error=cost_error(self.average))
            self.history.append(row)
            if report is not None:
                report(row)
            if path is not None and time.perf_counter() - saved > save_every:
                self.save(path)
                saved = time.perf_counter()
        if path is not None:
            self.save(path)

    def validate(self) -> float:
        """Loss of the averaged weights on the pairs held back, against converged potentials."""
        if self._held_back is None:
            exact = dataclasses.replace(self.config, loss="converged", iterations=1000)
            source = Pairs(self.average, exact)
            n = self.config.resolutions[1]
            self._held_back = source.draw(self.config.validation, self.pairs.random(-2), n)
        batch = self._held_back
        with torch.no_grad():
            prediction = self.average.predict(batch.inputs)
            return float(potential_loss(prediction, batch.target, batch.b, self.config.huber))

    def save(self, path: Path) -> None:
        """Write a checkpoint, in the first process alone."""
        if rank() != 0:
            return
        state = {
            "training": dataclasses.asdict(self.config),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": [dataclasses.asdict(row) for row in self.history],
            "steps": self.steps,
        }
        if self.adversary is not None:
            state["adversary"] = self.adversary.state_dict()
            state["generator_optimiser"] = self.generator_optimiser.state_dict()
        checkpoint.save(state, Path(path))

    @classmethod
    def load(
        cls, path: Path, device: torch.device | str = "cpu", graphs: Graphs | None = None
    ) -> Trainer:
        """The training as it was when the checkpoint was written.

        Raises
        ------
        ValueError
            The file is no checkpoint, or one of another version.
        """
        state = checkpoint.load(Path(path))
        try:
            trainer = cls(TrainingConfig(**state["training"]), device, graphs)
            trainer._restore(state)
        except (KeyError, TypeError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{path} does not fit this version: {reason}") from error
        return trainer

    def _restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
            self.generator_optimiser.load_state_dict(state["generator_optimiser"])
        self.history = [Row(**row) for row in state["history"]]
        self.steps = state["steps"]

    def _check_finite(self, row: Row) -> None:
        weights = self.adversary.parameters() if self.adversary is not None else ()
        finite = math.isfinite(row.loss) and math.isfinite(row.validation)
        if not (finite and all(bool(w.isfinite().all()) for w in weights)):
            raise DivergedError(
                f"the training diverged in round {row.round}: loss {row.loss:g}, on pairs held "
                f"back {row.validation:g}; try a smaller learning_rate"
            )

    def _round(self, index: int, rate: float) -> tuple[float, int]:
        """Mean loss, and samples shown."""
        config, shards = self.config, own_shards(self.config.shards)
        size = config.batch // config.shards
        drawn = [
            [self.pairs.draw(size, self.pairs.random(index, k, s)) for s in shards]
            for k in range(config.batches)
        ]
        order = self.pairs.random(index)
        total = torch.zeros((), device=self.device)
        for _ in range(config.passes):
            for k in torch.randperm(config.batches, generator=order).tolist():
                turn = int(torch.randint(2**30, (1,), generator=order))
                total += self._step(drawn[k], turn, rate)
        if self.adversary is not None:
            for k in range(config.batches):
                self._generator_step([self.pairs.random(index, k, s) for s in shards])
        sum_of_processes(total)
        steps = config.passes * config.batches
        return float(total) / steps, steps * config.batch

    def _step(self, parts: list[Batch], turn: int, rate: float) -> Tensor:
        self.optimiser.zero_grad(set_to_none=self._graphs is None)
        self._loss.zero_()
        for part in parts:
            part = moved_batch(part, turn % symmetries(part.level))
            # The grid counts for targets alone.
            key = part.level.grid.shape if part.target is None else "network"
            self._call(key, lambda *x, of=part.of: self._learn(of(*x)), part.tensors(), self.model)
        sum_gradients(self.model)
        self.steps += 1
        for group in self.optimiser.param_groups:
            group["lr"] = rate * min(1.0, self.steps / 200)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimiser.step()
        decay = min(self.config.ema, self.steps / (self.steps + 10))
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
        return self._loss

    def _learn(self, part: Batch) -> None:
        """Add the loss of some pairs, and its gradients."""
        prediction = self._predict(part)
        target = part.target
        if target is None:
            target = bootstrap(part, prediction, self.config.iterations)
        loss = potential_loss(prediction, target, part.b, self.config.huber)
        loss = loss / self.config.shards
        with self._products():
            loss.backward()
        self._loss += loss.detach()

    def _generator_step(self, places: list[torch.Generator]) -> None:
        """Ascent of the loss in the generator, which the network's inputs depend on."""
        size = self.config.batch // self.config.shards
        self.model.requires_grad_(False)
        self.generator_optimiser.zero_grad(set_to_none=self._graphs is None)
        level = self.pairs.level(self.adversary.n)
        for random in places:
            z = self.pairs.noise(size, random)
            epsilon = self.pairs.epsilons(size, random, level)
            call = functools.partial(self._resist, level)
            self._call("generator", call, (z, epsilon), self.adversary)
        self.model.requires_grad_(True)
        sum_gradients(self.adversary)
        self.generator_optimiser.step()

    def _resist(self, level: Level, z: Tensor, epsilon: Tensor) -> None:
        """Add the generator's gradients on the pairs it makes of noise."""
        a, b = self.pairs.made(z, level)
        part = Batch(a, b, level, epsilon, self.model.inputs(a, b, level, epsilon), None)
        prediction = self._predict(part)
        part = dataclasses.replace(part, a=a.detach(), b=b.detach())
        with torch.no_grad():
            target = bootstrap(part, prediction, self.config.iterations)
        loss = -potential_loss(prediction, target, part.b, self.config.huber)
        with self._products():
            (loss / self.config.shards).backward()

    def _call(
        self, key: Hashable, call: Callable, tensors: Sequence[Tensor | None], module: nn.Module
    ) -> None:
        """``call(*tensors)``, which adds to the loss and the gradients of ``module``."""
        if self._graphs is None:
            return call(*tensors)
        changed = [self._loss, *module.buffers(), *(p.grad for p in module.parameters())]
        self._graphs((self, key), call, tensors, changed)

    def _predict(self, part: Batch) -> Tensor:
        low = self.config.precision == "bfloat16"
        with self._products(), torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            return self.model.predict(part.inputs)

    @contextlib.contextmanager
    def _products(self) -> Iterator[None]:
        """Under bfloat16, let products of float32 have such factors, too.

        Autocast leaves Fourier layers alone, and does not act in a backward pass.
        """
        if self.config.precision != "bfloat16":
            yield
            return
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
