import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.conftest import blob
from unot_fast import Grid, sinkhorn
from unot_fast.cli.images import load, measures

OUTPUTS = ("strip.png", "interpolation.gif", "potentials.png", "potentials.npz", "result.json")


def test_grey_pictures(call, save, tmp_path):
    a, b = save("a.png", blob((16, 12), 0)), save("b.png", blob((16, 12), 1))
    result = call("solve", a, b, "-o", tmp_path / "out", "--epsilon", "0.02", "--tol", "1e-6")
    assert result.exit_code == 0
    for name in OUTPUTS:
        assert (tmp_path / "out" / name).stat().st_size > 0

    one, two = (torch.from_numpy(measures(load(p), (16, 12), 1e-6)) for p in (a, b))
    expected = sinkhorn(one, two, Grid((16, 12), extent=(1, 11 / 15)), 0.02, tol=1e-6)
    report = json.loads((tmp_path / "out" / "result.json").read_text())
    assert list(report["channels"]) == ["grey"]
    grey = report["channels"]["grey"]
    assert grey["cost"] == pytest.approx(float(expected.cost), rel=1e-9)
    assert grey["value"] == pytest.approx(float(expected.value), rel=1e-9)
    assert grey["n_iters"] == int(expected.n_iters)
    assert grey["converged"] is report["converged"] is True
    assert grey["marginal_error"] <= 1e-6
    assert report["grid"] == {"shape": [16, 12], "extent": pytest.approx([1, 11 / 15])}
    assert report["parameters"]["epsilon"] == 0.02
    assert report["backend"] == expected.backend
    for word in ("cost", "value", "iterations", "coarse work", "marginal error", "converged"):
        assert word in result.output

    saved = np.load(tmp_path / "out" / "potentials.npz")
    np.testing.assert_allclose(saved["f"], expected.f.numpy(), atol=1e-12)
    np.testing.assert_allclose(saved["g"], expected.g.numpy(), atol=1e-12)
    assert saved["epsilon"] == 0.02
    np.testing.assert_allclose(saved["extent"], [1, 11 / 15])


def test_colour_pictures_of_different_sizes(call, save, tmp_path):
    a, b = save("a.png", blob((9, 14), 0, 3)), save("b.jpg", blob((30, 21), 1, 3))
    result = call("solve", a, b, "-o", tmp_path / "out", "--steps", "3")
    assert result.exit_code == 0
    report = json.loads((tmp_path / "out" / "result.json").read_text())
    assert list(report["channels"]) == ["red", "green", "blue"]
    costs = [c["cost"] for c in report["channels"].values()]
    assert report["mean"]["cost"] == pytest.approx(np.mean(costs))
    assert report["grid"]["shape"] == [9, 14]
    with Image.open(tmp_path / "out" / "strip.png") as strip:
        assert strip.mode == "RGB"
        assert strip.width == 3 * 14 * 18 + 2 * 4
        assert strip.height == 9 * 18


def test_grey_meets_colour(call, save, tmp_path):
    a, b = save("a.png", blob((8, 8), 0)), save("b.png", blob((8, 8), 1, 3))
    assert call("solve", a, b, "-o", tmp_path / "c", "--steps", "2").exit_code == 0
    assert call("solve", a, b, "-o", tmp_path / "g", "--steps", "2", "--grey").exit_code == 0
    colour, grey = (json.loads((tmp_path / x / "result.json").read_text()) for x in "cg")
    assert len(colour["channels"]) == 3
    assert len(grey["channels"]) == 1


