"""The network of Meta OT: a start on one grid, and what it refuses."""

import pytest
import torch

from tests.conftest import normalised
from unot_fast import Grid, Sphere, sinkhorn
from unot_fast.models import MetaOT


@pytest.fixture
def model():
    return MetaOT(Grid((8, 8)), 0.05, width=16)


def test_three_hidden_layers_by_default():
    sizes = [p.shape for p in MetaOT(Grid((28, 28))).parameters() if p.ndim == 2]
    assert sizes == [(1024, 1568), (1024, 1024), (1024, 1024), (784, 1024)]


def test_a_start_of_the_solver(model):
    a, b = torch.rand(2, 2, 3, 8, 8, dtype=torch.float64)
    a[0, 0, 1], b[1, :, 3] = 0, 0  # empty pixels
    result = sinkhorn(a, b, Grid((8, 8)), 0.05, init=model, normalize=True)
    assert result.converged.all()
    assert model(a, b).dtype == torch.float64
    torch.testing.assert_close(model(a, b), model(2 * a, 3 * b))
    torch.testing.assert_close(model(a, b)[1, 2], model(a[1, 2], b[1, 2]))


def test_its_g_is_a_half_step_from_f(model):
    a, b = normalised(torch.rand(2, 3, 8, 8, dtype=torch.float64))
    h = a.log() + model.predict(a, b) / 0.05
    log_kernel = -Grid((8, 8)).cost_matrix() / 0.05
    g = -0.05 * torch.logsumexp(h.flatten(1)[:, :, None] + log_kernel, 1)
    torch.testing.assert_close(model(a, b).flatten(1), g)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, a: m(a, a[:1]), "mu and nu must have one shape"),
        (lambda m, a: m(a[..., 1:], a[..., 1:]), "mu and nu must have one shape"),
        (lambda m, a: m(a, a, Grid((9, 9))), "geom must be Grid"),
        (lambda m, a: m(a, a, Grid((8, 8), extent=2.0)), "geom must be Grid"),
        (lambda m, a: m(a, a, Grid((8, 8), "euclidean")), "geom must be Grid"),
        (lambda m, a: m(a, a, Sphere(8, 8)), "geom must be Grid"),
        (lambda m, a: m(a, 0 * a), "nu must be finite, non-negative and not zero"),
        (lambda m, a: m(a, a, None, 0.04), r"epsilon must be 0\.05"),
        (lambda m, a: MetaOT(Sphere(8, 8)), "geom must be a Grid"),
        (lambda m, a: MetaOT(Grid((8, 8), target=(8, 7))), "same points on either side"),
        (lambda m, a: MetaOT(Grid((8, 8)), 0.0), "epsilon must be positive"),
    ],
)
def test_bad_input(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, torch.rand(2, 8, 8))
