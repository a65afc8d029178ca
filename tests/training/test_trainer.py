"""Training: targets, resuming, several processes, every cost."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from unot_fast.models import UNOT
from unot_fast.solver.dispatch import solve
from unot_fast.training import PRESETS, Trainer, TrainingConfig
from unot_fast.training.pairs import Pairs, bootstrap, moved, moved_batch, solution, symmetries


def small(preset="tiny", **changes):
    config = PRESETS[preset]
    model = dataclasses.replace(config.model, width=16, depth=1)
    sizes = {"batch": 16, "batches": 2, "passes": 2, "validation": 16, "resolutions": (10, 20)}
    return dataclasses.replace(config, model=model, **{**sizes, **changes})


def centred(g, b):
    return g - (g * b).sum((1, 2), keepdim=True)


@pytest.mark.parametrize("preset", ["tiny", "euclidean", "sphere"])
def test_the_bootstrap_target_is_k_steps_of_the_reference(preset):
    config = small(preset, loss="bootstrap")
    pairs = Pairs(UNOT(config.model), config)
    batch = pairs.draw(3, pairs.random(0))
    batch = dataclasses.replace(batch, a=batch.a.double(), b=batch.b.double())
    prediction = batch.inputs.start.double() + 0.3 * torch.randn_like(batch.b)
    target = bootstrap(batch, prediction, 5)
    scale = batch.epsilon[:, None, None]
    g = solve(
        batch.a, batch.b, batch.level.geom, batch.epsilon, prediction * scale, tol=0.0,
        criterion="marginal", max_iter=5, overrelaxation=1.0, backend="reference",
    ).g  # fmt: skip
    torch.testing.assert_close(target, centred(g, batch.b) / scale, rtol=1e-6, atol=1e-6)


def test_the_converged_target_is_the_solution():
    config = small()
    pairs = Pairs(UNOT(config.model), config)
    batch = pairs.draw(8, pairs.random(0))
    again = bootstrap(batch, solution(batch, 2000), 10)
    assert (again - solution(batch, 2000)).abs().mean() < 0.02


@pytest.mark.parametrize("preset", ["tiny", "sphere"])
def test_symmetries_keep_the_problem(preset):
    """Moving the measures moves the target."""
    config = small(preset, iterations=3000)
    pairs = Pairs(UNOT(config.model), config)
    level = pairs.level(18)
    batch = pairs.draw(2, pairs.random(0), 18)
    for which in range(0, symmetries(level), 1 if preset == "tiny" else 17):
        turned = moved_batch(batch, which)
        fresh = pairs.batch(turned.a, turned.b, level, batch.epsilon)
        torch.testing.assert_close(
            fresh.inputs.planes[:, :4], turned.inputs.planes[:, :4], rtol=1e-3, atol=1e-3
        )
        error = centred(fresh.target - turned.target, turned.b)
        assert (error.abs() * turned.b).sum((1, 2)).max() < 0.1
    assert len({moved(batch.a, level, k).numpy().tobytes() for k in range(symmetries(level))}) > 4


@pytest.mark.parametrize(
    "config",
    [
        small("tiny", learning_rate=3e-3),
        small("euclidean"),
        small("sphere", resolutions=(12, 16)),
        small("fourier", resolutions=(10, 14)),
        small("tiny", loss="bootstrap", iterations=5, adversary=0.5),
        small("sphere", loss="bootstrap", iterations=5, adversary=0.5, learning_rate=1e-2),
        small("tiny", precision="bfloat16", shards=2),
    ],
    ids=[
        *("sqeuclidean", "euclidean", "sphere", "fourier"),
        *("adversarial", "adversarial sphere", "bfloat16"),
    ],
)
def test_the_loss_on_held_back_pairs_decreases(config):
    trainer = Trainer(config)
    before = trainer.validate()
    trainer.run(rounds=8)
    rows = trainer.history
    assert [row.round for row in rows] == list(range(1, 9))
    assert min(row.validation for row in rows) < before
    assert all(row.samples == 64 * row.round for row in rows)


def same(x, y):
    return all(torch.equal(p, q) for p, q in zip(x.parameters(), y.parameters(), strict=True))


@pytest.mark.parametrize("adversary", [0.0, 0.5])
def test_resumed_it_ends_at_the_same_weights(adversary, tmp_path):
    config = small(adversary=adversary)
    whole, half = Trainer(config), Trainer(config)
    whole.run(rounds=4)
    with pytest.raises(KeyboardInterrupt):
        half.run(rounds=4, path=tmp_path / "x", save_every=0.0, report=Stop(2))
    again = Trainer.load(tmp_path / "x")
    assert len(again.history) == 2
    again.run(rounds=4)
    assert same(again.model, whole.model)
    assert same(again.average, whole.average)


class Stop:
    """Interrupts after the checkpoint of a round is written: in the report of the next one."""

    def __init__(self, after):
        self.after = after

    def __call__(self, row):
        if row.round > self.after:
            raise KeyboardInterrupt


TRAIN = [sys.executable, "-m", "unot_fast.cli", "train", "--preset", "tiny", "--set", "batch=16"]
TRAIN += ["--set", "model.width=16", "--set", "batches=2", "--set", "validation=16"]


def weights(folder):
    return UNOT.from_pretrained(folder / "model.safetensors")


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    rounds = ["--rounds", "30", "--save-every", "0s"]
    subprocess.run([*TRAIN, *rounds, "-o", str(whole)], check=True, capture_output=True)
    for delay in (0.1, 0.3):
        process = subprocess.Popen([*TRAIN, *rounds, "-o", str(broken)], stderr=subprocess.DEVNULL)
        while not (broken / "checkpoint.pt").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        [*TRAIN, *rounds, "-o", str(broken)], check=True, capture_output=True, text=True
    )
    assert "goes on after round" in done.stdout
    assert same(weights(whole), weights(broken))


@pytest.mark.slow
def test_two_processes_train_the_same(tmp_path):
    options = ["--rounds", "2", "--set", "shards=2", "--set", "adversary=0.5"]
    subprocess.run([*TRAIN, *options, "-o", str(tmp_path / "one")], check=True, capture_output=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, *TRAIN[1:], *options, "-o", str(tmp_path / "two")]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_bad_settings(tmp_path):
    for change, message in (
        ({"loss": "hinge"}, "loss must be one of"),
        ({"adversary": 2.0}, "adversary must be in"),
        ({"resolutions": (20, 10)}, "resolutions must be"),
        ({"batch": 5, "shards": 2}, "batch must be a multiple of shards"),
        ({"passes": 0}, "passes must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainingConfig(**change)
    with pytest.raises(ValueError, match="either rounds or budget"):
        Trainer(small()).run()
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no checkpoint"):
        Trainer.load(tmp_path / "x")


def test_a_budget_ends_the_training():
    trainer = Trainer(small())
    start = time.perf_counter()
    trainer.run(budget=0.5)
    assert 0.5 <= time.perf_counter() - start < 10
    assert trainer.history[-1].seconds > 0.25
