"""Stages of a training: what is kept, and when, whatever happens in between."""

import pytest
import torch

from tests.training.test_trainer import same, small
from unot_fast.training import Trainer
from unot_fast.training.stages import Stages


def train(trainer, folder, rounds, stop=None):
    stages = Stages(folder)

    def share(row):
        return row.round / rounds

    def report(row):
        stages.keep(trainer, share)
        if row.round == stop:
            raise KeyboardInterrupt

    if not trainer.history:
        stages.keep(trainer, share)
    trainer.run(
        rounds=rounds, path=folder / "checkpoint.pt", save_every=1e9 if stop is None else 0.0,
        report=report,
    )  # fmt: skip
    return stages.load(trainer)


@pytest.fixture
def config():
    return small(adversary=0.5, batch=4, batches=1, passes=1, validation=2, resolutions=(10, 11))


def test_a_stage_every_tenth(config, tmp_path):
    trainer = Trainer(config)
    stages = train(trainer, tmp_path, 10)
    assert [s.round for s in stages] == list(range(8))
    first = Trainer(config)
    torch.testing.assert_close(
        stages[0].network.state_dict(), first.average.state_dict(), rtol=1e-3, atol=1e-4
    )
    assert same(stages[0].adversary, first.adversary)
    assert not same(stages[1].adversary, stages[7].adversary)
    assert all(p.suffix == ".pt" for p in tmp_path.iterdir())  # nothing half written


def test_fewer_rounds_than_stages(config, tmp_path):
    assert [s.round for s in train(Trainer(config), tmp_path, 3)] == [0, 1, 2]


def test_interrupted_the_stages_are_the_same(config, tmp_path):
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = train(Trainer(config), tmp_path / "whole", 10)
    with pytest.raises(KeyboardInterrupt):  # before the checkpoint of the fifth round
        train(Trainer(config), tmp_path / "broken", 10, stop=5)
    resumed = Trainer.load(tmp_path / "broken" / "checkpoint.pt")
    assert len(resumed.history) == 4
    broken = train(resumed, tmp_path / "broken", 10)
    assert [s.round for s in broken] == [s.round for s in whole] == list(range(8))
    for x, y in zip(whole, broken, strict=True):
        assert same(x.network, y.network)
        assert same(x.adversary, y.adversary)


def test_stages_of_rounds_that_were_lost_go(config, tmp_path):
    trainer = Trainer(config)
    train(trainer, tmp_path, 4)
    assert [s.round for s in Stages(tmp_path).load(trainer)] == [0, 1, 2, 3]
    assert [s.round for s in train(Trainer(config), tmp_path, 2)] == [0, 1]
