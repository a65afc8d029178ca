import math
import time

import pytest
import torch

from tests.conftest import normalised
from unot_fast import Grid, Sphere
from unot_fast.evaluation import (
    GAUSS,
    MULTISCALE,
    ONES,
    Evaluation,
    Start,
    Statistics,
)
from unot_fast.evaluation.starts import published_gaussian

EPS = 0.02


def problems(batch=6, n=(9, 7)):
    x = normalised(torch.rand(2, batch, *n, dtype=torch.float64) ** 3, dust=1e-4)
    return x[0], x[1]


def dense(mu, nu, cost, epsilon, iterations, v=None, u=None):
    """Costs and marginal violations of Sinkhorn's scalings from v, or from u."""
    kernel = torch.exp(-cost / epsilon)
    mu, nu = mu.flatten(1), nu.flatten(1)
    for k in range(iterations):
        if u is None or k:
            u = mu / (v @ kernel.T)
            v = nu / (u @ kernel)
        else:  # that of the source: v, then u
            v = nu / (u @ kernel)
            u = mu / (v @ kernel.T)
        if iterations > 500:
            continue
        plan = u[:, :, None] * kernel * v[:, None]
        violation = ((plan.sum(1) - nu).abs().sum(1) + (plan.sum(2) - mu).abs().sum(1)) / 2
        yield (plan * cost).sum((1, 2)), violation
    plan = u[:, :, None] * kernel * v[:, None]
    yield (plan * cost).sum((1, 2)), None


def from_source(mu, nu, cost, epsilon, iterations, u):
    """The same from u, every iteration updating v, then u."""
    return dense(nu, mu, cost.T, epsilon, iterations, v=u)


def check(evaluation, start, expected, iterations):
    costs, violations = zip(*(next(expected) for _ in range(iterations)), strict=True)
    errors = (torch.stack(costs) / evaluation.cost - 1).abs()
    assert torch.allclose(evaluation.relative_errors(start, iterations), errors, atol=1e-8)
    measured = evaluation.marginal_violations(start, iterations)
    assert torch.allclose(measured, torch.stack(violations), atol=1e-8)
    first = [next((k + 1.0 for k, e in enumerate(col) if e < 0.01), math.inf) for col in errors.T]
    assert evaluation.iterations_to(start, most=iterations).tolist() == first


@pytest.fixture(scope="module")
def evaluation():
    torch.manual_seed(3)
    mu, nu = problems()
    return Evaluation(mu, nu, Grid((9, 7)), EPS)


def dense_inputs(evaluation):
    return evaluation.mu, evaluation.nu, evaluation.geom.cost_matrix(), EPS


def test_reference(evaluation):
    *_, (cost, _) = dense(*dense_inputs(evaluation), 3000, v=torch.ones(6, 63).double())
    assert bool(evaluation.converged.all())
    assert torch.allclose(evaluation.cost, cost, rtol=1e-5)


def test_from_ones(evaluation):
    v = torch.ones(6, 63, dtype=torch.float64)
    check(evaluation, ONES, dense(*dense_inputs(evaluation), 40, v=v), 40)


def test_from_a_callable_and_a_tensor(evaluation):
    g = 0.05 * torch.rand(6, 9, 7, dtype=torch.float64)
    v = (evaluation.nu * (g / EPS).exp()).flatten(1)
    calls = []

    def network(mu, nu, geom, epsilon):
        calls.append(mu.shape)
        assert geom is evaluation.geom
        assert epsilon.tolist() == [EPS] * len(mu)
        return g.to(mu)

    start = Start("network", network)
    for s in (start, Start("tensor", g)):
        check(evaluation, s, dense(*dense_inputs(evaluation), 20, v=v), 20)
    assert len(calls) == 1  # kept


def test_from_the_published_gaussian(evaluation):
    mu, nu, cost, _ = dense_inputs(evaluation)
    x = evaluation.geom.points().reshape(-1, 2)
    scalings = []
    for m, n in zip(mu.flatten(1), nu.flatten(1), strict=True):
        means = [w @ x for w in (m, n)]
        covs = [
            (w[:, None] * (x - c)).T @ (x - c) / (1 - w @ w)
            for w, c in zip((m, n), means, strict=True)
        ]
        values, vectors = torch.linalg.eigh(covs[0])
        root = vectors @ values.sqrt().diag() @ vectors.T
        values, vectors = torch.linalg.eigh(root @ covs[1] @ root)
        slope = root.inverse() @ vectors @ values.sqrt().diag() @ vectors.T @ root.inverse()
        offset = x - means[0]
        f = x.square().sum(1) - torch.einsum("ni,ij,nj->n", offset, slope, offset)
        f = f - 2 * x @ means[1]
        scalings.append(torch.exp((f - f.mean()) / EPS))
    check(evaluation, GAUSS, from_source(mu, nu, cost, EPS, 20, torch.stack(scalings)), 20)


