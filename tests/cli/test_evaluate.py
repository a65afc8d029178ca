import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import unot_fast.models
from tests.cli.conftest import blob


@pytest.fixture
def folder(tmp_path):
    """Small images of digits and bears, in two of the formats."""
    data = tmp_path / "data"
    (data / "CIFAR").mkdir(parents=True)
    np.savez(data / "mnist.npz", images=np.stack([blob((12, 12), k) for k in range(6)]))
    np.save(data / "CIFAR" / "x.npy", np.stack([blob((16, 16), k + 9) for k in range(6)]))
    return data


@pytest.fixture
def network(monkeypatch):
    """In place of pretrained ones."""

    class Network(torch.nn.Module):
        def __init__(self, cost):
            super().__init__()
            self.config = SimpleNamespace(cost=cost)

        @classmethod
        def from_pretrained(cls, name):
            costs = {"zeros": "sqeuclidean", "straight": "euclidean", "round": "geodesic"}
            if name not in costs:
                raise FileNotFoundError(f"no model {name!r}")
            return cls(costs[name])

        def forward(self, mu, nu, geom=None, epsilon=None):
            if float(epsilon.max()) > 0.5:
                raise ValueError("epsilon must be small")
            return torch.zeros_like(nu)

        def without_network(self):
            return self

    monkeypatch.setattr(unot_fast.models, "UNOT", Network, raising=False)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_tables(call, folder, tmp_path, network):
    out = tmp_path / "out"
    cells = "mnist,MNIST-CIFAR,Bears"
    result = call(
        *("evaluate", "--data", folder, "--cells", cells, "--pairs", 4, "--no-figures"),
        *("--model", "zeros", "--threads", 1, "-o", out),
    )
    assert result.exit_code == 0, result.output
    assert "left out: Bears: bears: nothing named bear*" in result.output
    report = (out / "report.md").read_text()
    for text in (
        *("Table 1", "Table 2", "Table 4", "left out: Bears", "Published, not measured"),
        *("4 random pairs", "Starts: zeros, zeros without its network, ones, Gauss"),
    ):
        assert text in report
    table = rows(out / "table_1.csv")
    assert [(r["cell"], r["start"]) for r in table] == [
        (cell, start)
        for cell in ("MNIST", "MNIST-CIFAR")
        for start in ("zeros", "zeros without its network", "ones", "Gauss", "multiscale")
    ]
    assert all(r["unconverged"] == "0" for r in table)
    assert {r["grid"] for r in rows(out / "table_4.csv")} == {"28x28"}
    for rule in ("mean", "worst"):
        assert all(float(r["seconds"]) > 0 for r in rows(out / f"table_2_{rule}.csv"))
    assert not list(out.glob("*.png"))


def test_the_cost_is_that_of_the_model(call, folder, tmp_path, network):
    options = ("--pairs", 3, "--no-figures", "--tables", "1,4", "-o", tmp_path)
    result = call("evaluate", "--data", folder, "--model", "straight", *options)
    assert result.exit_code == 0, result.output
    report = (tmp_path / "report.md").read_text()
    assert "## Table 4: error after one iteration, %; cost |x - y|\n" in report
    assert "cost |x - y|;" in report
    assert "Published" not in report
    starts = ("straight", "straight without its network", "ones", "multiscale")
    table = rows(tmp_path / "table_4.csv")
    assert [(r["cell"], r["start"]) for r in table] == [
        (cell, start) for cell in ("MNIST", "CIFAR", "MNIST-CIFAR") for start in starts
    ]
    assert all(0 < float(r["mean"]) < 2 for r in table)
    result = call("evaluate", "--data", folder, "--cost", "euclidean", *options)
    assert [r["mean"] for r in rows(tmp_path / "table_4.csv")] == [
        r["mean"] for r in table if r["start"] in ("ones", "multiscale")
    ]


def test_a_model_of_the_sphere_is_evaluated_there(call, folder, tmp_path, network):
    np.savez(folder / "sphere_mnist.npz", images=np.random.default_rng(0).random((5, 64, 128)))
    result = call(
        *("evaluate", "--data", folder, "--model", "round", "--pairs", 2, "--no-figures"),
        *("--tables", "4", "-o", tmp_path),
    )
    assert result.exit_code == 0, result.output
    assert "## Table 4: error after one iteration, %; cost angle\n" in result.output
    table = rows(tmp_path / "table_4.csv")
    assert [(r["cell"], r["start"]) for r in table] == [
        ("sphere-MNIST", start)
        for start in ("round", "round without its network", "ones", "multiscale")
    ]


