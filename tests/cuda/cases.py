"""What the CUDA kernels have to do: on a device, or in the emulator (`test_emulator.py`).

The emulator runs the kernels' own code, thread by thread: its tensor cores round to tf32 and deal
fragments to lanes as the hardware's do, its clusters share memory, and memory starts as NaN.
"""

import os
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import unot_fast
from tests.conftest import adversarial, normalised
from unot_fast import Grid, Pyramid, Sphere
from unot_fast.ops import _cuda, separable_lse, sinkhorn_separable, stationary_lse
from unot_fast.solver import multiscale

EMULATED = "UNOT_FAST_EMULATOR" in os.environ
DEVICE = "cpu" if EMULATED else "cuda"

SHAPES = [
    ((7, 7), (7, 7)),
    ((11,), (11,)),
    ((9, 13), (4, 6)),
    ((20, 17), (33, 18)),
    ((1, 40), (35, 2)),
    ((35, 35), (35, 35)),
]


@pytest.fixture(params=[1, 2, 4, 8])
def cluster(request, monkeypatch):
    monkeypatch.setattr(_cuda, "_CLUSTER", request.param)
    return request.param


def solve(a, b, costs, epsilon, backend, **options):
    """The operator where the backend computes; results come back to the CPU."""
    device = DEVICE if backend == "cuda" else "cpu"
    options = dict(tol=0.0, criterion="marginal", max_iter=3, overrelaxation=1.0) | options
    moved = {id(c): c.to(device) for c in costs}  # equal axes share a tensor
    costs = [moved[id(c)] for c in costs]
    a, b, epsilon = (x.to(device) for x in (a, b, epsilon))
    g = torch.zeros_like(b)
    out = sinkhorn_separable(a, b, costs, epsilon, g, backend=backend, **options)
    return type(out)(*(x.cpu() for x in out))


def sinkhorn(a, b, grid, eps, backend="cpu", **options):
    """The public solver, likewise."""
    device = DEVICE if backend == "cuda" else "cpu"
    out = unot_fast.sinkhorn(a.to(device), b.to(device), grid, eps, backend=backend, **options)
    own = {f.name: getattr(out, f.name) for f in fields(out) if f.init}
    return replace(out, **{k: x.cpu() for k, x in own.items() if isinstance(x, Tensor)})


def measures(n, m, batch=3):
    """Random measures with some contrast, hardly any mass in places."""
    return tuple(
        normalised(torch.rand(batch, *shape, dtype=torch.float64) ** 6, len(shape), 1e-6)
        for shape in (n, m)
    )


def assert_same(out, truth, eps, tolerance=1e-9):
    for x, y in ((out.f, truth.f), (out.g, truth.g)):
        assert bool(x.isfinite().all())
        assert float((x.double() - y).abs().max()) <= tolerance * eps
    assert torch.allclose(out.cost.double(), truth.cost, rtol=tolerance, atol=1e-13)
    assert torch.allclose(out.value.double(), truth.value, rtol=tolerance, atol=tolerance * eps)
    assert torch.allclose(
        out.marginal_error.double(), truth.marginal_error, rtol=1e-9, atol=tolerance
    )


@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("eps", [1e-4, 1e-2, 10.0])
def test_plain_iterations(n, m, eps):
    a, b = adversarial(n, m)
    epsilon = torch.full((len(a),), eps, dtype=torch.float64)
    costs = list(Grid(n, target=m).axis_costs)
    out = solve(a, b, costs, epsilon, "cuda")
    assert_same(out, solve(a, b, costs, epsilon, "reference"), eps)
    assert bool((out.n_iters == 3).all())


