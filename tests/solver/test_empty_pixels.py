"""Where there is no mass, potentials are the half-step from the other side."""

import pytest
import torch

from unot_fast import Grid, Sphere, sinkhorn

GEOMETRIES = [
    Grid((11,), "lp", p=3.0), Grid((20, 17)), Grid((11, 3), "euclidean"), Sphere(6, 5),
]  # fmt: skip


def sparse_pairs(shape):
    """A Dirac and half a measure, each with a measure that is empty elsewhere."""
    dirac, half, other = torch.zeros(3, *shape, dtype=torch.float64)
    n = dirac.numel()
    dirac.view(-1)[3] = 1
    half.view(-1)[: n // 2] = torch.rand(n // 2, dtype=torch.float64)
    other.view(-1)[n // 3 :] = torch.rand(n - n // 3, dtype=torch.float64)
    return torch.stack([dirac, half]), torch.stack([other, other])


@pytest.mark.parametrize("criterion", ["marginal", "cost"])
@pytest.mark.parametrize("eps", [0.2, 1e-3])  # scaling and log domain
@pytest.mark.parametrize("geom", GEOMETRIES, ids=repr)
def test_potentials_are_half_steps(geom, eps, criterion):
    a, b = sparse_pairs(geom.shape)
    cost = geom.cost_matrix()
    for init in ("zeros", "multiscale"):
        options = dict(init=init, criterion=criterion, tol=1e-6, max_iter=30, normalize=True)
        r = sinkhorn(a, b, geom, eps, **options)
        a_, b_ = (x.flatten(1) / x.flatten(1).sum(1, keepdim=True) for x in (a, b))
        f, g = r.f.flatten(1), r.g.flatten(1)
        by_g = torch.logsumexp(b_.log()[:, None] + (g[:, None] - cost) / eps, 2)
        by_f = torch.logsumexp(a_.log()[:, None] + (f[:, None] - cost.T) / eps, 2)
        assert float((f / eps + by_g)[a_ == 0].abs().max()) <= 1e-9
        assert float((g / eps + by_f)[b_ == 0].abs().max()) <= 1e-9


@pytest.mark.parametrize("geom", GEOMETRIES, ids=repr)
def test_value_has_its_derivative_there(geom):
    """Of a Dirac the solve ends after one iteration."""
    a, b = (x[:1] for x in sparse_pairs(geom.shape))
    b = b / b.sum()
    a.requires_grad_()

    def value(a):
        return sinkhorn(a, b, geom, 0.02, tol=1e-12).value.sum()

    (gradient,) = torch.autograd.grad(value(a), a)
    step = torch.zeros_like(a)
    step.view(-1)[-1], step.view(-1)[3] = 1e-7, -1e-7
    with torch.no_grad():
        difference = float(value(a + step) - value(a))
    assert difference == pytest.approx(float((gradient * step).sum()), rel=1e-3)


@pytest.mark.parametrize("geom", GEOMETRIES, ids=repr)
def test_what_is_made_of_the_plan_is_finite(geom):
    a, b = sparse_pairs(geom.shape)
    for eps in (0.1, 1e-3):
        r = sinkhorn(a, b, geom, eps, normalize=True)
        assert bool(r.barycentric_map().isfinite().all())
        assert bool(r.apply(torch.ones_like(b)).isfinite().all())
        assert torch.allclose(r.interpolate(0.4).flatten(1).sum(1), r.plan().flatten(1).sum(1))


@pytest.mark.parametrize("eps", [3e-3, 1.5e-3, 1.2e-3, 1e-3, 8e-4, 4e-4])
def test_costs_beyond_the_range_of_an_exponential(eps):
    """exp(-C / epsilon) is zero in float64 between ends that the potentials bring together."""
    geom, x = Grid(32), torch.linspace(0, 1, 32, dtype=torch.float64)
    a, b = ((-((x - at) ** 2) / 0.005).exp() for at in (0.02, 0.98))
    a, b = a / a.sum(), b / b.sum()
    direction = a * torch.sin(20 * x)
    direction -= a * direction.sum()

    def solved(a):
        return sinkhorn(a, b, geom, eps, tol=1e-13)

    r = solved(a.requires_grad_())
    assert torch.allclose(r.apply(torch.ones_like(b)), a)
    assert bool(r.barycentric_map().isfinite().all())
    assert float(r.interpolate(0.5).sum()) == pytest.approx(1)
    (gradient,) = torch.autograd.grad(r.cost, a)
    with torch.no_grad():
        step = 1e-4 * direction
        difference = float(solved(a + step).cost - solved(a - step).cost)
    assert difference == pytest.approx(2 * float((gradient * step).sum()), rel=1e-4)