def test_multiscale(evaluation):
    errors = evaluation.relative_errors(MULTISCALE, 1)
    assert bool((errors < evaluation.relative_errors(ONES, 1)).all())
    finer = Evaluation(*problems(2, (16, 16)), Grid((16, 16)), EPS)
    assert bool((finer.coarse_work(MULTISCALE) > 0).all())
    assert not finer.coarse_work(ONES).any()


def test_grids_that_differ():
    mu, _ = problems(2, (6, 5))
    _, nu = problems(2, (4, 7))
    evaluation = Evaluation(mu, nu, Grid((6, 5), target=(4, 7)), EPS)
    f = 0.1 * torch.rand(2, 6, 5, dtype=torch.float64)
    u = (mu * (f / EPS).exp()).flatten(1)
    expected = from_source(*dense_inputs(evaluation), 10, u)
    check(evaluation, Start("f", f, side="source"), expected, 10)


def test_pairs_without_a_reference_are_counted():
    mu, nu = problems()
    nu[0] = mu[0]  # converges before the others
    evaluation = Evaluation(mu, nu, Grid((9, 7)), EPS, tol=1e-9, max_iter=3)
    missing = int((~evaluation.converged).sum())
    assert 0 < missing == evaluation.unconverged
    count = evaluation.iterations_to(ONES)
    assert Statistics.of(count).unconverged == missing
    assert torch.equal(count.isnan(), ~evaluation.converged)
    assert torch.equal(evaluation.relative_errors(ONES, 2)[1].isnan(), ~evaluation.converged)


def test_statistics():
    values = torch.tensor([1.0, 3.0, math.inf, math.nan, math.nan])
    assert Statistics.of(values) == Statistics(2.0, 2**0.5, 1, 2)
    one = Statistics.of(torch.tensor([5.0]))
    assert (one.mean, one.std) == (5.0, 0.0)
    assert math.isnan(Statistics.of(torch.tensor([math.inf])).mean)


def test_misses_are_counted(evaluation):
    count = evaluation.iterations_to(ONES, target=1e-6, most=3)
    assert bool(count.isinf().all())
    assert evaluation.time_to(ONES, 1e-6, most=3) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("start", [ONES, GAUSS, MULTISCALE])
def test_time_to_an_error(evaluation, start, dtype):
    mean = evaluation.time_to(start, repeats=1, dtype=dtype)
    worst = evaluation.time_to(start, rule="worst", repeats=1, dtype=dtype)
    assert mean.mean_error < 0.01
    assert worst.worst_error < 0.01
    assert 1 <= mean.iterations <= worst.iterations
    assert 0 <= mean.start_seconds < mean.seconds
    errors = evaluation.relative_errors(start, worst.iterations)
    assert float(errors[mean.iterations - 1].mean()) == pytest.approx(mean.mean_error, abs=1e-4)


def test_time_includes_the_start(evaluation):
    def slow(mu, nu, geom, epsilon):
        time.sleep(0.05)
        return torch.zeros_like(nu)

    timing = evaluation.time_after(Start("slow", slow), 2, repeats=1)
    assert 0.05 <= timing.start_seconds < timing.seconds


def test_sphere():
    mu, nu = problems(3, (6, 12))
    evaluation = Evaluation(mu, nu, Sphere(6, 12), 0.1)
    v = torch.ones(3, 72, dtype=torch.float64)
    expected = dense(mu, nu, evaluation.geom.cost_matrix(), 0.1, 10, v=v)
    check(evaluation, ONES, expected, 10)
    with pytest.raises(ValueError, match="squared Euclidean"):
        evaluation.relative_errors(GAUSS, 1)


def test_arguments(evaluation):
    with pytest.raises(ValueError, match="side must be"):
        Start("x", "zeros", side="left")
    with pytest.raises(ValueError, match="rule must be"):
        evaluation.time_to(ONES, rule="median")
    with pytest.raises(ValueError, match="iterations must be positive"):
        evaluation.relative_errors(ONES, 0)
    cost = Grid((9, 7), lambda d: d.norm(dim=-1) + d[..., 0].relu())
    other = Evaluation(evaluation.mu, evaluation.nu, cost, 0.1)
    with pytest.raises(ValueError, match="not supported"):
        other.relative_errors(Start("f", "zeros", side="source"), 1)


def test_gaussian_of_points():
    """Diracs and lines have singular covariances."""
    x = torch.zeros(2, 9, 7, dtype=torch.float64)
    x[0, 3, 3] = x[1, 2] = 1
    x = normalised(x)
    f = published_gaussian(x, x.flip(0), Grid((9, 7)), torch.tensor([EPS, EPS]))
    assert bool(f.isfinite().all())