@pytest.mark.parametrize("weight", [1.5, None])
@pytest.mark.parametrize("criterion", ["marginal", "cost"])
@pytest.mark.parametrize("eps", [1e-3, 0.05])
def test_overrelaxed_iterations_and_stopping(weight, criterion, eps):
    a, b = adversarial((15, 20), (15, 20))
    epsilon = torch.full((len(a),), eps, dtype=torch.float64)
    costs = list(Grid((15, 20)).axis_costs)
    options = dict(overrelaxation=weight, criterion=criterion, tol=1e-2, max_iter=9)
    out = solve(a, b, costs, epsilon, "cuda", **options)
    truth = solve(a, b, costs, epsilon, "reference", **options)
    assert torch.equal(out.n_iters, truth.n_iters)
    assert torch.equal(out.converged, truth.converged)
    assert_same(out, truth, eps, 1e-8)


@pytest.mark.parametrize(
    ("n", "m"), [((20, 17), (33, 18)), ((64, 64), (64, 64)), ((3, 90), (70, 5))]
)
@pytest.mark.parametrize("eps", [3e-4, 1e-2])
def test_clusters(n, m, eps, cluster):
    a, b = adversarial(n, m)
    a, b = a[3:6], b[3:6]
    epsilon = torch.full((len(a),), eps, dtype=torch.float64)
    costs = list(Grid(n, target=m).axis_costs)
    for criterion in ("marginal", "cost"):
        options = dict(max_iter=2, overrelaxation=1.5, criterion=criterion)
        out = solve(a, b, costs, epsilon, "cuda", **options)
        assert_same(out, solve(a, b, costs, epsilon, "cpu", **options), eps)


@pytest.mark.parametrize(
    ("n", "m"), [((12, 9), (12, 9)), ((30,), (50,)), ((40, 24), (20, 50)), ((64, 64), (64, 64))]
)
@pytest.mark.parametrize("eps", [0.01, 0.05])
def test_whole_solves(n, m, eps):
    """Pyramid and solve do what the CPU's do, iteration by iteration."""
    a, b = measures(n, m)
    grid = Grid(n, target=m)
    out = sinkhorn(a, b, grid, eps, backend="cuda", tol=1e-4, max_iter=40)
    truth = sinkhorn(a, b, grid, eps, tol=1e-4, max_iter=40)
    assert out.backend == "cuda"
    assert torch.equal(out.n_iters, truth.n_iters)
    assert torch.allclose(out.coarse_work, truth.coarse_work, rtol=1e-12)
    assert_same(out, truth, eps)


def test_pyramid_in_the_log_domain():
    a, b = adversarial((24, 24), (24, 24))
    options = {"tol": 0.0, "max_iter": 2, "overrelaxation": 1.0, "validate": False}
    pyramid = Pyramid(tol=1e-3, max_iter=6, resolution=0.0)
    out = sinkhorn(a, b, Grid((24, 24)), 3e-4, pyramid=pyramid, backend="cuda", **options)
    truth = sinkhorn(a, b, Grid((24, 24)), 3e-4, pyramid=pyramid, **options)
    assert_same(out, truth, 3e-4)
    assert torch.equal(out.log_domain, truth.log_domain)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_starts_on_other_costs(p):
    a, b = measures((18, 33), (18, 33))
    grid = Grid((18, 33), "lp", p=p, extent=(1.0, 0.4))
    out = sinkhorn(a, b, grid, 0.05, backend="cuda", tol=1e-6)
    assert_same(out, sinkhorn(a, b, grid, 0.05, tol=1e-6), 0.05)


@pytest.mark.parametrize("order", ["1", "7"])
def test_the_order_of_threads_does_not_matter(order, cluster, monkeypatch):
    """On a device the order is what it happens to be; results repeat bit for bit."""
    a, b = measures((20, 35), (20, 35), 1)
    for x, y in ((a, b), (a.float(), b.float())):
        expected = sinkhorn(x, y, Grid((20, 35)), 0.02, backend="cuda", tol=1e-5)
        with monkeypatch.context() as patch:
            patch.setenv("UNOT_FAST_EMULATOR_ORDER", order)
            out = sinkhorn(x, y, Grid((20, 35)), 0.02, backend="cuda", tol=1e-5)
        assert torch.equal(out.f, expected.f)
        assert torch.equal(out.g, expected.g)
        assert torch.equal(out.cost, expected.cost)


