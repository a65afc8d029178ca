import importlib.util

import numpy as np
import pytest
from PIL import Image

from unot_fast.cli.demo import _iterations_to
from unot_fast.cli.samples import random_pairs


@pytest.fixture
def needs_pictures():
    pytest.importorskip("skimage")


def test_demo(call, needs_pictures, tmp_path):
    pytest.importorskip("ot")
    result = call("demo", "-o", tmp_path, "--pairs", "3", "--size", "16")
    assert result.exit_code == 0
    lines = [line for line in result.output.splitlines() if line.startswith(("unot-fast", "POT"))]
    assert [line.split("  ")[0] for line in lines] == [
        "unot-fast, zeros",
        "unot-fast, gaussian",
        "unot-fast, multiscale",
        lines[3].split("  ")[0],
    ]
    assert lines[3].startswith("POT sinkhorn")
    assert "~" in lines[3]
    assert len({len(line) for line in lines}) == 1
    for line in lines:  # every start is timed at an error below 1 %
        assert float(line.split("/")[1].split()[0]) < 1
    with Image.open(tmp_path / "demo.png") as figure:
        assert figure.width > 1200
    assert (tmp_path / "demo.png").stat().st_size < 300_000


def test_iterations_are_counted_from_where_the_error_stays_small():
    curve = np.array([[0.5, 0.001, 0.5], [0.001, 0.001, 0.001], [0.02, 0.001, 0.001]])
    np.testing.assert_array_equal(_iterations_to(np.vstack([curve, [[0.001] * 3]])), [4, 1, 2])


def test_pairs_are_reproducible_and_have_mass(needs_pictures):
    a, b = random_pairs(8, 16, seed=0)
    np.testing.assert_array_equal(random_pairs(8, 16, seed=0)[0], a)
    assert a.shape == b.shape == (8, 16, 16)
    assert min(a.sum((1, 2)).min(), b.sum((1, 2)).min()) > 0


@pytest.mark.parametrize(("package", "extra"), [("skimage", "scikit-image"), ("ot", "POT")])
def test_missing_packages_are_named(call, monkeypatch, package, extra):
    find, load = importlib.util.find_spec, importlib.import_module

    def absent(name, *rest):
        if name == package:
            raise ModuleNotFoundError(name=name)
        return load(name, *rest)

    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a)
    )
    monkeypatch.setattr(importlib, "import_module", absent)
    result = call("demo", "--pairs", "2", "--size", "8")
    assert result.exit_code == 1
    assert f"{extra} is not installed: pip install 'unot-fast[demo]'" in result.stderr
