import pytest
import torch
from torch.library import opcheck

from tests.conftest import adversarial, normalised
from unot_fast import Grid
from unot_fast.ops import sinkhorn_separable

SHAPES = [
    ((2, 2), (2, 2)),
    ((7, 7), (7, 7)),
    ((9, 13), (9, 13)),
    ((5, 31), (12, 8)),
    ((20, 17), (20, 17)),
    ((50,), (50,)),
    ((70, 3), (70, 3)),
    ((4, 5, 6), (4, 5, 6)),
]


def solve(a, b, costs, epsilon, g=None, *, backend="cpu", **options):
    options = dict(tol=0.0, criterion="marginal", max_iter=12, overrelaxation=1.0) | options
    g = torch.zeros_like(b) if g is None else g
    return sinkhorn_separable(a, b, costs, epsilon, g, backend=backend, **options)


@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("eps", [1e-4, 1e-3, 3e-3, 1e-2, 0.1, 1.0, 10.0])
def test_plain_iterations_match_the_dense_reference(n, m, eps):
    """Same number of iterations from zeros: potentials within 1e-9 epsilon for every pair."""
    a, b = adversarial(n, m)
    epsilon = torch.full((len(a),), eps, dtype=torch.float64)
    costs = list(Grid(n, target=m).axis_costs)
    fast = solve(a, b, costs, epsilon)
    truth = solve(a, b, costs, epsilon, backend="reference")
    for x, y in ((fast.f, truth.f), (fast.g, truth.g)):
        assert bool(x.isfinite().all())
        assert float((x - y).abs().max()) <= 1e-9 * eps
    assert torch.allclose(fast.cost, truth.cost, rtol=1e-9, atol=1e-15)
    assert torch.allclose(fast.marginal_error, truth.marginal_error, atol=1e-9)
    assert torch.allclose(fast.value, truth.value, rtol=1e-9, atol=1e-9 * eps)
    assert bool((fast.n_iters == 12).all())


@pytest.mark.slow
@pytest.mark.parametrize(("n", "eps"), [(28, 1e-4), (28, 0.01), (33, 3e-3), (40, 0.01)])
def test_plain_iterations_match_on_larger_grids(n, eps):
    a, b = adversarial((n, n), (n, n))
    epsilon = torch.full((len(a),), eps, dtype=torch.float64)
    costs = list(Grid((n, n)).axis_costs)
    fast = solve(a, b, costs, epsilon, max_iter=4)
    truth = solve(a, b, costs, epsilon, max_iter=4, backend="reference")
    assert float((fast.f - truth.f).abs().max()) <= 1e-9 * eps
    assert float((fast.g - truth.g).abs().max()) <= 1e-9 * eps


@pytest.mark.parametrize("weight", [1.3, 1.5, 1.9, None])
@pytest.mark.parametrize("eps", [1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("criterion", ["marginal", "cost"])
def test_overrelaxed_iterations_follow_the_reference(weight, eps, criterion):
    a, b = adversarial((8, 9), (8, 9))
    epsilon = torch.full((len(a),), eps, dtype=torch.float64)
    costs = list(Grid((8, 9)).axis_costs)
    options = dict(overrelaxation=weight, criterion=criterion, tol=1e-3, max_iter=15)
    fast = solve(a, b, costs, epsilon, **options)
    truth = solve(a, b, costs, epsilon, backend="reference", **options)
    assert torch.equal(fast.n_iters, truth.n_iters)
    assert torch.equal(fast.converged, truth.converged)
    # A wrong direction of w costs many digits; rounding grows a little along the iteration.
    assert float((fast.f - truth.f).abs().max()) <= 1e-8 * eps
    assert float((fast.g - truth.g).abs().max()) <= 1e-8 * eps


def test_problems_are_independent():
    """A batch gives what its problems give alone: own epsilon, own stopping, own domain."""
    a, b = adversarial((11, 6), (11, 6))
    epsilon = torch.logspace(-4, 1, len(a), dtype=torch.float64)
    costs = list(Grid((11, 6)).axis_costs)
    options = dict(tol=1e-5, max_iter=200, overrelaxation=None)
    batch = solve(a, b, costs, epsilon, **options)
    assert batch.log_domain.any()
    assert not batch.log_domain.all()
    for i in range(len(a)):
        one = solve(a[i : i + 1], b[i : i + 1], costs, epsilon[i : i + 1], **options)
        for x, y in zip(batch, one, strict=True):
            assert torch.equal(x[i], y[0])


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(monkeypatch, isa):
    """A narrower one is used where the processor lacks the one asked for."""
    a, b = adversarial((12, 10), (12, 10))
    epsilon = torch.logspace(-4, 0, len(a), dtype=torch.float64)
    costs = list(Grid((12, 10)).axis_costs)
    truth = solve(a, b, costs, epsilon, backend="reference")
    monkeypatch.setenv("UNOT_FAST_ISA", isa)
    fast = solve(a, b, costs, epsilon)
    error = (fast.g - truth.g).abs().flatten(1).amax(1)
    assert bool((error <= 1e-9 * epsilon).all())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_thread_count_changes_no_more_than_the_order_of_sums(threads):
    a, b = torch.rand(2, 1, 70, 66, dtype=torch.float64)
    a, b = normalised(a), normalised(b)
    costs = list(Grid((70, 66)).axis_costs)
    before = torch.get_num_threads()
    try:
        for eps in (0.01, 1e-4):  # scaling and log domain
            epsilon = torch.tensor([eps], dtype=torch.float64)
            expected = solve(a, b, costs, epsilon, max_iter=3)
            torch.set_num_threads(threads)
            found = solve(a, b, costs, epsilon, max_iter=3).f
            assert torch.allclose(found, expected.f, rtol=1e-13, atol=1e-14)
    finally:
        torch.set_num_threads(before)


def test_start_is_not_modified():
    a, b = adversarial((5, 5), (5, 5))
    g = torch.randn_like(b)
    kept = g.clone()
    solve(a, b, list(Grid((5, 5)).axis_costs), torch.ones(len(a)).double(), g)
    assert torch.equal(g, kept)


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("grad", [False, True])
def test_operator_rules(batch, grad):
    a, b = torch.rand(2, batch, 5, 4, dtype=torch.float64)
    if batch:
        a, b = normalised(a), normalised(b)
    a, b = a.requires_grad_(grad), b.requires_grad_(grad)
    epsilon = torch.full((batch,), 0.1, dtype=torch.float64)
    costs = list(Grid((5, 4)).axis_costs)
    for weight in (None, 1.5):
        args = (a, b, costs, epsilon, torch.zeros_like(b), 1e-6, "marginal", 50, weight, "cpu")
        opcheck(torch.ops.unot_fast.sinkhorn_separable.default, args)


def test_dense_permuted_input():
    a, b = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    a, b = normalised(a).mT, normalised(b).mT
    epsilon = torch.full((3,), 0.1, dtype=torch.float64)
    costs = list(Grid((5, 4)).axis_costs)
    args = (a, b, costs, epsilon, torch.zeros_like(b), 1e-6, "marginal", 50, None, "cpu")
    opcheck(torch.ops.unot_fast.sinkhorn_separable.default, args)
    contiguous = solve(a.contiguous(), b.contiguous(), costs, epsilon)
    assert torch.equal(solve(a, b, costs, epsilon).f, contiguous.f)
