"""What only the CPU library does: single precision on the way, and threads that share a problem."""

import pytest
import torch

import unot_fast
from tests.conftest import adversarial, as_float32, normalised
from tests.ops.test_sinkhorn_separable import SHAPES, solve
from unot_fast import Grid, Pyramid
from unot_fast.ops import separable_lse


@pytest.fixture
def threads():
    """``threads(n)``: use n threads in this test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("eps", [1e-4, 1e-3, 9e-3, 0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("weight", [1.0, 1.6])
def test_single_precision_follows_double(n, m, eps, weight):
    """Every pair: in single where its range allows, beyond it as in double."""
    single, double = as_float32(*adversarial(n, m))
    epsilon = torch.full((len(single[0]),), eps, dtype=torch.float64)
    costs = list(Grid(n, target=m).axis_costs)
    fast = solve(*single, costs, epsilon, max_iter=6, overrelaxation=weight)
    truth = solve(*double, costs, epsilon, max_iter=6, overrelaxation=weight)
    assert bool((fast.n_iters == 6).all())
    assert fast.f.dtype is fast.cost.dtype is torch.float32
    for x, y in ((fast.f, truth.f), (fast.g, truth.g)):
        tolerance = 1e-4 * eps + 1e-6 * float(y.abs().max())
        assert float((x - y).abs().max()) <= tolerance
    assert torch.allclose(fast.cost.double(), truth.cost, rtol=3e-5, atol=1e-9)
    assert torch.allclose(fast.marginal_error.double(), truth.marginal_error, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("init", ["zeros", "multiscale"])
@pytest.mark.parametrize("criterion", ["marginal", "cost"])
def test_single_precision_reaches_small_tolerances(init, criterion):
    """Rounding in single does not keep a solve from converging: it ends in double."""
    a, b = (normalised(torch.rand(4, 24, 30, dtype=torch.float64)) for _ in range(2))
    single, double = as_float32(a, b)
    options = {"init": init, "criterion": criterion, "tol": 1e-9, "normalize": True}
    fast = unot_fast.sinkhorn(*single, Grid((24, 30)), 0.01, **options)
    truth = unot_fast.sinkhorn(*double, Grid((24, 30)), 0.01, **options)
    assert bool(fast.converged.all())
    assert bool(truth.converged.all())
    assert torch.allclose(fast.cost.double(), truth.cost, rtol=1e-6)
    assert not bool(fast.log_domain.any())
    if criterion == "marginal":
        assert float(fast.marginal_error.max()) < 1e-9


@pytest.mark.parametrize("eps", [[0.01], [0.0099, 0.02, 3e-4, 1.0]])
def test_pyramids_in_single_precision(eps):
    """Levels that single holds, levels that it does not, and problems of both kinds in a batch."""
    a, b = adversarial((40, 28), (33, 45))
    a, b = a[: 4 * (len(a) // 4)], b[: 4 * (len(b) // 4)]
    epsilon = torch.tensor(eps, dtype=torch.float64).repeat(len(a) // len(eps))
    grid = Grid((40, 28), target=(33, 45))
    fast = unot_fast.sinkhorn(a.float(), b.float(), grid, epsilon, normalize=True, max_iter=3000)
    truth = unot_fast.sinkhorn(a, b, grid, epsilon, max_iter=3000)
    both = fast.converged & truth.converged
    assert float(both.double().mean()) > 0.7
    assert torch.allclose(fast.cost.double()[both], truth.cost[both], rtol=2e-2)
    assert bool(fast.f.isfinite().all())
    assert bool(fast.g.isfinite().all())


@pytest.mark.parametrize(("batch", "workers"), [(1, 2), (1, 3), (2, 5), (3, 2)])
@pytest.mark.parametrize(
    ("n", "m"), [((75, 66), (60, 81)), ((24, 17, 20), (20, 21, 18)), ((1200,), (900,))]
)
@pytest.mark.parametrize("eps", [1e-3, 0.02])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_threads_share_a_problem(threads, batch, workers, n, m, eps, dtype):
    a = normalised(torch.rand(batch, *n, dtype=torch.float64), len(n)).to(dtype)
    b = normalised(torch.rand(batch, *m, dtype=torch.float64), len(n)).to(dtype)
    grid = Grid(n, target=m)
    results = []
    for count in (1, workers):
        threads(count)
        results.append(
            unot_fast.sinkhorn(
                a, b, grid, eps, tol=0.0, max_iter=3, normalize=True, pyramid=Pyramid(max_iter=4)
            )
        )
    alone, shared = results
    digits = 1e-9 if dtype is torch.float64 else 2e-3
    assert float((alone.f - shared.f).abs().max()) <= digits * eps
    assert float((alone.g - shared.g).abs().max()) <= digits * eps
    assert torch.allclose(alone.cost, shared.cost, rtol=digits)
    assert torch.equal(alone.n_iters, shared.n_iters)


@pytest.mark.parametrize("shape", [(90, 80), (20, 22, 24)])
@pytest.mark.parametrize("eps", [1e-5, 0.05])
def test_threads_share_a_log_sum(threads, shape, eps):
    h = torch.randn(1, *shape, dtype=torch.float64)
    costs = list(Grid(shape).axis_costs)
    results = []
    for count in (1, 3):
        threads(count)
        results.append(separable_lse(h, costs, torch.tensor([eps]).double(), backend="cpu"))
    assert torch.allclose(*results, rtol=1e-13, atol=1e-11)
