import csv

import numpy as np
import pytest
import torch

from unot_fast.cli import train as train_module
from unot_fast.models import UNOT, weights
from unot_fast.training import Trainer, processes
from unot_fast.training.log import Log

SMALL = ("batch=4", "batches=1", "passes=1", "validation=4", "resolutions=[10,12]")
SMALL += ("model.width=8", "model.depth=1")
SETTINGS = [x for setting in SMALL for x in ("--set", setting)]


@pytest.fixture
def train(call, tmp_path):
    def run(*arguments):
        return call("train", "--preset", "tiny", *SETTINGS, "-o", tmp_path / "out", *arguments)

    return run


def test_train(train, tmp_path, monkeypatch):
    from unot_fast.cli import train as module

    monkeypatch.setattr(module, "_STAGE_PAIRS", 6)
    result = train("--rounds", 5, "--stages", "--set", "adversary=0.5")
    assert result.exit_code == 0, result.output
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        *("checkpoint.pt", "log.csv", "losses.png", "measures.png", "model.safetensors"),
        *("stages.md", "stage_00.pt", "stage_20.pt", "stage_40.pt", "stage_60.pt"),
    }
    assert UNOT.from_pretrained(tmp_path / "out" / "model.safetensors").config.width == 8
    text = (tmp_path / "out" / "stages.md").read_text()
    assert "|  | 0% | 20% | 40% | 60% |" in text
    assert "6 pairs at 12 x 12, sqeuclidean, epsilon 0.01; after shares of 5 rounds" in text


def rows(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_log_is_written_as_it_goes(train, tmp_path, monkeypatch):
    """What a kill would leave, and what goes on from there."""
    out, seen, drawn = tmp_path / "out", [], []
    add = Log.add

    def spy(self, row):
        add(self, row)
        if self._file.name.endswith("part"):  # opened under that name
            seen.append([int(r["round"]) for r in rows(out)] if (out / "log.csv").exists() else [])

    monkeypatch.setattr(Log, "add", spy)
    monkeypatch.setattr(train_module, "_LEAST_BETWEEN_PLOTS", 0.0)
    draw = train_module._draw
    monkeypatch.setattr(train_module, "_draw", lambda *a: drawn.append(draw(*a)))
    assert train("--rounds", 2, "--save-every", "0s").exit_code == 0
    assert seen == [[1], [1, 2]]
    assert len(drawn) == 3  # after every checkpoint, and at the end
    assert train("--rounds", 3).exit_code == 0
    assert [r["round"] for r in rows(out)] == ["1", "2", "3"]


def test_real_pairs_beside_the_loss(train, tmp_path):
    images = np.random.default_rng(0).integers(1, 256, (6, 12, 12)).astype(np.uint8)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "mnist.npz", images=images)
    result = train("--rounds", 2, "--validate-data", tmp_path / "data")
    assert result.exit_code == 0, result.output
    assert "left out: CIFAR: cifar: nothing named cifar*" in result.output
    assert "cost after one iteration on real pairs off by" in result.output
    assert all(0 < float(r["cost_error"]) < 1 for r in rows(tmp_path / "out"))
    said = weights.card(tmp_path / "out" / "model.safetensors")
    assert said["cost_error"] == float(rows(tmp_path / "out")[-1]["cost_error"])
    (tmp_path / "empty").mkdir()
    result = train("--rounds", 9, "--validate-data", tmp_path / "empty")
    assert result.exit_code == 1
    assert "Error: data:" in result.output


def test_what_diverges_writes_no_weights(train, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "validate", lambda self: float("inf"))
    result = train("--rounds", 3)
    assert result.exit_code == 1
    assert "Error: the training diverged in round 1" in result.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"log.csv"}


def test_theorem_3_by_settings(train):
    settings = ("adversary=0.5", "generator_lipschitz=0.9", "generator_noise=10")
    result = train("--rounds", 1, *(x for s in settings for x in ("--set", s)))
    assert result.exit_code == 0, result.output


def test_figures_of_a_small_share(train):
    """One of the twelve pairs of the figure is the adversary's."""
    assert train("--rounds", 1, "--set", "batch=20", "--set", "adversary=0.1").exit_code == 0


def test_it_goes_on_with_the_same_settings_only(train):
    assert "samples in" in train("--rounds", 1).output
    assert "goes on after round 1" in train("--rounds", 2).output
    other = train("--rounds", 3, "--set", "learning_rate=0.1")
    assert other.exit_code == 1
    assert "other settings" in other.output


def test_a_budget(train):
    assert train("--budget", "0.3s").exit_code == 0


def test_errors_are_one_line(train):
    for arguments, message in (
        ((), "give either --budget or --rounds"),
        (("--budget", "5"), "'5' is no duration"),
        (("--rounds", 1, "--stages"), "--stages needs an adversary"),
        (("--rounds", 1, "--set", "speed=1"), "NAME must be one of"),
        (("--rounds", 1, "--set", "loss=hinge"), "loss must be one of"),
        (("--rounds", 1, "--set", "model.kind=cnn"), "kind must be"),
        (("--budget", "0s"), "'0s' is no time at all"),
        (("--rounds", 1, "--set", "batch=16.0"), "batch must be an integer >= 1; got 16.0"),
        (("--rounds", 1, "--set", "batch=true"), "batch must be an integer >= 1; got True"),
        (("--rounds", 1, "--set", "learning_rate=abc"), "learning_rate must be a finite number"),
        (("--rounds", 1, "--set", "ema=2"), "ema must be >= 0 and < 1; got 2"),
        (("--rounds", 1, "--set", "model.width=-3"), "width must be an integer >= 1; got -3"),
        (("--rounds", 1, "--set", "model.cells=[16]"), "cells must be 2 integers; got [16]"),
        (("--rounds", 1, "--set", "adversary=0.25"), "several pairs, of the 4 of a shard"),
        (("--rounds", 1, "--device", "abacus"), "--device"),
        (("--rounds", 1, "--device", "cpu", "--graphs"), "needs a CUDA device, not cpu"),
    ):
        result = train(*arguments)
        assert result.exit_code != 0
        assert message in " ".join(result.output.split())
        assert "Traceback" not in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(train, tmp_path):
    result = train("--rounds", 1, "--device", "cuda")
    assert result.exit_code == 2
    assert "Invalid value for --device: cuda:" in result.output
    assert not (tmp_path / "out").exists()


def test_more_processes_than_shards(train, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "world", lambda: 3)
    result = train("--rounds", 1)
    assert result.exit_code == 1
    assert "Error: shards must be at least the number of processes, 3; got 1" in result.output
    assert not (tmp_path / "out").exists()
