import pytest
import torch

from unot_fast.models import FourierNetwork


@pytest.mark.parametrize("hidden", [None, 7])
@pytest.mark.parametrize("domain", ["plane", "sphere"])
def test_any_resolution(domain, hidden):
    if domain == "sphere":
        pytest.importorskip("torch_harmonics")
    network = FourierNetwork(3, 2, 5, (6, 5), depth=2, hidden=hidden, domain=domain)
    for shape in ((16, 20), (9, 7)):
        out = network(torch.randn(4, 3, *shape))
        assert out.shape == (4, 2, *shape)
        out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_constant_and_smooth_functions_do_not_see_the_grid():
    """Of a function that all grids hold, and one layer, whose GELU acts point by point."""
    network = FourierNetwork(1, 1, 5, (6, 5), depth=1).double()

    def on(n):
        t = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
        x = t.cos()[:, None] * (2 * t).sin() + 0.3
        return network(x[None, None])[0, 0]

    coarse = on(16)
    for n in (32, 48, 64):
        assert torch.allclose(on(n)[:: n // 16, :: n // 16], coarse, atol=1e-12)


@pytest.mark.parametrize("hidden", [None, 32])
def test_activations_keep_their_size(hidden):
    """At the start of a training, over several layers."""
    network = FourierNetwork(2, 1, 32, (8, 8), depth=6, hidden=hidden)
    x = network.lifting(torch.randn(2, 2, 32, 32))
    before = x.std()
    for layer in network.layers:
        x = layer(x)
    assert 0.05 < float((x.std() / before).detach()) < 20


def test_unknown_domain():
    with pytest.raises(ValueError, match="domain must be"):
        FourierNetwork(1, 1, domain="torus")


@pytest.mark.parametrize("domain", ["plane", "sphere"])
def test_autocast_changes_nothing(domain):
    if domain == "sphere":
        pytest.importorskip("torch_harmonics")
    torch.manual_seed(0)
    network, x = (
        FourierNetwork(2, 1, 4, modes=(4, 3), depth=2, domain=domain),
        torch.rand(2, 2, 8, 16),
    )
    y = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(x), y)
        assert network(x.bfloat16()).dtype is torch.float32
    with pytest.raises(RuntimeError, match="Double but found Float"):
        network(x.double())
