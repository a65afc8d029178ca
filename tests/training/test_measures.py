"""Random measures are measures, of many kinds, and the same for the same seed."""

import pytest
import torch

from unot_fast import Grid, Sphere
from unot_fast.training import RandomMeasures


@pytest.mark.parametrize("geom", [Grid((16, 16)), Grid((9, 30)), Sphere(12, 24)])
def test_they_are_measures(geom):
    x = RandomMeasures(geom)(200, torch.Generator().manual_seed(1))
    assert x.shape == (200, *geom.shape)
    assert (x > 0).all()
    torch.testing.assert_close(x.sum((1, 2)), torch.ones(200))
    density = x / geom.masses(torch.ones(geom.shape)) if isinstance(geom, Sphere) else x
    contrast = (density.amax((1, 2)) / density.mean((1, 2))).log()
    assert contrast.std() > 0.5  # from nearly uniform to nearly a point


def test_the_same_for_the_same_seed():
    source = RandomMeasures(Grid((8, 8)))
    x, y, z = (source(20, torch.Generator().manual_seed(k)) for k in (1, 1, 2))
    assert torch.equal(x, y)
    assert not torch.equal(x, z)