def test_more_problems_than_fit_at_once(monkeypatch):
    monkeypatch.setattr(_cuda, "_CLUSTER", 1)  # chosen by the batch, it would change the rounding
    a, b = measures((40, 9), (40, 9), 30)
    epsilon = torch.logspace(-3.5, 0.5, 30, dtype=torch.float64)
    costs = Grid((40, 9)).axis_costs
    options = {"tol": 1e-3, "max_iter": 30, "overrelaxation": None}
    batch = solve(a, b, costs, epsilon, "cuda", **options)
    for i in range(0, 30, 7):
        part = slice(i, i + 1)
        alone = solve(a[part], b[part], costs, epsilon[part], "cuda", **options)
        assert int(alone.n_iters) == int(batch.n_iters[i])
        assert torch.equal(alone.f[0], batch.f[i])
        assert torch.equal(alone.cost[0], batch.cost[i])


def errors(result, a, b, grid):
    """Marginal error and cost of the plan of a result's potentials, dense and in float64."""
    eps, n = 0.01, grid.cost_matrix().shape[0]
    f, g = (x.double().flatten(1) / eps for x in (result.f, result.g))
    a, b = (normalised(x.double()).flatten(1) for x in (a, b))
    log_plan = f[:, :, None] + g[:, None] - grid.cost_matrix().view(1, n, -1) / eps
    plan = a[:, :, None] * b[:, None] * log_plan.exp()
    error = (plan.sum(2) - a).abs().sum(1) + (plan.sum(1) - b).abs().sum(1)
    return error, (plan * grid.cost_matrix()).sum((1, 2))


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-5])
def test_single_precision_is_judged_in_double(tol):
    """What a solve that began in tf32 says of its result is true of the result."""
    a, b = (x.float() for x in measures((28, 28), (28, 28), 2))
    grid = Grid((28, 28))
    for options in ({}, {"init": "zeros"}, {"init": "zeros", "max_iter": 3}):
        out = sinkhorn(a, b, grid, 0.01, tol=tol, backend="cuda", validate=False, **options)
        assert out.f.dtype == torch.float32
        error, cost = errors(out, a, b, grid)
        assert torch.allclose(out.marginal_error.double(), error, rtol=1e-3, atol=1e-5)
        assert torch.allclose(out.cost.double(), cost, rtol=1e-5)
        if "max_iter" not in options:
            assert bool(out.converged.all())
            assert bool((error < 1.01 * tol).all())


@pytest.mark.parametrize("eps", [1e-4, 1e-3, 1e-2, 1.0])
def test_single_precision_in_any_range(eps):
    a, b = adversarial((13, 20), (13, 20))
    grid = Grid((13, 20))
    options = {"tol": 1e-4, "max_iter": 100, "init": "zeros"}
    out = sinkhorn(a.float(), b.float(), grid, eps, backend="cuda", **options)
    truth = sinkhorn(a, b, grid, eps, **options)
    for x in (out.f, out.g, out.cost, out.value, out.marginal_error):
        assert bool(x.isfinite().all())
    both = out.converged & truth.converged
    gap = (out.cost.double() - truth.cost).abs()
    assert bool((gap[both] <= 1e-4 * grid.max_cost).all())


def test_real_images(images):
    stack = normalised(images("lfw", 64), 2, 1e-6)
    a, b = stack[:2], stack[2:4]
    grid = Grid((64, 64))
    exact = sinkhorn(a, b, grid, 0.01, tol=1e-9).cost
    out = sinkhorn(a.float(), b.float(), grid, 0.01, backend="cuda")
    assert bool(out.converged.all())
    assert bool(((out.cost / exact - 1).abs() < 2e-3).all())
    assert bool((out.n_iters <= 8).all())


