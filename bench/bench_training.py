"""A step of UNOT's training, of network and generator, against the published loop."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable

import pytest

from bench.published_training import PublishedTraining
from bench.turns import in_turns, info, report
from unot_fast.training import PRESETS, Trainer, TrainingConfig

SECONDS = {"small": 30.0, "full": 60.0}


@pytest.mark.parametrize("n", [28, 64])
@pytest.mark.parametrize("method", ["unot_fast", "unot_fast, bfloat16", "published loop"])
def test_training(benchmark, size, method, n):
    """A step of the network on 64 pairs at n x n and one of the generator at 64 x 64."""
    times = _steps(n, SECONDS[size])
    benchmark.group = f"training step, n={n}, B=64"
    problem = "published UNOT and generator"
    benchmark.extra_info.update(
        **info("training step", problem, n, 64, method),
        error=0.0,
        error_kind="other random numbers",
        unit="step",
    )
    report(benchmark, times[method])


@functools.cache
def _steps(n: int, seconds: float) -> dict[str, list[float]]:
    published = PublishedTraining()
    sizes = {"resolutions": (n, n), "generator_size": 64}
    base = dataclasses.replace(PRESETS["base"], batches=1, validation=1, **sizes)
    calls = {
        "unot_fast": _rounds(base),
        "unot_fast, bfloat16": _rounds(dataclasses.replace(base, precision="bfloat16")),
        "published loop": lambda: (published.predictor_step(n), published.generator_step()),
    }
    for call in calls.values():
        call()
    return in_turns(calls, seconds)


def _rounds(config: TrainingConfig) -> Callable[[], list]:
    trainer, rounds = Trainer(config), itertools.count(1)
    return lambda: trainer.run(rounds=next(rounds))
