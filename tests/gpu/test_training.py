"""Networks and their training on a CUDA device, against the same on the CPU."""

import dataclasses

import pytest
import torch

from unot_fast import UNOT
from unot_fast.models import PRESETS as MODELS
from unot_fast.training import PRESETS, Graphs, Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", ["sqeuclidean", "euclidean", "sphere", "fourier"])
def test_a_network_predicts_the_same(name):
    torch.manual_seed(0)
    model = UNOT(MODELS[name]).eval()
    torch.nn.init.normal_(model.network.projection.weight, std=0.02)
    shape = (32, 64) if name == "sphere" else (28, 28)
    a, b = torch.rand(2, 4, *shape)
    expected = model(a, b)
    out = model.cuda()(a.cuda(), b.cuda()).cpu()
    # The sweeps run in tf32 there, and epsilon is the unit of what an iteration sees.
    assert (out - expected).abs().max() < 0.05 * model.epsilon


@pytest.mark.parametrize("preset", ["sqeuclidean", "sphere", "fourier"])
def test_training_reduces_the_loss(preset):
    config = dataclasses.replace(
        PRESETS[preset], batch=64, batches=4, validation=64, resolutions=(16, 24), adversary=0.5
    )
    trainer = Trainer(config, "cuda")
    before = trainer.validate()
    trainer.run(rounds=20)
    assert trainer.history[-1].validation < before


@pytest.mark.parametrize("preset", ["sqeuclidean", "euclidean", "sphere", "fourier"])
def test_recorded_steps_are_the_same(preset):
    config = dataclasses.replace(
        PRESETS[preset], batch=32, batches=2, passes=2, validation=16, resolutions=(16, 18),
        loss="bootstrap", iterations=5, adversary=0.5,
    )  # fmt: skip
    trainer, recorded = Trainer(config, "cuda"), Trainer(config, "cuda", Graphs())
    for each in (trainer, recorded):
        each.run(rounds=3)
    for x, y in zip(trainer.history, recorded.history, strict=True):
        assert y.loss == pytest.approx(x.loss, rel=1e-3)
        assert y.validation == pytest.approx(x.validation, rel=1e-3)
