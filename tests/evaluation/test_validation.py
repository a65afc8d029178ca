import dataclasses

import numpy as np
import pytest
import torch

from unot_fast.evaluation import CELLS, CostError, Evaluation, Start, pairs
from unot_fast.models import PRESETS, UNOT

RNG = np.random.default_rng(0)


def tiny(preset):
    return dataclasses.replace(PRESETS[preset], width=8, depth=1)


@pytest.fixture
def folder(tmp_path):
    np.savez(tmp_path / "mnist.npz", images=RNG.integers(1, 256, (9, 12, 12)).astype(np.uint8))
    np.savez(tmp_path / "sphere_mnist.npz", images=RNG.random((9, 32, 64)))
    return tmp_path


@pytest.mark.parametrize(
    ("preset", "name", "n"),
    [("tiny", "MNIST", 28), ("euclidean", "MNIST", 28), ("sphere", "sphere-MNIST", 32)],
)
def test_it_is_the_error_of_the_table(folder, preset, name, n):
    model = UNOT(tiny(preset))
    found = CostError(folder, model.config, count=3)
    assert found.cells == [name]
    assert any(line.startswith("sphere-Earth" if n == 32 else "CIFAR") for line in found.missing)
    mu, nu = pairs(CELLS[name], 3, 0, n, data=folder)
    evaluation = Evaluation(mu, nu, model.geometry(mu.shape[1:]), model.epsilon)
    expected = evaluation.relative_errors(Start("network", model), 1).mean()
    assert found(model) == pytest.approx(float(expected), rel=1e-6)
    with torch.no_grad():
        model.network.projection.bias.normal_(std=3)
    assert found(model) != pytest.approx(float(expected), rel=1e-6)  # nothing is kept


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="has no image sets: MNIST: mnist: nothing named mnist"):
        CostError(tmp_path, tiny("tiny"))
