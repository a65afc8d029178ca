import math

import pytest
import torch

import unot_fast
from tests.conftest import adversarial, normalised
from unot_fast import Grid, Pyramid


def pair(*shape, batch=()):
    a, b = torch.rand(2, *batch, *shape, dtype=torch.float64)
    return normalised(a, len(shape)), normalised(b, len(shape))


@pytest.mark.parametrize("eps", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("n", [(2, 2), (9, 13), (16, 16), (28, 28), (70, 30)])
def test_every_start_reaches_the_same_cost(n, eps):
    """Wherever two starts converge they agree to 1e-8."""
    a, b = adversarial(n, n)
    grid = Grid(n)
    starts = ["zeros", "gaussian", "multiscale", 0.3 * torch.randn_like(b)]
    results = [
        unot_fast.sinkhorn(a, b, grid, eps, init=s, tol=1e-11, max_iter=20_000) for s in starts
    ]
    for result in results[1:]:
        both = result.converged & results[0].converged
        gap = (result.cost - results[0].cost).abs()
        assert bool((gap <= 1e-8 * results[0].cost + 1e-14)[both].all())
    # Identical measures on scattered pixels are all but decoupled at small epsilon: no Sinkhorn
    # iteration joins their components. Everything else converges.
    stuck = torch.zeros(len(a), dtype=torch.bool)
    stuck[-1] = eps == 0.01 and n == (9, 13)
    assert bool((results[2].converged | stuck).all())


@pytest.mark.parametrize("n", [(8, 8), (6, 11)])
def test_small_epsilon_starts_agree(n):
    a, b = adversarial(n, n)
    a, b = a[:-1], b[:-1]
    options = dict(tol=1e-11, max_iter=200_000)
    costs = [
        unot_fast.sinkhorn(a, b, Grid(n), 1e-3, init=s, **options).cost
        for s in ("zeros", "multiscale")
    ]
    assert torch.allclose(*costs, rtol=1e-8, atol=1e-14)


def test_converged_plan_has_the_marginals():
    a, b = pair(9, 11, batch=(3,))
    result = unot_fast.sinkhorn(a, b, Grid((9, 11)), 0.02, tol=1e-9)
    plan = result.plan()
    error = (plan.sum((3, 4)) - a).abs().sum((1, 2)) + (plan.sum((1, 2)) - b).abs().sum((1, 2))
    assert torch.allclose(error, result.marginal_error, atol=1e-12)
    assert bool((error < 1e-9).all())
    assert bool(result.converged.all())


@pytest.mark.parametrize("eps", [0.02, 0.2])
def test_gaussians_match_the_closed_form(eps):
    """Entropic transport between Gaussians (Janati et al. 2020), on a grid fine enough for them."""
    grid = Grid(400, extent=1.0)
    x = grid.coordinates[0]
    (m_a, s_a), (m_b, s_b) = (0.45, 0.05), (0.55, 0.07)
    a = normalised(torch.exp(-((x - m_a) ** 2) / (2 * s_a**2)), 1)
    b = normalised(torch.exp(-((x - m_b) ** 2) / (2 * s_b**2)), 1)
    result = unot_fast.sinkhorn(a, b, grid, eps, tol=1e-12)
    covariance = math.sqrt(s_a**2 * s_b**2 + eps**2 / 16) - eps / 4
    expected = (m_a - m_b) ** 2 + s_a**2 + s_b**2 - 2 * covariance
    assert float(result.cost) == pytest.approx(expected, rel=1e-6)
    # the Gaussian start is the solution: nothing is left to do
    start = unot_fast.sinkhorn(a, b, grid, eps, init="gaussian", tol=1e-6)
    assert int(start.n_iters) <= 2


def test_dirac_to_dirac_is_the_distance():
    a, b = torch.zeros(2, 1, 20, 30, dtype=torch.float64)
    a[0, 0, 0] = b[0, -1, -1] = 1
    for eps in (1e-4, 0.01, 10.0):
        result = unot_fast.sinkhorn(a, b, Grid((20, 30)), eps, tol=1e-12)
        assert float(result.cost) == pytest.approx(2.0, abs=1e-9)
        assert bool(result.f.isfinite().all() & result.g.isfinite().all())


def test_translation_is_found():
    a = torch.zeros(1, 32, 32, dtype=torch.float64)
    a[0, 4:9, 6:12] = torch.rand(5, 6)
    b = a.roll((15, 9), (1, 2))
    grid = Grid((32, 32), spacing=1.0)
    result = unot_fast.sinkhorn(a, b, grid, 0.05, normalize=True, tol=1e-9)
    assert float(result.cost) == pytest.approx(15**2 + 9**2, rel=1e-6)
    shift = (result.barycentric_map() - grid.points())[0, 4:9, 6:12]
    assert torch.allclose(shift, torch.tensor([15.0, 9.0]).double().expand_as(shift), atol=1e-3)


@pytest.mark.parametrize("p", [1, 1.5, 3])
def test_other_separable_costs(p):
    a, b = pair(10, 7, batch=(2,))
    grid = Grid((10, 7), "lp", p=p)
    fast = unot_fast.sinkhorn(a, b, grid, 0.05, tol=1e-10)
    truth = unot_fast.sinkhorn(a, b, grid, 0.05, tol=1e-10, init="zeros", backend="reference")
    assert torch.allclose(fast.cost, truth.cost, rtol=1e-8)
    with pytest.raises(ValueError, match="squared Euclidean"):
        unot_fast.sinkhorn(a, b, grid, 0.05, init="gaussian")


@pytest.mark.parametrize(
    ("n", "m"), [((40,), (23,)), ((30, 17), (12, 41)), ((9, 10, 11), (12, 5, 8))]
)
def test_different_grids_in_every_dimension(n, m):
    a = normalised(torch.rand(2, *n, dtype=torch.float64), len(n))
    b = normalised(torch.rand(2, *m, dtype=torch.float64), len(m))
    grid = Grid(n, target=m)
    multi = unot_fast.sinkhorn(a, b, grid, 0.02, tol=1e-10)
    zeros = unot_fast.sinkhorn(a, b, grid, 0.02, tol=1e-10, init="zeros")
    assert bool(multi.converged.all())
    assert torch.allclose(multi.cost, zeros.cost, rtol=1e-8)
    assert multi.f.shape == (2, *n)
    assert multi.g.shape == (2, *m)


def test_swapping_the_measures_swaps_the_potentials():
    a, b = pair(12, 12)
    there = unot_fast.sinkhorn(a, b, Grid((12, 12)), 0.05, tol=1e-12)
    back = unot_fast.sinkhorn(b, a, Grid((12, 12)), 0.05, tol=1e-12)
    assert float(there.cost) == pytest.approx(float(back.cost), rel=1e-9)
    offset = there.f - back.g
    assert float(offset.max() - offset.min()) < 1e-8


def test_batch_shapes_broadcast():
    a = normalised(torch.rand(6, 7, dtype=torch.float64))
    b = normalised(torch.rand(4, 3, 6, 7, dtype=torch.float64))
    eps = torch.tensor([0.05, 0.1, 1.0], dtype=torch.float64)
    result = unot_fast.sinkhorn(a, b, Grid((6, 7)), eps, tol=1e-9)
    assert result.cost.shape == (4, 3)
    assert result.f.shape == result.g.shape == (4, 3, 6, 7)
    one = unot_fast.sinkhorn(a, b[2, 1], Grid((6, 7)), 0.1, tol=1e-9)
    assert one.cost.shape == ()
    assert float(result.cost[2, 1]) == pytest.approx(float(one.cost), rel=1e-12)
    assert unot_fast.sinkhorn(a, b[:0], Grid((6, 7)), 0.1).cost.shape == (0, 3)


def test_totals_scale_the_result():
    a, b = pair(8, 8)
    one = unot_fast.sinkhorn(a, b, Grid((8, 8)), 0.05, tol=1e-10)
    five = unot_fast.sinkhorn(5 * a, 5 * b, Grid((8, 8)), 0.05, tol=1e-10)
    assert float(five.cost) == pytest.approx(5 * float(one.cost), rel=1e-12)
    assert float(five.value) == pytest.approx(5 * float(one.value), rel=1e-12)
    assert torch.allclose(five.f, one.f, atol=1e-14)
    assert float(five.plan().sum()) == pytest.approx(5.0)
    loose = unot_fast.sinkhorn(5 * a, 3 * b, Grid((8, 8)), 0.05, tol=1e-10, normalize=True)
    assert float(loose.cost) == pytest.approx(float(one.cost), rel=1e-12)


def test_value_is_a_lower_bound_that_closes():
    a, b = pair(16, 16)
    exact = unot_fast.sinkhorn(a, b, Grid((16, 16)), 0.02, tol=1e-13)
    for k in (1, 3, 10):
        rough = unot_fast.sinkhorn(a, b, Grid((16, 16)), 0.02, init="zeros", tol=0, max_iter=k)
        assert float(rough.value) <= float(exact.value) + 1e-12
    plan = exact.plan()
    kl = (plan * (plan / (a[:, :, None, None] * b)).log()).sum()
    assert float(exact.value) == pytest.approx(float(exact.cost + 0.02 * kl), rel=1e-9)


def test_tensor_and_callable_starts():
    a, b = pair(10, 10, batch=(2,))
    grid = Grid((10, 10))
    done = unot_fast.sinkhorn(a, b, grid, 0.05, tol=1e-10)
    again = unot_fast.sinkhorn(a, b, grid, 0.05, init=done.g, tol=1e-8)
    assert bool((again.n_iters == 1).all())
    seen = []

    def start(a, b, geom, epsilon):
        seen.append((a.shape, b.shape, geom, epsilon.shape))
        return done.g

    called = unot_fast.sinkhorn(a, b, grid, 0.05, init=start, tol=1e-8)
    assert torch.equal(called.cost, again.cost)
    assert seen == [((2, 10, 10), (2, 10, 10), grid, (2,))]
    shared = unot_fast.sinkhorn(a, b, grid, 0.05, init=torch.zeros(10, 10))
    assert torch.equal(shared.n_iters, unot_fast.sinkhorn(a, b, grid, 0.05, init="zeros").n_iters)


def test_unconverged_is_said():
    a, b = pair(12, 12, batch=(2,))
    result = unot_fast.sinkhorn(a, b, Grid((12, 12)), 0.003, tol=1e-12, max_iter=3, init="zeros")
    assert not result.converged.any()
    assert bool((result.n_iters == 3).all())
    assert "0 converged" in repr(result)


def test_cost_criterion():
    a, b = pair(20, 20, batch=(4,))
    grid = Grid((20, 20))
    exact = unot_fast.sinkhorn(a, b, grid, 0.01, tol=1e-12).cost
    errors, iterations = [], []
    for tol in (1e-2, 1e-4, 1e-6):
        result = unot_fast.sinkhorn(a, b, grid, 0.01, criterion="cost", tol=tol)
        assert bool(result.converged.all())
        errors.append(float(((result.cost - exact) / exact).abs().max()))
        iterations.append(float(result.n_iters.double().mean()))
    assert errors[0] < 1e-2
    assert errors[2] < 1e-4
    assert iterations == sorted(iterations)


def test_overrelaxation_adapts_and_never_diverges():
    """A weight of 1.9 diverges on some pairs at first; the adaptive one solves all, and faster."""
    a, b = adversarial((16, 16), (16, 16))
    grid = Grid((16, 16))
    options = dict(init="zeros", tol=1e-6, max_iter=5_000)
    for eps in (0.003, 0.01, 0.05, 0.5):
        plain = unot_fast.sinkhorn(a[:-1], b[:-1], grid, eps, overrelaxation=1, **options)
        auto = unot_fast.sinkhorn(a[:-1], b[:-1], grid, eps, **options)
        assert bool(auto.converged.all())
        assert int(auto.n_iters.sum()) <= 1.1 * int(plain.n_iters.sum()) + 2 * len(a)


def test_dtypes():
    a, b = pair(12, 12)
    grid = Grid((12, 12))
    double = unot_fast.sinkhorn(a, b, grid, 0.05, tol=1e-6)
    single = unot_fast.sinkhorn(a.float(), b.float(), grid, 0.05, tol=1e-6)
    half = unot_fast.sinkhorn(a.half(), b.half(), grid, 0.05, tol=1e-4, normalize=True)
    assert double.cost.dtype == torch.float64
    assert single.cost.dtype == single.f.dtype == torch.float32
    assert half.cost.dtype == torch.float32
    assert float(single.cost) == pytest.approx(float(double.cost), rel=1e-5)
    wide = unot_fast.sinkhorn(a.float(), b.float(), grid, 0.05, dtype=torch.float64)
    assert wide.f.dtype == torch.float64


def test_pyramid_settings():
    a, b = pair(40, 40)
    grid = Grid((40, 40))
    rough = unot_fast.sinkhorn(a, b, grid, 0.01, pyramid=Pyramid(tol=0.1), tol=0, max_iter=1)
    tight = unot_fast.sinkhorn(a, b, grid, 0.01, pyramid=Pyramid(tol=1e-6), tol=0, max_iter=1)
    assert float(rough.coarse_work) < float(tight.coarse_work)
    assert float(rough.marginal_error) > float(tight.marginal_error)
    none = unot_fast.sinkhorn(a, b, grid, 0.01, pyramid=Pyramid(coarsest=64), tol=0, max_iter=1)
    assert float(none.coarse_work) == 0


def test_compile_and_vmap_the_public_function():
    a, b = pair(12, 10, batch=(3,))
    grid = Grid((12, 10))

    def solve(a, b):
        result = unot_fast.sinkhorn(a, b, grid, 0.05, validate=False)
        return result.cost, result.value, result.f, result.converged

    expected = solve(a, b)
    for transformed in (torch.compile(solve, fullgraph=True), torch.vmap(solve)):
        for x, y in zip(transformed(a, b), expected, strict=True):
            assert torch.allclose(x.double(), y.double(), atol=1e-13)


@pytest.mark.slow
def test_a_megapixel_pair():
    a, b = torch.rand(2, 1024, 1024, dtype=torch.float64)
    a[:512] *= 3
    result = unot_fast.sinkhorn(a, b, Grid((1024, 1024)), 0.01, normalize=True, tol=1e-3)
    assert bool(result.converged)
    assert result.f.shape == (1024, 1024)