def test_black_images_are_left_out_and_told(call, folder, tmp_path):
    images = np.load(folder / "CIFAR" / "x.npy")
    np.save(folder / "CIFAR" / "x.npy", np.concatenate([images, 0 * images]))
    options = ("--cells", "CIFAR,MNIST", "--pairs", 40, "--tables", "4", "--no-figures")
    result = call("evaluate", "--data", folder, *options, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    line = "cifar: 6 of its images black everywhere and left out, first image 6"
    assert line in result.output
    assert f"- {line}" in (tmp_path / "report.md").read_text()


def test_what_a_run_would_meet_is_told_before_it(call, folder, tmp_path):
    """An image of a hundred that is no measure, and one that a grid of the figures misses."""
    images = np.ones((100, 28, 28), np.float32)
    images[41, 3, 3] = np.nan
    np.save(folder / "lfw.npy", images)
    dots = np.zeros((2, 84, 84), np.uint8)
    dots[:, 0, 0] = 1  # between the points of any coarser grid
    np.save(folder / "bear.npy", dots)
    options = ("--cells", "MNIST,LFW,Bears", "--tables", "4", "--pairs", 200, "--no-figures")
    result = call("evaluate", "--data", folder, *options, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "left out: LFW: lfw: image 41 has negative, infinite or NaN pixels" in result.output
    assert "left out: Bears: bears: image 1 is black everywhere" in result.output
    assert {r["cell"] for r in rows(tmp_path / "table_4.csv")} == {"MNIST"}


def test_meta_ot(call, folder, tmp_path):
    options = ("--pairs", 3, "--no-figures", "--tables", "1,4", "--cells", "MNIST,CIFAR")
    meta = ("--meta-ot", "mnist", "--meta-ot-budget", "0.5s", "-o", tmp_path)
    result = call("evaluate", "--data", folder, *options, *meta)
    assert result.exit_code == 0, result.output
    for name in ("table_1", "table_4"):
        starts = {r["start"]: r for r in rows(tmp_path / f"{name}.csv")}
        assert list(starts) == ["Meta OT", "ones", "Gauss", "multiscale"]
    report = (tmp_path / "report.md").read_text()
    assert "Meta OT: trained for 0.5 s" in report
    assert "on the 6 images of mnist at 28 x 28" in report
    assert "The cells MNIST have images of the same set" in report
    result = call("evaluate", "--data", folder, *options, "--meta-ot", "lfw", "-o", tmp_path)
    assert "--meta-ot lfw: lfw: nothing named lfw*" in result.output


def test_seeds_are_fixed(call, folder, tmp_path):
    for name in "ab":
        options = ("--cells", "MNIST", "--pairs", 3, "--tables", "4", "--no-figures")
        assert call("evaluate", "--data", folder, *options, "-o", tmp_path / name).exit_code == 0
    assert rows(tmp_path / "a" / "table_4.csv") == rows(tmp_path / "b" / "table_4.csv")
    assert not (tmp_path / "a" / "table_1.csv").exists()


def test_figures(call, folder, tmp_path, network, monkeypatch):
    from unot_fast.cli import evaluate

    monkeypatch.setattr(evaluate, "_RESOLUTIONS", (8, 10))
    monkeypatch.setattr(evaluate, "_COARSE_RESOLUTIONS", (8,))
    monkeypatch.setattr(evaluate, "_EPSILONS", [0.1, 1.0])
    monkeypatch.setenv("UNOT_FAST_DATA", str(folder))
    result = call(
        *("evaluate", "--cells", "MNIST", "--pairs", 3, "--tables", "4", "-o", tmp_path / "out"),
        *("--model", "zeros"),
    )
    assert result.exit_code == 0, result.output
    names = ["iteration", "time", "resolution", "epsilon"]
    report = (tmp_path / "out" / "report.md").read_text()
    for name in names:
        assert (tmp_path / "out" / f"error_by_{name}.png").stat().st_size > 5000
        assert f"error_by_{name}.png" in report
    assert "zeros, where there is no value: epsilon must be small" in report
    values = {
        (r["start"], r["epsilon"]): float(r["error"])
        for r in rows(tmp_path / "out" / "error_by_epsilon.csv")
    }
    assert np.isnan(values["zeros", "1.0"])
    assert 0 < values["zeros", "0.1"] < 1
    curve = rows(tmp_path / "out" / "error_by_iteration.csv")
    assert [int(r["iteration"]) for r in curve if r["start"] == "ones"] == list(range(1, 51))


def test_errors_are_one_line(call, folder, tmp_path, network, monkeypatch):
    monkeypatch.delenv("UNOT_FAST_DATA", raising=False)
    out = ("-o", tmp_path / "out")
    for arguments, message in (
        ((), "set UNOT_FAST_DATA"),
        (("--data", tmp_path / "away"), "away is not a folder"),
        (("--data", folder, "--cells", "LFW"), "no cell can be evaluated"),
        (("--data", folder, "--cells", "dogs"), "'dogs' is none of MNIST, CIFAR"),
        (("--data", folder, "--tables", "3"), "'3' is none of 1, 2, 4"),
        (("--data", folder, *2 * ("--model", "zeros")), "two starts have the same name"),
        (("--data", folder, "--model", "other"), "--model other: no model 'other'"),
        (
            ("--data", folder, "--model", "zeros", "--model", "straight"),
            "networks for different costs, euclidean and sqeuclidean",
        ),
    ):
        result = call("evaluate", *arguments, *out)
        assert result.exit_code != 0
        assert message in result.output
    assert not (tmp_path / "out").exists()
