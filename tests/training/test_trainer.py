"""Training: targets, resuming, several processes, every cost."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from bench.models import float32_products
from unot_fast.models import UNOT
from unot_fast.solver.dispatch import solve
from unot_fast.training import PRESETS, DivergedError, Trainer, TrainingConfig
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
        small("fourier", precision="bfloat16", resolutions=(10, 14)),
    ],
    ids=[
        *("sqeuclidean", "euclidean", "sphere", "fourier"),
        *("adversarial", "adversarial sphere", "bfloat16", "bfloat16 fourier"),
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


@pytest.mark.parametrize(("precision", "expected"), [("bfloat16", "medium"), ("float32", "high")])
def test_precision_of_products(precision, expected):
    """Both passes have the precision of the config, and nothing after them."""
    trainer = Trainer(small("tiny", precision=precision, adversary=0.5))
    seen = {"forward": set(), "backward": set(), "generator": set()}

    def note(where):
        return lambda *_: seen[where].add(torch.get_float32_matmul_precision())

    trainer.model.network.register_forward_hook(note("forward"))
    next(trainer.model.parameters()).register_hook(note("backward"))
    next(trainer.adversary.parameters()).register_hook(note("generator"))
    with float32_products("high"):
        trainer.run(rounds=1)
        assert torch.get_float32_matmul_precision() == "high"
    assert all(precisions == {expected} for precisions in seen.values())


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
        ({"passes": 0}, "passes must be an integer >= 1"),
        ({"batch": 16.0}, r"batch must be an integer >= 1; got 16\.0"),
        ({"batch": True}, "batch must be an integer"),
        ({"ema": 2}, "ema must be >= 0 and < 1; got 2"),
        ({"learning_rate": "abc"}, "learning_rate must be a finite number; got 'abc'"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number"),
        ({"clip": 0.0}, "clip must be > 0; got 0"),
        ({"huber": -1.0}, "huber must be > 0"),
        ({"resolutions": 16}, "resolutions must be 2 integers; got 16"),
        ({"adversary": 0.1, "batch": 8}, "several pairs, of the 8 of a shard; got 0.1"),
        ({"adversary": 1.0, "batch": 2, "shards": 2}, "several pairs, of the 1 of a shard"),
        ({"generator_size": 1}, "generator_size must be an integer >= 2; got 1"),
        ({"generator_noise": 0}, "generator_noise must be an integer"),
        ({"generator_lipschitz": 0}, "generator_lipschitz must be > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainingConfig(**change)
    with pytest.raises(ValueError, match="either rounds or budget"):
        Trainer(small()).run()
    with pytest.raises(ValueError, match="budget must be positive"):
        Trainer(small()).run(budget=0.0)
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no checkpoint"):
        Trainer.load(tmp_path / "x")


@pytest.mark.parametrize(
    ("resolutions", "size"), [((10, 64), 64), ((10, 96), 64), ((10, 20), 20), ((70, 80), 70)]
)
def test_the_adversary_is_trained_at_a_resolution_of_the_training(resolutions, size):
    config = small(adversary=0.5, resolutions=resolutions)
    assert Trainer(config).adversary.n == size
    chosen = dataclasses.replace(config, generator_size=resolutions[0])
    assert Trainer(chosen).adversary.n == resolutions[0]


def test_the_adversary_of_theorem_3():
    """Bounded, with noise of the measures' resolution; a single pair is then no matter either."""
    sizes = {"generator_size": 10, "generator_noise": 10, "resolutions": (10, 12)}
    options = {"generator_lipschitz": 0.9, "generator_scale": 0.7, "generator_dust": 1e-5}
    trainer = Trainer(small(adversary=0.1, batch=10, **sizes, **options))
    trainer.run(rounds=1)
    generator = trainer.adversary
    assert (generator.n, generator.noise, generator.scale, generator.dust) == (10, 10, 0.7, 1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in generator.modules())


@pytest.mark.parametrize("of", ["model", "adversary"])
def test_what_diverges_stops_and_is_not_kept(of, tmp_path):
    trainer = Trainer(small(adversary=0.5))
    trainer.run(rounds=2, path=tmp_path / "x")
    with torch.no_grad():
        next(getattr(trainer, of).parameters()).fill_(math.nan)
    with pytest.raises(DivergedError, match=r"diverged in round 3: loss nan.*learning_rate"):
        trainer.run(rounds=9, path=tmp_path / "x", save_every=0.0)
    kept = Trainer.load(tmp_path / "x")
    assert len(kept.history) == 2
    assert all(p.isfinite().all() for p in kept.average.parameters())


def test_the_error_on_other_pairs_is_kept_beside_the_loss():
    trainer = Trainer(small())
    trainer.run(rounds=1)
    trainer.run(rounds=2, cost_error=lambda network: 0.25 if network is trainer.average else 1)
    assert [row.cost_error for row in trainer.history] == [None, 0.25]


def test_a_budget_ends_the_training():
    trainer = Trainer(small())
    start = time.perf_counter()
    trainer.run(budget=0.5)
    assert 0.5 <= time.perf_counter() - start < 10
    assert trainer.history[-1].seconds > 0.25
