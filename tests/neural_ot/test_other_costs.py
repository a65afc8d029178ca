"""Costs |x - z|^p / p: their c-transform, and maps that are known."""

import pytest
import torch

from tests.models.test_neural_potential import Bowl
from unot_fast import NeuralOT, PowerCost, c_transform


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
    with pytest.raises(ValueError, match="method must be 'lbfgs'"):
        c_transform(Bowl(2), torch.randn(3, 2), cost=PowerCost(1.5), method="anderson")
