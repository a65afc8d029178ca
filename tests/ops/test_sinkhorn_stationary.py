"""Both operators on costs that are stationary along the last axis, against the dense reference."""

import pytest
import torch
from torch.library import opcheck

from tests.conftest import adversarial, normalised
from unot_fast import Grid, Sphere
from unot_fast.ops import sinkhorn_stationary, stationary_lse

GEOMETRIES = [
    Grid((2, 2), "euclidean"),
    Grid((9, 13), "euclidean"),
    Grid((5, 31), "euclidean", spacing=0.05, target=Grid((12, 8), spacing=0.05)),
    Grid((50,), "euclidean"),
    Grid((17, 3), "euclidean"),
    Grid((4, 5, 6), "euclidean"),
    Sphere(6, 9),
    Sphere(7, 16, "chordal", p=2, grid="legendre-gauss"),
    Sphere(5, 1),
    Sphere.published(9),
]


def lines(geom):
    return geom.lines.table, geom.lines.row_class


def solve(a, b, geom, epsilon, g=None, *, backend="cpu", **options):
    options = dict(tol=0.0, criterion="marginal", max_iter=8, overrelaxation=1.0) | options
    g = torch.zeros_like(b) if g is None else g
    return sinkhorn_stationary(a, b, *lines(geom), epsilon, g, backend=backend, **options)


@pytest.mark.parametrize("geom", GEOMETRIES, ids=repr)
@pytest.mark.parametrize("eps", [1e-4, 1e-3, 1e-2, 0.1, 10.0])
def test_plain_iterations_match_the_dense_reference(geom, eps):
    """Same number of iterations from zeros: potentials within 1e-9 epsilon for every pair."""
    a, b = adversarial(geom.shape, geom.target_shape)
    epsilon = torch.full((len(a),), eps, dtype=torch.float64)
    fast = solve(a, b, geom, epsilon)
    truth = solve(a, b, geom, epsilon, backend="reference")
    for x, y in ((fast.f, truth.f), (fast.g, truth.g)):
        assert bool(x.isfinite().all())
        assert float((x - y).abs().max()) <= 1e-9 * eps
    assert torch.allclose(fast.cost, truth.cost, rtol=1e-9, atol=1e-15)
    assert torch.allclose(fast.marginal_error, truth.marginal_error, atol=1e-9)
    assert torch.allclose(fast.value, truth.value, rtol=1e-9, atol=1e-9 * eps)


@pytest.mark.parametrize("geom", GEOMETRIES, ids=repr)
@pytest.mark.parametrize("criterion", ["marginal", "cost"])
def test_adaptive_iterations_follow_the_reference(geom, criterion):
    a, b = adversarial(geom.shape, geom.target_shape)
    epsilon = torch.full((len(a),), 0.03, dtype=torch.float64)
    options = dict(overrelaxation=None, criterion=criterion, tol=1e-3, max_iter=15)
    fast = solve(a, b, geom, epsilon, **options)
    truth = solve(a, b, geom, epsilon, backend="reference", **options)
    assert torch.equal(fast.n_iters, truth.n_iters)
    assert torch.equal(fast.converged, truth.converged)
    assert float((fast.f - truth.f).abs().max()) <= 1e-8 * 0.03


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("geom", [GEOMETRIES[2], GEOMETRIES[6]], ids=repr)
def test_every_instruction_set(monkeypatch, isa, geom):
    a, b = adversarial(geom.shape, geom.target_shape)
    epsilon = torch.logspace(-4, 0, len(a), dtype=torch.float64)
    truth = solve(a, b, geom, epsilon, backend="reference")
    monkeypatch.setenv("UNOT_FAST_ISA", isa)
    fast = solve(a, b, geom, epsilon)
    assert bool(((fast.f - truth.f).abs().flatten(1).amax(1) <= 1e-9 * epsilon).all())
    assert bool(((fast.g - truth.g).abs().flatten(1).amax(1) <= 1e-9 * epsilon).all())