@pytest.mark.parametrize("n", [(128, 128), (16, 500)])
def test_large_grids(n):
    a, b = measures(n, n, 1)
    for x, y in ((a, b), (a.float(), b.float())):
        options = {"tol": 0.0, "max_iter": 1, "overrelaxation": 1.0}
        out = sinkhorn(x, y, Grid(n), 0.05, backend="cuda", **options)
        truth = sinkhorn(a, b, Grid(n), 0.05, **options)
        assert_same(out, truth, 0.05, 1e-9 if x.dtype == torch.float64 else 2e-3)


def distances(n, m):
    return Grid(n, "euclidean", spacing=0.05, target=Grid(m, spacing=0.05))


LINES = {
    "distances": lambda: Grid((9, 13), "euclidean"),
    "distances in 1-D": lambda: Grid((20,), "euclidean"),
    "distances in 3-D": lambda: Grid((4, 5, 6), "euclidean"),
    "rows of many tiles": lambda: Grid((37, 33), "euclidean"),
    "a wider target": lambda: distances((10, 9), (10, 24)),
    "a lower target": lambda: distances((5, 31), (12, 8)),
    "a function": lambda: Grid((8, 11), lambda d: d.square().sum(-1) + 0.3 * torch.relu(d[..., 1])),
    "sphere": lambda: Sphere(12, 24),
    "chords": lambda: Sphere(7, 14, "chordal", grid="legendre-gauss"),
    "published sphere": lambda: Sphere.published(17),
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("eps", [1e-3, 0.02, 1.0])
def test_costs_of_a_shift(name, eps):
    geom = LINES[name]()
    a, b = adversarial(geom.shape, geom.target_shape)
    a, b = a[[0, 1, 5]], b[[0, 1, 5]]
    for options in (
        {"tol": 0.0, "max_iter": 2, "overrelaxation": 1.0, "init": "zeros"},
        {"tol": 1e-3, "max_iter": 4, "criterion": "cost", "init": "zeros"},
        {"tol": 1e-4, "max_iter": 6},
    ):
        out = sinkhorn(a, b, geom, eps, backend="cuda", **options)
        truth = sinkhorn(a, b, geom, eps, **options)
        assert_same(out, truth, eps)
        assert torch.equal(out.n_iters, truth.n_iters)
        assert torch.equal(out.log_domain, truth.log_domain)
        single = sinkhorn(a.float(), b.float(), geom, eps, backend="cuda", **options)
        assert bool(single.f.isfinite().all() & single.g.isfinite().all())
        assert torch.allclose(single.cost.double(), truth.cost, atol=2e-3 * geom.max_cost)


@pytest.mark.parametrize("target", [(37, 20), (20, 41)])
def test_costs_of_a_shift_in_clusters(target, cluster):
    a, b = measures((37, 20), target, 2)
    geom = distances((37, 20), target)
    for eps in (1e-3, 0.02):
        options = {"tol": 0.0, "max_iter": 2, "overrelaxation": 1.5, "init": "zeros"}
        out = sinkhorn(a, b, geom, eps, backend="cuda", **options)
        assert_same(out, sinkhorn(a, b, geom, eps, **options), eps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "m"), [((6,), (9,)), ((5, 14), (13, 6)), ((2, 3, 4), (4, 3, 5))])
def test_log_sum(n, m, dtype):
    h = 20 * torch.randn(2, *m, dtype=torch.float64)
    h[0][..., ::2] = -torch.inf
    costs = Grid(n, target=m).axis_costs
    epsilon = torch.tensor([1e-4, 0.3], dtype=torch.float64)
    truth = separable_lse(h, costs, epsilon, backend="reference")
    h, epsilon, *costs = (x.to(DEVICE) for x in (h.to(dtype), epsilon, *costs))
    out = separable_lse(h, costs, epsilon, backend="cuda")
    assert out.dtype == dtype
    tolerance = 1e-10 if dtype == torch.float64 else 1e-3
    assert torch.allclose(out.double().cpu(), truth, rtol=1e-6, atol=tolerance)


