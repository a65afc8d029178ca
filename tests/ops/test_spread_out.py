"""Solves that a host spreads over launches, against the reference."""

import pytest
import torch

from tests.conftest import adversarial
from unot_fast import Grid, Sphere
from unot_fast.ops import sinkhorn_stationary, spread_out

GEOMETRIES = [
    Grid((7, 12), "euclidean"),
    Grid((5, 9), "euclidean", spacing=0.1, target=Grid((8, 6), spacing=0.1)),
    Sphere(6, 9),
    Grid((4, 3, 5), lambda d: d.norm(dim=-1)),
]


def solve(a, b, geom, solver=None, **options):
    table, row_class = geom.kernel_costs[1]
    epsilon = torch.logspace(-3, 0, len(a), dtype=torch.float64)
    arguments = a, b, table, row_class, epsilon, torch.zeros_like(b)
    if solver is None:
        return sinkhorn_stationary(*arguments, backend="reference", **options)
    return solver(*arguments, *options.values(), backend="cpu")


def test_no_problems():
    geom = GEOMETRIES[0]
    a = torch.zeros(0, *geom.shape, dtype=torch.float64)
    options = dict(tol=1e-2, criterion="marginal", max_iter=3, overrelaxation=None)
    found = solve(a, a, geom, spread_out.sinkhorn_stationary, **options)
    assert found[0].shape == a.shape
    assert found[2].shape == (0,)


@pytest.mark.parametrize("criterion", ["marginal", "cost"])
@pytest.mark.parametrize("weight", [None, 1.0, 1.5])
@pytest.mark.parametrize("geom", GEOMETRIES, ids=repr)
def test_follows_the_reference(geom, weight, criterion):
    a, b = adversarial(geom.shape, geom.target_shape)
    options = dict(tol=1e-2, criterion=criterion, max_iter=11, overrelaxation=weight)
    truth = solve(a, b, geom, **options)
    found = solve(a, b, geom, spread_out.sinkhorn_stationary, **options)
    epsilon = torch.logspace(-3, 0, len(a), dtype=torch.float64)
    for x, y in zip(found[:2], truth[:2], strict=True):
        assert float(((x - y).flatten(1).abs().amax(1) / epsilon).max()) <= 1e-9
    for x, y in zip(found[2:5], truth[2:5], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)
    assert torch.equal(found[5], truth.n_iters)
    assert torch.equal(found[6], truth.converged)
