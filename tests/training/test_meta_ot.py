"""Meta OT: its objective, and training on it."""

import pytest
import torch

from tests.conftest import normalised
from unot_fast import Grid, sinkhorn
from unot_fast.evaluation import ONES, Evaluation, Start
from unot_fast.training import RandomMeasures, train_meta_ot
from unot_fast.training.meta_ot import semidual

GRID, EPS = Grid((8, 8)), 0.05


def measures(count):
    return normalised(torch.rand(count, 8, 8, dtype=torch.float64) ** 4, dust=1e-3)


def objective(a, b, f):
    """By the dense cost matrix."""
    a, b, f = (x.flatten(1) for x in (a, b, f))
    g = -EPS * torch.logsumexp(a.log()[:, None] + (f[:, None] - GRID.cost_matrix().T) / EPS, -1)
    return (f * a).sum(1) + (g * b).sum(1)


def test_the_semidual_and_its_gradient():
    a, b = measures(10).chunk(2)
    f = (0.1 * torch.randn(5, 8, 8, dtype=torch.float64)).requires_grad_()
    expected = objective(a, b, f)
    (gradient,) = torch.autograd.grad(expected.sum(), f)
    value, ours = semidual(a, b, GRID, EPS, f.detach())
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(ours, gradient)


def test_its_maximum_is_the_value_of_the_problem():
    a, b = measures(6).chunk(2)
    exact = sinkhorn(a, b, GRID, EPS, tol=1e-10)
    value, gradient = semidual(a, b, GRID, EPS, exact.f)
    torch.testing.assert_close(value, exact.value)
    assert gradient.abs().max() < 1e-9
    assert (semidual(a, b, GRID, EPS, exact.f + 0.01 * torch.randn_like(a))[0] < value).all()


def test_training_without_targets():
    seen = []
    images = RandomMeasures(GRID)(576, torch.Generator().manual_seed(0))
    model = train_meta_ot(
        images[64:], GRID, EPS, steps=250, batch=32, width=64,
        report=lambda step, value: seen.append((step, value)),
    )  # fmt: skip
    steps, values = zip(*seen, strict=True)
    assert steps == tuple(range(1, 251))
    assert sum(values[-25:]) > sum(values[:25])
    held_back = Evaluation(*normalised(images[:64].double()).chunk(2), GRID, EPS)
    own, ones = (held_back.relative_errors(s, 1).mean() for s in (Start("Meta OT", model), ONES))
    assert own < 0.5 * ones


def test_it_is_a_function_of_the_seed():
    images = measures(16)

    def weights(seed):
        torch.rand(seed + 1)  # the global state does not matter
        model = train_meta_ot(images, GRID, EPS, steps=5, batch=8, width=8, seed=seed)
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_bad_arguments():
    train_meta_ot(measures(4), GRID, EPS, budget=0.05, batch=2, width=4)
    for images, options, message in (
        (measures(4), {}, "either steps or budget"),
        (measures(4), {"steps": 1, "budget": 1.0}, "either steps or budget"),
        (measures(4)[:, 1:], {"steps": 1}, "measures must have shape"),
        (0 * measures(4), {"steps": 1}, "measures must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            train_meta_ot(images, GRID, EPS, **options)
