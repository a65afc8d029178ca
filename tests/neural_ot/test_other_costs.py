"""Costs |x - z|^p / p: their c-transform, and maps that are known."""

import pytest
import torch

from tests.models.test_neural_potential import Bowl
from unot_fast import NeuralOT, PowerCost, c_transform
from unot_fast.models import Potential
from unot_fast.neural_ot import energy_distance
from unot_fast.neural_ot.domain import Domain


@pytest.mark.parametrize("p", [1.2, 1.5, 2.0, 3.0])
def test_gradient_and_map(p):
    cost = PowerCost(p)
    x, z = torch.randn(20, 3).double().requires_grad_(), torch.randn(20, 3).double()
    (slope,) = torch.autograd.grad(cost.value(x, z).sum(), x)
    assert torch.allclose(cost.gradient(x, z), slope)
    # The map is where the gradient of c is minus that of g.
    assert torch.allclose(cost.transport(x, -slope), z)
    assert (cost.gradient(x, x) == 0).all()


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0])
def test_c_transform(p):
    cost, z = PowerCost(p), torch.randn(50, 2).double()
    found = c_transform(Bowl(2), z, cost=cost, tol=1e-8, max_iter=500)
    assert found.converged.all()
    slope = cost.gradient(found.y, z) + Bowl(2).gradient(found.y)
    assert slope.norm(dim=1).max() < 1e-6
    # No other point near by is better.
    for _ in range(10):
        other = found.y + 0.1 * torch.randn_like(z)
        assert (cost.value(other, z) + Bowl(2)(other) >= found.value - 1e-9).all()
    if p == 2:
        assert torch.allclose(found.y, c_transform(Bowl(2), z, tol=1e-8).y, atol=1e-6)


def test_on_the_line_the_map_is_monotone():
    """For every convex cost it is the map of quantiles."""
    p = 1.5

    def source(n, generator):
        return torch.randn(n, 1, generator=generator)

    def bend(x):
        return 2 + x + torch.tanh(2 * x)

    ot = NeuralOT(1, (32, 32), cost=PowerCost(p), batch=128)
    ot.fit(source, lambda n, generator: bend(source(n, generator)), steps=300)
    x = torch.linspace(-2, 2, 50)[:, None]
    assert (ot.transport(x) - bend(x)).abs().mean() < 0.2
    x = source(20000, torch.Generator().manual_seed(1))
    z = bend(source(20000, torch.Generator().manual_seed(2)))
    exact = float(((bend(x) - x).abs() ** p).mean() / p)
    assert ot.dual_value(x, z, tol=1e-3) == pytest.approx(exact, rel=0.05)
    with pytest.raises(ValueError, match="w2 is for the quadratic cost"):
        ot.w2(x, z)


def test_save_and_load(tmp_path):
    ot = NeuralOT(2, (8, 8), cost=PowerCost(1.5), batch=64)
    ot.fit(torch.randn(200, 2), torch.randn(200, 2) + 1, steps=5)
    ot.save(tmp_path / "ot.safetensors")
    again, x = NeuralOT.load(tmp_path / "ot.safetensors"), torch.randn(10, 2)
    assert again.cost == ot.cost
    assert torch.equal(again.transport(x), ot.transport(x))


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="p must be greater than 1"):
        PowerCost(1.0)
    with pytest.raises(ValueError, match="source has no spread"):
        NeuralOT(2, cost=PowerCost(3)).fit(torch.zeros(9, 2), torch.randn(9, 2), steps=1)
    with pytest.raises(ValueError, match="method must be 'lbfgs'"):
        c_transform(Bowl(2), torch.randn(3, 2), cost=PowerCost(1.5), method="anderson")


class Cosh:
    """sum cosh(x - z) - 1: a cost of someone's own."""

    def value(self, x, z):
        return ((x - z).cosh() - 1).sum(1)

    def gradient(self, x, z):
        return (x - z).sinh()

    def transport(self, x, slope):
        return x + slope.asinh()


@pytest.fixture(scope="module")
def cosh():
    ot = NeuralOT(2, (32, 32), cost=Cosh(), batch=128)
    return ot.fit(wide, wider, steps=150)


def wide(n, generator):
    return 3 * torch.randn(n, 2, generator=generator)


def wider(n, generator):
    return 1.2 * wide(n, generator) + 2


def test_a_cost_of_ones_own(cosh):
    """It is separable, so the map is one of quantiles in every column."""
    x, z = (f(4000, torch.Generator().manual_seed(k)) for k, f in enumerate((wide, wider)))
    assert (cosh.transport(x) - (1.2 * x + 2)).norm(dim=1).mean() < 0.5
    exact = float(Cosh().value(x, 1.2 * x + 2).mean())
    assert cosh.dual_value(x, z) == pytest.approx(exact, rel=0.1)


def test_a_cost_of_ones_own_is_known_by_name(cosh, tmp_path):
    cosh.save(tmp_path / "ot.safetensors")
    again, x = NeuralOT.load(tmp_path / "ot.safetensors", cost=Cosh()), torch.randn(10, 2)
    assert torch.equal(again.transport(x), cosh.transport(x))
    for other in (None, PowerCost(3)):
        with pytest.raises(ValueError, match="cost must be that of the fit, Cosh"):
            NeuralOT.load(tmp_path / "ot.safetensors", cost=other)
    with pytest.raises(TypeError, match="cost must have methods"):
        NeuralOT(2, cost="cosh")


@pytest.mark.parametrize("p", [1.2, 1.5, 3.0])
def test_in_the_plane(p):
    """Costs that grow less than a quadratic, as the network does, and one that grows more."""
    random = [torch.Generator().manual_seed(k) for k in range(2)]
    ot = NeuralOT(2, (32, 32), cost=PowerCost(p), batch=128)
    ot.fit(
        lambda n, generator: torch.randn(n, 2, generator=generator),
        lambda n, generator: 0.7 * torch.randn(n, 2, generator=generator) + 1,
        steps=120,
    )
    x, z = (torch.randn(2000, 2, generator=g) for g in random)
    z = 0.7 * z + 1
    assert energy_distance(ot.transport(x), z) < 0.05
    assert energy_distance(ot.inverse(z, tol=1e-3), x) < 0.05
    some_coupling = PowerCost(p).value(x, 0.7 * x + 1).mean()
    assert ot.dual_value(x, z, tol=1e-3) == pytest.approx(float(some_coupling), rel=0.1)


def test_a_point_that_need_not_move():
    """There |x - z|^1.1 has a kink, and no gradient near by is small."""
    z = torch.randn(50, 2)
    found = c_transform(Slight(2), z, cost=PowerCost(1.1), start=z + 0.1)
    assert found.converged.all()
    assert (found.y - z).abs().max() < 1e-4


class Slight(Potential):
    def forward(self, x, labels=None):
        return 0.05 * x.sin().sum(1)


def test_the_wall():
    domain = Domain(3)
    x = torch.randn(500, 3).double()
    assert (domain.double().wall(x) == 0).all()
    domain.measure(x)
    assert (domain.wall(x) == 0).all()
    far = (5 * torch.randn(50, 3).double()).requires_grad_()
    (slope,) = torch.autograd.grad(domain.wall(far).sum(), far)
    assert torch.allclose(domain.slope(far), slope)
    assert (slope.norm(dim=1) > 1).any()
    assert domain.starts(Slight(3), PowerCost(3), x[:0], None).shape == (0, 3)
