"""The Triton kernels in Triton's interpreter; `test_interpreter.py` runs this file.

It needs TRITON_INTERPRET=1 before Triton is imported, which the rest of the tests must not see.
"""

import pytest
import torch

import unot_fast
from tests.conftest import adversarial, normalised
from unot_fast import Grid
from unot_fast.ops import separable_lse, sinkhorn_separable

SHAPES = [((6,), (9,)), ((5, 4), (3, 6)), ((2, 3, 4), (2, 3, 4))]


def few(n, m):
    """A random pair, Dirac to Dirac, and scattered pixels: the interpreter is slow."""
    a, b = adversarial(n, m)
    return a[[0, 1, 5]], b[[0, 1, 5]]


def solve(a, b, costs, epsilon, backend, **options):
    options = dict(tol=0.0, criterion="marginal", max_iter=3, overrelaxation=1.0) | options
    g = torch.zeros_like(b)
    return sinkhorn_separable(a, b, costs, epsilon, g, backend=backend, **options)


def spread(x, y):
    """Largest difference of potentials up to a constant, per problem."""
    d = (x.double() - y.double()).flatten(1)
    return d.amax(1) - d.amin(1)


@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("eps", [1e-4, 1e-2, 10.0])
def test_log_sum(n, m, eps):
    h = 20 * torch.randn(2, *m, dtype=torch.float64)
    h[0][..., ::2] = -torch.inf
    costs = list(Grid(n, target=m).axis_costs)
    epsilon = torch.tensor([eps, 3 * eps], dtype=torch.float64)
    truth = separable_lse(h, costs, epsilon, backend="reference")
    out = separable_lse(h, costs, epsilon, backend="triton")
    assert torch.allclose(out, truth, rtol=1e-12, atol=1e-10)
    single = separable_lse(h.float(), costs, epsilon, backend="triton")
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), truth, rtol=1e-6, atol=2e-5)


def test_log_sum_of_nothing_and_of_forbidden_pairs():
    h = torch.randn(2, 4, 5, dtype=torch.float64)
    h[1] = -torch.inf
    costs = list(Grid((4, 5)).axis_costs)
    costs[0] = costs[0].masked_fill(torch.eye(4, dtype=torch.bool), torch.inf)
    epsilon = torch.full((2,), 0.1, dtype=torch.float64)
    for x in (h, h.float()):
        out = separable_lse(x, costs, epsilon, backend="triton")
        truth = separable_lse(x, costs, epsilon, backend="reference")
        assert bool((out[1] == -torch.inf).all())
        assert torch.allclose(out[0], truth[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("eps", [1e-4, 1e-2, 10.0])
def test_plain_iterations(n, m, eps):
    a, b = few(n, m)
    epsilon = torch.full((len(a),), eps, dtype=torch.float64)
    costs = list(Grid(n, target=m).axis_costs)
    truth = solve(a, b, costs, epsilon, "reference")
    double = solve(a, b, costs, epsilon, "triton")
    for x, y in ((double.f, truth.f), (double.g, truth.g)):
        assert bool(x.isfinite().all())
        assert float((x - y).abs().max()) <= 1e-9 * eps
    assert torch.allclose(double.cost, truth.cost, rtol=1e-9, atol=1e-15)
    assert torch.allclose(double.value, truth.value, rtol=1e-9, atol=1e-9 * eps)
    assert torch.allclose(double.marginal_error, truth.marginal_error, atol=1e-9)
    assert bool((double.n_iters == 3).all())

    single = solve(a.float(), b.float(), costs, epsilon, "triton")
    assert single.f.dtype == torch.float32
    # float32 knows a potential to 2^-24 of the largest exponent, max_cost / eps nats
    nats = 2 / eps
    tolerance = eps * (2e-5 + 16 * nats * 2**-24)
    for x, y in ((single.f, truth.f), (single.g, truth.g)):
        assert bool(x.isfinite().all())
        assert float(spread(x, y).max()) <= tolerance


@pytest.mark.parametrize("weight", [1.5, None])
@pytest.mark.parametrize("criterion", ["marginal", "cost"])
@pytest.mark.parametrize("eps", [0.05])
def test_overrelaxed_iterations_and_stopping(weight, criterion, eps):
    a, b = few((5, 4), (5, 4))
    epsilon = torch.full((len(a),), eps, dtype=torch.float64)
    costs = list(Grid((5, 4)).axis_costs)
    options = dict(overrelaxation=weight, criterion=criterion, tol=1e-2, max_iter=7)
    truth = solve(a, b, costs, epsilon, "reference", **options)
    out = solve(a, b, costs, epsilon, "triton", **options)
    assert torch.equal(out.n_iters, truth.n_iters)
    assert torch.equal(out.converged, truth.converged)
    assert float((out.f - truth.f).abs().max()) <= 1e-8 * eps
    assert torch.allclose(out.cost, truth.cost, rtol=1e-8, atol=1e-14)


def test_one_epsilon_per_problem():
    a, b = few((5, 6), (5, 6))
    epsilon = torch.logspace(-4, 1, len(a), dtype=torch.float64)
    costs = list(Grid((5, 6)).axis_costs)
    truth = solve(a, b, costs, epsilon, "reference")
    out = solve(a, b, costs, epsilon, "triton")
    error = (out.g - truth.g).abs().flatten(1).amax(1)
    assert bool((error <= 1e-9 * epsilon).all())


@pytest.mark.parametrize("criterion", ["marginal", "cost"])
def test_spread_out_solve(criterion, monkeypatch):
    """The launches for large grids, on a small one."""
    from unot_fast.kernels import sinkhorn_separable as kernels

    monkeypatch.setattr(kernels, "_LARGEST_PER_PROGRAM", 1)
    a, b = few((5, 4), (5, 4))
    epsilon = torch.full((len(a),), 0.02, dtype=torch.float64)
    costs = list(Grid((5, 4)).axis_costs)
    for weight in (1.0, None):
        options = dict(overrelaxation=weight, criterion=criterion, tol=1e-2, max_iter=6)
        truth = solve(a, b, costs, epsilon, "reference", **options)
        out = solve(a, b, costs, epsilon, "triton", **options)
        assert torch.equal(out.n_iters, truth.n_iters)
        assert float((out.f - truth.f).abs().max()) <= 1e-8 * 0.02
        assert torch.allclose(out.cost, truth.cost, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("n", [35])
def test_image_sized_tiles(n):
    """Several tiles, and one that is cut off."""
    a, b = (normalised(torch.rand(1, n, n, dtype=torch.float64)) for _ in range(2))
    epsilon = torch.tensor([0.01], dtype=torch.float64)
    costs = list(Grid((n, n)).axis_costs)
    truth = solve(a, b, costs, epsilon, "cpu", max_iter=1)
    double = solve(a, b, costs, epsilon, "triton", max_iter=1)
    assert float((double.f - truth.f).abs().max()) <= 1e-9 * 0.01
    single = solve(a.float(), b.float(), costs, epsilon, "triton", max_iter=1)
    assert float(spread(single.f, truth.f).max()) <= 1e-4 * 0.01


def test_through_the_public_solver():
    assert unot_fast.backends()["triton"].available
    a, b = (normalised(torch.rand(1, 12, 7, dtype=torch.float64)) for _ in range(2))
    out = unot_fast.sinkhorn(a, b, Grid((12, 7)), 0.2, backend="triton", tol=1e-5)
    truth = unot_fast.sinkhorn(a, b, Grid((12, 7)), 0.2, tol=1e-5)
    assert out.backend == "triton"
    assert bool(out.converged.all())
    assert torch.allclose(out.cost, truth.cost, rtol=1e-5)