@pytest.mark.parametrize("geom", [GEOMETRIES[1], GEOMETRIES[7]], ids=repr)
def test_single_precision_follows_double(geom):
    # What is nothing in single precision is nothing in either.
    a, b = (torch.where(x > 1e-37, x, 0.0) for x in adversarial(geom.shape, geom.target_shape))
    epsilon = torch.logspace(-3, 0, len(a), dtype=torch.float64)
    double = solve(a, b, geom, epsilon)
    single = solve(a.float(), b.float(), geom, epsilon)
    assert single.f.dtype is torch.float32
    error = ((single.f.double() - double.f).flatten(1).abs().amax(1) / epsilon).max()
    span = float(double.f.abs().max() / epsilon.min())
    assert float(error) <= 1e-4 + 1e-6 * span


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_a_problem(threads):
    geom = Grid((40, 70), "euclidean")
    a, b = (normalised(torch.rand(1, 40, 70, dtype=torch.float64)) for _ in "ab")
    before = torch.get_num_threads()
    try:
        for eps in (0.05, 1e-4):  # scaling and log domain
            epsilon = torch.tensor([eps], dtype=torch.float64)
            expected = solve(a, b, geom, epsilon, max_iter=2)
            torch.set_num_threads(threads)
            found = solve(a, b, geom, epsilon, max_iter=2)
            assert torch.allclose(found.f, expected.f, rtol=1e-12, atol=1e-13)
            assert bool(expected.log_domain.all()) is (eps < 1e-3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("geom", GEOMETRIES, ids=repr)
@pytest.mark.parametrize("eps", [1e-3, 0.1])
def test_lse_and_prolongation_match_the_reference(geom, eps):
    half = geom.halved()
    for table, row_class, step, shape, source in (
        (*lines(geom), 1, geom.shape, geom.target_shape),
        (
            half.prolongation.table,
            half.prolongation.row_class,
            half.prolongation.step,
            geom.target_shape,
            half.geom.shape,
        ),
    ):
        h = torch.randn(3, *source, dtype=torch.float64) * 30
        h[0].flatten()[::2] = -torch.inf
        epsilon = torch.full((3,), eps, dtype=torch.float64)
        args = (h, table, row_class, step, shape, epsilon)
        fast, truth = (stationary_lse(*args, backend=b) for b in ("cpu", "reference"))
        assert torch.allclose(fast, truth, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("batch", [0, 3])
def test_operator_rules(batch, grad):
    geom = Grid((4, 5), "euclidean")
    a, b = torch.rand(2, batch, 4, 5, dtype=torch.float64)
    if batch:
        a, b = normalised(a), normalised(b)
    a, b = a.requires_grad_(grad), b.requires_grad_(grad)
    epsilon = torch.full((batch,), 0.1, dtype=torch.float64)
    args = (a, b, *lines(geom), epsilon, torch.zeros_like(b), 1e-6, "marginal", 50, None, "cpu")
    opcheck(torch.ops.unot_fast.sinkhorn_stationary.default, args)
    args = (torch.randn(batch, 4, 5).double(), *lines(geom), 1, [4, 5], epsilon, "cpu")
    opcheck(torch.ops.unot_fast.stationary_lse.default, args)


@pytest.mark.parametrize("geom", [Grid((3, 4), "euclidean"), Sphere(4, 5)])
def test_gradient_of_a_half_step(geom):
    h = torch.randn(2, *geom.shape, dtype=torch.float64).requires_grad_()
    epsilon = torch.tensor([0.3, 1.0], dtype=torch.float64)
    costs = geom.kernel_costs[1]
    assert torch.autograd.gradcheck(
        lambda x: stationary_lse(x, *costs, 1, geom.shape, epsilon, backend="cpu"), h
    )
    level = geom.halved()
    lines = level.prolongation
    coarse = h.new_zeros(2, *level.geom.shape).requires_grad_()
    table = lines.table, lines.row_class, lines.step
    out = stationary_lse(coarse, *table, geom.shape, epsilon, backend="cpu").sum()
    with pytest.raises(RuntimeError, match="equal spacing only"):
        out.backward()
