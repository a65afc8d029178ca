"""Files of weights: their precision, and files that are something else."""

import dataclasses

import pytest
import torch

from unot_fast.models import PRESETS, UNOT

CONFIG = dataclasses.replace(PRESETS["tiny"], width=8, depth=1)


@pytest.fixture
def model():
    network = UNOT(CONFIG)
    with torch.no_grad():
        network.network.projection.weight.normal_()
    return network


def largest_difference(model, path):
    again = UNOT.from_pretrained(path)
    both = zip(model.parameters(), again.parameters(), strict=True)
    return max(float((p - q).abs().max()) for p, q in both)


def test_nothing_is_rounded_unless_asked_for(model, tmp_path):
    model.save_pretrained(tmp_path / "whole")
    assert largest_difference(model, tmp_path / "whole") == 0
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert 0 < largest_difference(model, tmp_path / "half") < 2e-3
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "whole").stat().st_size


def test_weights_beyond_half_precision(model, tmp_path):
    with torch.no_grad():
        model.network.projection.weight[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"dtype must hold 100000, .*projection.weight.*65504"):
        model.save_pretrained(tmp_path / "x", dtype=torch.float16)
    assert not (tmp_path / "x").exists()
    model.save_pretrained(tmp_path / "x", dtype=torch.bfloat16)
    assert largest_difference(model, tmp_path / "x") < 300


def test_a_file_of_torch_is_told(tmp_path):
    torch.save({"lifting.weight": torch.zeros(1)}, tmp_path / "unot_fno.pt")
    with pytest.raises(ValueError, match=r"is a file of torch\.save: PublishedUNOT\.load reads"):
        UNOT.from_pretrained(tmp_path / "unot_fno.pt")
