"""The table of rounds: there at every moment, and of the rounds that count."""

import csv

import pytest

from unot_fast.training import Row
from unot_fast.training.log import Log


def row(k, cost_error=None):
    return Row(k, 0.5 * k, 10 * k, 1 / k, 2 / k, 1e-3, cost_error)


def read(path):
    with path.open() as file:
        return [(int(r["round"]), float(r["loss"]), r["cost_error"]) for r in csv.DictReader(file)]


def test_rows_are_there_as_they_come(tmp_path):
    log = Log(tmp_path / "log.csv")
    assert read(tmp_path / "log.csv") == []
    log.add(row(1))
    log.add(row(2, 0.01))  # nothing is closed
    assert read(tmp_path / "log.csv") == [(1, 1.0, ""), (2, 0.5, "0.01")]
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]


def test_resumed_it_has_the_rounds_that_count(tmp_path):
    path = tmp_path / "log.csv"
    broken = Log(path)
    for k in (1, 2, 3):
        broken.add(row(k))
    with path.open("a") as file:
        file.write("4,2.0,4")  # killed within a line
    log = Log(path, [row(1), row(2)])  # the checkpoint is of the second round
    assert [r for r, *_ in read(path)] == [1, 2]
    log.add(row(3))
    log.close()
    assert [r for r, *_ in read(path)] == [1, 2, 3]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        Log(tmp_path / "away" / "log.csv")
