"""What a GPU runs without waiting: on meta tensors, which have a device of their own and no values.

An operator that mixes them with tensors on the CPU is an error there, and so is reading a number.
In steps that are recorded copies from the CPU are, too.
"""

import contextlib
import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import unot_fast
from tests.training.test_graphs import small
from unot_fast import UNOT, Grid, Sphere, sinkhorn
from unot_fast.models import PRESETS as MODELS
from unot_fast.ops import resolve
from unot_fast.solver import dispatch
from unot_fast.training import Graphs, Trainer

META = torch.device("meta")


class NoCopies(TorchDispatchMode):
    """Nothing comes from the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_to_copy", "copy_"):
            results = func(*args, **(kwargs or {}))
            assert results.device == args[-1].device, func
            return results
        return func(*args, **(kwargs or {}))


def record(call):
    """As for a CUDA graph: after a call to warm up."""
    call()
    with NoCopies():
        call()
    return call


GEOMETRIES = {
    "sqeuclidean": Grid((20, 20)),
    "sqeuclidean 3-D": Grid((6, 6, 6)),
    "l1": Grid((12, 12), "lp", p=1.0),
    "euclidean": Grid((20, 20), "euclidean"),
    "sphere": Sphere(12, 24),
}


@pytest.fixture(autouse=True)
def like_a_gpu(monkeypatch):
    """`sinkhorn` takes "auto" for "cuda", whose operators know the shapes of their results."""

    def found(backend, device):
        return "cuda" if backend == "auto" and device == META else resolve(backend, device)

    monkeypatch.setattr(dispatch, "resolve", found)
    monkeypatch.setattr(dispatch, "_cuda_takes", lambda *_: True)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def measures(shape, dtype=torch.float32):
    return (torch.rand(4, *shape, device=META, dtype=dtype, requires_grad=True) for _ in "ab")


def epsilons():
    return torch.full((4,), 0.05, dtype=torch.float64, device=META)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("init", ["multiscale", "gaussian", "zeros"])
def test_solves_and_their_gradients(name, init):
    geom = GEOMETRIES[name]
    if init == "gaussian" and not name.startswith("sqeuclidean"):
        pytest.skip("no such start")
    a, b = measures(geom.shape)
    result = sinkhorn(a, b, geom, epsilons(), init=init, normalize=True, validate=False)
    assert result.backend == "cuda"
    (result.value.sum() + result.cost.sum()).backward()
    assert a.grad.device == b.grad.device == META


@pytest.mark.parametrize("name", ["sqeuclidean", "euclidean", "sphere", "fourier"])
def test_a_network_with_its_inputs(name):
    model = UNOT(MODELS[name]).to(META)
    geom = model.geometry((24, 48) if name == "sphere" else (28, 28))
    level = model.level(geom)
    a, b = map(level.pool, measures(geom.shape))
    g = model.predict(model.inputs(a, b, level, level.epsilon(epsilons())))
    g.sum().backward()
    assert g.device == META


@pytest.mark.parametrize(
    "config",
    [
        small("tiny", adversary=0.5),
        small("tiny", loss="bootstrap", iterations=5, adversary=0.5),
        small("euclidean", adversary=0.5),
        small("sphere", loss="bootstrap", adversary=0.5, resolutions=(16, 16)),
        small("fourier", adversary=0.5, precision="bfloat16", resolutions=(12, 12)),
    ],
    ids=["converged", "bootstrap", "euclidean", "sphere", "fourier"],
)
@pytest.mark.parametrize("recorded", [False, True])
def test_steps_of_a_training(config, recorded, monkeypatch):
    def plain(optimiser):
        return lambda *arguments, fused, **options: optimiser(*arguments, **options)

    for name in ("AdamW", "Adam"):  # fused ones do not know the device
        monkeypatch.setattr(torch.optim, name, plain(getattr(torch.optim, name)))
    graphs = Graphs(record) if recorded else None
    trainer = Trainer(dataclasses.replace(config, batch=8), META, graphs)
    parts = [trainer.pairs.draw(8, trainer.pairs.random(0, 0, 0))]
    for turn in (0, 5):
        assert trainer._step(parts, turn, 1e-3).device == META
    trainer._generator_step([trainer.pairs.random(0, 0, 0)])


@pytest.mark.parametrize("kind", ["FNO", "TFNO", "SFNO"])
def test_accelerated_models(kind):
    models = pytest.importorskip("neuralop.models")
    options = {"in_channels": 2, "out_channels": 1, "hidden_channels": 8, "n_layers": 2}
    model = getattr(models, kind)(n_modes=(6, 6), **options).to(META)
    with contextlib.redirect_stdout(None):
        unot_fast.accelerate(model)
    y = model(torch.randn(2, 2, 16, 32, device=META))
    y.sum().backward()
    assert all(p.grad.device == META for p in model.parameters())
