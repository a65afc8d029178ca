import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.cli.conftest import blob
from unot_fast import Grid, sinkhorn
from unot_fast.cli.checkpoint import Checkpoint
from unot_fast.cli.images import load, measures


@pytest.fixture
def folder(save, tmp_path):
    """Five pictures, one of them in colour and of another size, and a file that is none."""
    for k in range(4):
        save(f"in/p{k}.png", blob((12, 10), k))
    save("in/p4.jpg", blob((20, 30), 4, 3))
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    return tmp_path / "in"


def expected(folder, tol):
    """Costs and values between all pictures."""
    stack = [measures(load(p).grey(), (12, 10), 1e-6) for p in sorted(folder.glob("p*"))]
    stack = torch.from_numpy(np.concatenate(stack))
    grid = Grid((12, 10), spacing=1 / 11)
    result = sinkhorn(stack[:, None], stack[None], grid, 0.01, tol=tol)
    return result.cost.numpy(), result.value.numpy()


def test_costs(call, folder, tmp_path):
    out = tmp_path / "out"
    result = call("pairwise", folder, "-o", out, "--tol", "1e-10", "--batch", "4")
    assert result.exit_code == 0
    assert "pairs/s" in result.output
    assert "0 of 15 pairs did not converge" in result.output
    distances = np.load(out / "distances.npy")
    np.testing.assert_array_equal(distances, distances.T)
    np.testing.assert_allclose(distances, expected(folder, 1e-10)[0], rtol=1e-7)
    assert np.load(out / "marginal_error.npy").max() <= 1e-10
    assert (out / "distances.png").stat().st_size > 0
    with (out / "distances.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["", "p0.png", "p1.png", "p2.png", "p3.png", "p4.jpg"]
    assert [row[0] for row in rows] == header[1:]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], float), distances)


def test_divergence(call, folder, tmp_path):
    call("pairwise", folder, "-o", tmp_path / "out", "--tol", "1e-10", "--divergence")
    distances = np.load(tmp_path / "out" / "distances.npy")
    value = expected(folder, 1e-10)[1]
    own = np.diag(value)
    np.testing.assert_allclose(distances, value - (own[:, None] + own) / 2, atol=1e-9)
    np.testing.assert_array_equal(np.diag(distances), 0)
    assert distances[np.triu_indices(5, 1)].min() > 0


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_array(call, tmp_path, dtype):
    stack = np.stack([blob((9, 7), k) for k in range(3)])
    np.save(tmp_path / "s.npy", stack.astype(dtype) / (1 if dtype == np.uint8 else 255))
    assert call("pairwise", tmp_path / "s.npy", "-o", tmp_path / "out").exit_code == 0
    with (tmp_path / "out" / "distances.csv").open() as file:
        assert file.readline().strip() == ",s.npy[0],s.npy[1],s.npy[2]"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["parameters"]["grid"] == [9, 7]


def test_a_complete_run_is_not_done_again(call, folder, tmp_path, monkeypatch):
    arguments = ("pairwise", folder, "-o", tmp_path / "out")
    call(*arguments)
    before = np.load(tmp_path / "out" / "distances.npy")
    monkeypatch.setattr("unot_fast.cli.options.sinkhorn", None)  # not callable
    result = call(*arguments)
    assert result.exit_code == 0
    assert "15 of them were done before" in result.output
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "distances.npy"), before)