@pytest.mark.parametrize("invert", [False, True])
def test_the_strip_starts_and_ends_with_the_pictures(call, save, tmp_path, invert):
    ends = [blob((16, 16), seed).astype(float) for seed in (0, 1)]
    paths = [save(f"{k}.png", x.astype(np.uint8)) for k, x in enumerate(ends)]
    flags = ["--invert"] if invert else []
    call("solve", *paths, "-o", tmp_path / "out", "--tol", "1e-8", "--dust", "0", *flags)
    with Image.open(tmp_path / "out" / "strip.png") as strip:
        pixels = np.asarray(strip)[8::16, :].astype(float)
    white = max((255 - x if invert else x).max() for x in ends)
    for shown, picture in ((pixels[:, 8:256:16], ends[0]), (pixels[:, -248::16], ends[1])):
        mass = (255 - picture if invert else picture) * 255 / white
        np.testing.assert_allclose(shown, 255 - mass if invert else mass, atol=1)


def test_the_gif_goes_there_and_back(call, save, tmp_path):
    paths = [save(f"{k}.png", blob((8, 8), k)) for k in (0, 1)]
    call("solve", *paths, "-o", tmp_path / "out", "--steps", "5")
    with Image.open(tmp_path / "out" / "interpolation.gif") as gif:
        assert gif.n_frames == 8
        assert gif.info["loop"] == 0


@pytest.mark.parametrize("shape", [(40, 1), (1, 40), (7, 5)])
def test_thin_and_odd_pictures(call, save, tmp_path, shape):
    paths = [save(f"{k}.png", blob(shape, k)) for k in (0, 1)]
    result = call("solve", *paths, "-o", tmp_path / "out", "--steps", "2")
    assert result.exit_code == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["grid"]["shape"] == [*shape]


@pytest.mark.parametrize(
    "options",
    [
        ("--cost", "lp", "-p", "1", "--epsilon", "0.05"),
        ("--cost", "euclidean", "--epsilon", "0.05", "--size", "16"),
        ("--init", "zeros"),
        ("--init", "gaussian"),
        ("--backend", "reference"),
        ("--size", "6x10"),
        ("--size", "10", "--threads", "1"),
    ],
)
def test_options(call, save, tmp_path, options):
    paths = [save(f"{k}.png", blob((8, 8), k)) for k in (0, 1)]
    assert call("solve", *paths, "-o", tmp_path / "out", "--steps", "2", *options).exit_code == 0


def test_not_converged_warns_and_exits_with_3(call, save, tmp_path):
    paths = [save(f"{k}.png", blob((12, 12), k)) for k in (0, 1)]
    options = ("--tol", "1e-9", "--max-iter", "1", "--init", "zeros", "--steps", "2")
    result = call("solve", *paths, "-o", tmp_path / "out", *options)
    assert result.exit_code == 3
    assert "warning: not converged" in result.stderr
    assert "above --tol 1e-09 after 1 iterations" in result.stderr
    assert json.loads((tmp_path / "out" / "result.json").read_text())["converged"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epsilon", "0"), "epsilon"),
        (("--epsilon", "nan"), "epsilon must be positive and finite"),
        (("--size", "12x"), "'12x' is neither a number of pixels nor HxW"),
        (("--size", "0"), "'0' is neither a number of pixels nor HxW"),
        (("--cost", "lp"), "p must be a number >= 1"),
        (("-p", "3"), "p goes with cost='lp'"),
        (("--cost", "lp", "-p", "1", "--init", "gaussian"), "squared Euclidean"),
        (("--cost", "euclidean", "--init", "gaussian"), "squared Euclidean"),
        (("--backend", "abacus"), "backend must be 'auto' or one of"),
        (("--steps", "1"), "--steps"),
    ],
)
def test_bad_options_are_named(call, save, tmp_path, options, message):
    paths = [save(f"{k}.png", blob((8, 8), k)) for k in (0, 1)]
    result = call("solve", *paths, "-o", tmp_path / "out", *options)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_black_picture(call, save, tmp_path):
    a, b = save("a.png", blob((8, 8), 0)), save("night.png", np.zeros((8, 8), np.uint8))
    result = call("solve", a, b, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "night.png: the picture has no mass" in result.stderr
    assert not (tmp_path / "out").exists()


def test_missing_file(call, save, tmp_path):
    result = call("solve", save("a.png", blob((8, 8), 0)), tmp_path / "b.png", "-o", tmp_path)
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