@pytest.mark.parametrize("eps", [0.05, 5e-4])
@pytest.mark.parametrize("kind", ["sqeuclidean", "euclidean"])
def test_what_is_made_of_a_result(eps, kind):
    """Products with the plan and gradients, in any range."""
    a, b = measures((9, 8), (9, 8), 2)
    grid = Grid((9, 8), kind)
    found = []
    for backend in ("cuda", "cpu"):
        device = DEVICE if backend == "cuda" else "cpu"
        x, y = (z.clone().to(device).requires_grad_() for z in (a, b))
        out = unot_fast.sinkhorn(x, y, grid, eps, tol=1e-10, max_iter=3000, backend=backend)
        out.cost.sum().backward()
        field = torch.linspace(-1, 1, 72, dtype=torch.float64, device=device).view(1, 9, 8)
        found.append((out.apply(field.expand(2, 9, 8)), out.barycentric_map(), x.grad, y.grad))
    for x, y in zip(*found, strict=True):
        assert torch.allclose(x.cpu(), y, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("step", [1, 2])
def test_log_sum_of_a_shift(dtype, step):
    rows, n, m = (3, 5), 17, 8
    h = 20 * torch.randn(2, rows[1], m, dtype=torch.float64)
    h[0][..., ::2] = -torch.inf
    table = torch.rand(4, n + step * (m - 1), dtype=torch.float64)
    row_class = torch.randint(4, rows, dtype=torch.int32)
    epsilon = torch.tensor([1e-3, 0.5], dtype=torch.float64)
    shape = (rows[0], n)
    truth = stationary_lse(h, table, row_class, step, shape, epsilon, backend="reference")
    inputs = (x.to(DEVICE) for x in (h.to(dtype), table, row_class))
    h, table, row_class = inputs
    out = stationary_lse(h, table, row_class, step, shape, epsilon.to(DEVICE), backend="cuda")
    assert out.dtype == dtype
    tolerance = 1e-10 if dtype == torch.float64 else 1e-3
    assert torch.allclose(out.double().cpu(), truth, rtol=1e-6, atol=tolerance)


def test_what_is_too_large_says_so():
    a = normalised(torch.rand(1, 300, 300, dtype=torch.float64))
    with pytest.raises(ValueError, match="too large"):
        sinkhorn(a, a, Grid((300, 300)), 0.05, backend="cuda")
    device = torch.device(DEVICE)
    assert _cuda.supports((128, 128), (128, 128), device)
    assert not _cuda.supports((300, 300), (300, 300), device)
    assert not _cuda.supports((8, 8, 8), (8, 8, 8), device)


def test_lines_that_are_too_long_are_solved_launch_by_launch(monkeypatch):
    geom = Grid((9, 8), "euclidean")
    a, b = (normalised(torch.rand(2, 9, 8, dtype=torch.float64)) for _ in "ab")
    expected = sinkhorn(a, b, geom, 0.05, backend="reference")
    monkeypatch.setattr(_cuda, "_takes_lines", lambda *_: False)
    found = sinkhorn(a.to(DEVICE), b.to(DEVICE), geom, 0.05, backend="cuda")
    assert torch.equal(found.n_iters.cpu(), expected.n_iters)
    assert torch.allclose(found.f.cpu(), expected.f, rtol=0, atol=1e-10)


@pytest.mark.parametrize("criterion", ["marginal", "cost"])
@pytest.mark.parametrize("eps", [0.1, 1e-3])
@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
def test_empty_pixels_have_half_steps(cost, eps, criterion):
    geom = Grid((9, 8), cost)
    a, b = torch.zeros(2, 2, 9, 8, dtype=torch.float64)
    a[0, 1, 1] = 1
    a[1, :4] = torch.rand(4, 8, dtype=torch.float64)
    b[:, 3:] = torch.rand(2, 6, 8, dtype=torch.float64)
    a, b = normalised(a), normalised(b)
    options = dict(criterion=criterion, tol=1e-4, max_iter=9, init="zeros")
    expected = sinkhorn(a, b, geom, eps, backend="reference", **options)
    found = sinkhorn(a.to(DEVICE), b.to(DEVICE), geom, eps, backend="cuda", **options)
    for x, y in ((found.f, expected.f), (found.g, expected.g)):
        assert float((x.cpu() - y).abs().max()) <= 1e-9 * eps


def test_three_axes_are_refused():
    a = normalised(torch.rand(1, 4, 4, 4, dtype=torch.float64), 3)
    with pytest.raises(ValueError, match="one or two axes"):
        sinkhorn(a.to(DEVICE), a.to(DEVICE), Grid((4, 4, 4)), 0.05, backend="cuda")


def test_empty_batch():
    empty = torch.zeros((0, 8, 8), dtype=torch.float32)
    assert sinkhorn(empty, empty, Grid((8, 8)), 0.01, backend="cuda").cost.shape == (0,)


def test_backend_is_listed():
    backend = unot_fast.backends()["cuda"]
    assert backend.available
    assert ("emulator" in backend.detail) == EMULATED


def test_operator_rules():
    a, b = (x.to(DEVICE) for x in measures((12, 9), (12, 9), 2))
    grid = Grid((12, 9))
    epsilon = torch.full((2,), 0.05, dtype=torch.float64, device=DEVICE)
    costs = [c.to(DEVICE) for c in grid.axis_costs]
    a.requires_grad_()
    plain = (a, b, costs, epsilon, torch.zeros_like(b), 1e-9, "marginal", 100, None)
    opcheck(torch.ops.unot_fast.sinkhorn_separable.default, (*plain, "cuda"))
    pyramid = Pyramid()
    levels = multiscale._levels(grid, pyramid.coarsest)
    shapes = [n for level in levels for n in (*level.geom.shape, *level.geom.target_shape)]
    work = [multiscale._relative_work(level, grid) for level in levels]
    opcheck(
        torch.ops.unot_fast.sinkhorn_multiscale.default,
        (
            *plain[:4],
            multiscale._matrices(grid, pyramid.coarsest, a.device),
            *(shapes, [0.01, 0.001, 0.0005] * len(levels), work, True, 1e-3, 50),
            *(1e-9, "marginal", 100, None, "cuda"),
        ),
    )


def test_gradients_are_those_of_the_cpu():
    a, b = measures((12, 9), (12, 9), 2)
    found = []
    for backend in ("cuda", "cpu"):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        out = sinkhorn(x, y, Grid((12, 9)), 0.05, tol=1e-11, backend=backend)
        (out.value.sum() + out.cost.sum()).backward()
        found.append((x.grad, y.grad))
    for x, y in zip(*found, strict=True):
        assert torch.allclose(x, y, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_normalise(dtype):
    a, b = torch.rand(3, 7, 9).to(DEVICE, dtype), 5 * torch.rand(2, 400).to(DEVICE, dtype)
    b[1, 3] = -1
    a[2, 0, 0] = torch.nan
    scaled, totals, smallest = _cuda.normalise(a, b, (3, 2))
    for x, y, total, least in zip((a, b), scaled, totals, smallest, strict=True):
        expected = x.double().flatten(1).sum(1)
        assert torch.allclose(total, expected, equal_nan=True)
        assert torch.allclose(least, x.double().flatten(1).amin(1), equal_nan=True)
        ratio = x.double() / expected.view(-1, *(1,) * (x.ndim - 1))
        assert torch.allclose(y.double(), ratio, rtol=1e-6, equal_nan=True)
