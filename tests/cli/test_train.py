"""``unot-fast train``."""

import csv

import pytest
from click.testing import CliRunner

from unot_fast import UNOT
from unot_fast.cli.train import command
from unot_fast.models import weights

SMALL = ["--preset", "tiny", "--set", "model.width=16", "--set", "batch=16", "--set", "batches=2"]
SMALL += ["--set", "validation=16", "--set", "resolutions=[10, 20]"]


def train(*arguments):
    return CliRunner().invoke(command, [*SMALL, *map(str, arguments)])


def test_everything_is_written(tmp_path):
    done = train("--rounds", 2, "-o", tmp_path, "--set", "adversary=0.5")
    assert done.exit_code == 0, done.output
    assert "samples in" in done.output
    names = {"model.safetensors", "checkpoint.pt", "log.csv", "losses.png", "measures.png"}
    assert names <= {p.name for p in tmp_path.iterdir()}
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["round"] for row in rows] == ["1", "2"]
    assert UNOT.from_pretrained(tmp_path / "model.safetensors").config.width == 16
    assert weights.card(tmp_path / "model.safetensors")["rounds"] == 2


def test_a_longer_training_goes_on(tmp_path):
    train("--rounds", 1, "-o", tmp_path)
    done = train("--rounds", 3, "-o", tmp_path)
    assert "goes on after round 1" in done.output
    other = train("--rounds", 3, "-o", tmp_path, "--set", "learning_rate=0.1")
    assert other.exit_code == 1
    assert "other settings" in other.output


def test_a_budget(tmp_path):
    done = train("--budget", "0.5s", "-o", tmp_path)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --budget or --rounds"),
        (["--budget", "soon"], "no duration"),
        (["--rounds", 1, "--set", "speed=1"], "NAME must be one of"),
        (["--rounds", 1, "--set", "loss=hinge"], "loss must be one of"),
        (["--rounds", 1, "--set", "model.kind=cnn"], "kind must be"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    done = train(*arguments, "-o", tmp_path / "x")
    assert done.exit_code == 2
    assert message in done.output