@pytest.mark.parametrize("divergence", [False, True])
def test_resume_after_sigkill(call, tmp_path, divergence):
    n = 20
    np.save(tmp_path / "s.npy", np.stack([blob((24, 24), k) for k in range(n)]))
    flags = ["--tol", "1e-8", "--batch", "1", "--threads", "1"]
    flags += ["--divergence"] if divergence else []

    def arguments(out):
        return ["pairwise", str(tmp_path / "s.npy"), "-o", str(tmp_path / out), *flags]

    line = [sys.executable, "-m", "unot_fast.cli", *arguments("killed")]
    run = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path, done = tmp_path / "killed" / "distances.npy", 0
    while run.poll() is None and done < n * n // 10:
        time.sleep(0.001)
        if path.exists():
            done = np.isfinite(np.load(path, mmap_mode="r")).sum()
    run.kill()
    assert run.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    partial = np.load(path)
    assert 0 < np.isnan(partial).sum() < n * n

    resumed = call(*arguments("killed"))
    assert resumed.exit_code == 0
    assert "were done before" in resumed.output
    assert call(*arguments("whole")).exit_code == 0
    whole, continued = np.load(tmp_path / "whole" / "distances.npy"), np.load(path)
    kept = np.isfinite(partial)
    np.testing.assert_array_equal(continued[kept], partial[kept])
    np.testing.assert_array_equal(continued, whole)


def test_half_a_symmetric_pair_is_done_again(tmp_path):
    names, stack = ["a", "b", "c"], np.ones((3, 2, 2))
    checkpoint = Checkpoint(tmp_path, names, stack, {})
    checkpoint.distances[:] = 1
    assert list(checkpoint.missing()) == []
    checkpoint.distances[2, 0] = np.nan
    assert list(checkpoint.missing()) == [(0, 2)]
    checkpoint.distances[1, 1] = np.nan
    assert list(checkpoint.missing()) == [(1, 1), (0, 2)]


def test_other_parameters_are_refused(call, folder, tmp_path):
    out = tmp_path / "out"
    call("pairwise", folder, "-o", out)
    result = call("pairwise", folder, "-o", out, "--epsilon", "0.02", "--divergence")
    assert result.exit_code == 1
    assert "divergence was False, now True; epsilon was 0.01, now 0.02" in result.stderr


def test_other_inputs_are_refused(call, folder, save, tmp_path):
    call("pairwise", folder, "-o", tmp_path / "out")
    save("in/p2.png", blob((12, 10), 99))
    result = call("pairwise", folder, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "the inputs have other contents" in result.stderr
    save("in/p9.png", blob((12, 10), 9))
    result = call("pairwise", folder, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "other inputs (5 then, 6 now)" in result.stderr


def test_a_foreign_matrix_is_left_alone(call, folder, tmp_path):
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "out" / "distances.npy", np.ones((5, 5)))
    result = call("pairwise", folder, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "run.json that says what it is does not" in result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "distances.npy"), 1)


def test_not_converged_is_counted(call, folder, tmp_path):
    options = ("--max-iter", "1", "--tol", "1e-9", "--init", "zeros")
    for _ in range(2):  # also by a run that has nothing left to do
        result = call("pairwise", folder, "-o", tmp_path / "out", *options)
        assert result.exit_code == 3
        assert "warning: 15 pairs did not converge" in result.stderr


def test_too_few_pictures(call, save, tmp_path):
    save("in/only.png", blob((8, 8), 0))
    result = call("pairwise", tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "needs at least 2 pictures, has 1" in result.stderr


def test_black_picture_is_named(call, folder, save, tmp_path):
    save("in/p1.png", np.zeros((12, 10), np.uint8))
    result = call("pairwise", folder, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "p1.png: the picture has no mass" in result.stderr


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 4)), r"needs a real array of shape (N, H, W); got (4, 4), float64"),
        (np.ones((2, 4, 4), complex), "needs a real array"),
        (np.full((2, 4, 4), np.nan), "negative, infinite or NaN"),
        (np.zeros((0, 4, 4)), "s.npy: there are no pixels"),
        (np.stack([np.ones((4, 4)), np.zeros((4, 4))]), "s.npy[1]: the picture has no mass"),
    ],
)
def test_bad_arrays(call, tmp_path, array, message):
    np.save(tmp_path / "s.npy", array)
    result = call("pairwise", tmp_path / "s.npy", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_file_that_is_no_array(call, save, tmp_path):
    result = call("pairwise", save("a.png", blob((8, 8), 0)), "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "a.png: cannot be read as a .npy array" in result.stderr
