"""Recorded steps: the same training, by a recorder that replays operators as a CUDA graph would."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bench.models import float32_products
from tests.training.test_trainer import same, small
from unot_fast.training import Graphs, Trainer

HOST_READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "_linalg_check_errors")


def tensors(tree):
    return [x for x in tree_iter(tree) if isinstance(x, torch.Tensor)]


def share(x, y):
    return x.untyped_storage()._cdata == y.untyped_storage()._cdata


class Operators(TorchDispatchMode):
    """Operators as they are called, with their arguments and results."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in HOST_READS, func
        results = func(*args, **(kwargs or {}))
        precision = torch.get_float32_matmul_precision()
        self.calls.append((func, args, kwargs or {}, results, precision))
        return results

    def replay(self):
        with torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, before, precision in self.calls:
                with float32_products(precision):
                    results = func(*args, **kwargs)
                for old, new in zip(tensors(before), tensors(results), strict=True):
                    if not any(share(old, x) for x in tensors((args, kwargs))):
                        old.copy_(new)


class Recorder:
    """Warms up, and then runs nothing of Python again."""

    def __init__(self):
        self.records = 0

    def __call__(self, call):
        self.records += 1
        call()
        with Operators() as operators:
            call()
        return operators.replay


@pytest.mark.parametrize(
    ("config", "records"),
    [
        (small("tiny"), 1),
        (small("tiny", loss="bootstrap", iterations=5, adversary=0.5, resolutions=(12, 13)), 3),
        (small("sphere", loss="bootstrap", adversary=0.5, resolutions=(12, 12), shards=2), 2),
        (small("euclidean", adversary=0.5, precision="bfloat16", shards=2), 2),
        (small("fourier", resolutions=(10, 11), loss="bootstrap", iterations=5), 2),
    ],
    ids=["sqeuclidean", "adversarial", "sphere", "euclidean", "fourier"],
)
def test_a_recorded_training_is_the_same(config, records):
    recorder = Recorder()
    trainer, recorded = Trainer(config), Trainer(config, graphs=Graphs(recorder))
    for each in (trainer, recorded):
        each.run(rounds=3)
    assert recorder.records == records
    assert [row.loss for row in recorded.history] == [row.loss for row in trainer.history]
    assert same(recorded.model, trainer.model)
    assert same(recorded.average, trainer.average)
    if trainer.adversary is not None:
        for x, y in zip(recorded.adversary.buffers(), trainer.adversary.buffers(), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)
        assert same(recorded.adversary, trainer.adversary)


def test_a_recorded_training_goes_on(tmp_path):
    config = small("tiny")
    whole, half = Trainer(config), Trainer(config, graphs=Graphs(Recorder()))
    whole.run(rounds=2)
    half.run(rounds=1, path=tmp_path / "x")
    again = Trainer.load(tmp_path / "x", graphs=Graphs(Recorder()))
    again.run(rounds=2)
    assert [row.loss for row in again.history] == [row.loss for row in whole.history]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_graphs_need_a_gpu():
    with pytest.raises(RuntimeError, match="need a CUDA device"):
        Graphs()
