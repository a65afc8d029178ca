import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unot_fast.models import Generator
from unot_fast.models.generator import resampled


def is_measure(x, dust):
    n = x.shape[-1]
    least = dust / (1 + dust * n**2)
    total = x.double().sum((-2, -1))
    return bool((x >= 0.999 * least).all()) and bool(((total - 1).abs() < 1e-5).all())


@settings(deadline=None, max_examples=25)
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(0, 2**31))
def test_measures_from_any_noise(shift, spread, seed):
    generator = Generator(n=12, noise=4, hidden=9, dust=1e-6).eval()
    z = shift + spread * torch.randn(3, 2, 4, 4, generator=torch.manual_seed(seed))
    for x in generator(z):
        assert is_measure(x, 1e-6)


def test_zero_everywhere_is_uniform():
    generator = Generator(n=8, noise=8, hidden=9)
    mu, nu = generator(torch.full((2, 2, 8, 8), -1e3))
    assert torch.allclose(mu, torch.full_like(mu, 1 / 64))
    assert torch.allclose(nu, mu)


@pytest.mark.parametrize("n", [None, 10, 23, 64])
def test_samples_at_any_resolution(n):
    generator = Generator()
    pair = generator.sample(5, n, torch.Generator().manual_seed(0))
    again = generator.sample(5, n, torch.Generator().manual_seed(0))
    for x, y in zip(pair, again, strict=True):
        assert x.shape == (5, n or 64, n or 64)
        assert is_measure(x, 1e-6)
        assert torch.equal(x, y)
        x.square().sum().backward(retain_graph=True)
    assert all(p.grad is not None for p in generator.parameters())


def test_noise_is_a_sample_s_own():
    generator = Generator(n=12, noise=4, hidden=9).eval()
    z = torch.randn(6, 2, 4, 4)
    order = torch.randperm(6)
    for x, y in zip(generator(z), generator(z[order]), strict=True):
        assert torch.allclose(x[order], y, atol=1e-7)


def test_size_of_five_layers():
    layers = 200 * 164 + 3 * 164**2 + 164 * 2 * 64**2 + 4 * 164 + 2 * 64**2 + 8 * 164
    assert sum(p.numel() for p in Generator().parameters()) == layers


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_lipschitz_bound(scale):
    torch.manual_seed(0)
    generator = Generator(n=5, noise=5, hidden=20, scale=scale, lipschitz=0.9).double()
    with torch.no_grad():
        for p in generator.parameters():
            p.mul_(30)
    z = torch.randn(200, 50, dtype=torch.float64)
    step = 1e-3 * torch.randn_like(z)
    ratio = (generator.network(z + step) - generator.network(z)).norm(dim=1) / step.norm(dim=1)
    assert 0 < float(ratio.max().detach()) <= 0.9 * scale


def test_every_pair_of_measures_is_reached():
    """Theorem 3, with noise at the resolution of the measures: the noise of a pair is found by the
    contraction z <- (t - NN(z)) / lambda."""
    generator = Generator(n=4, noise=4, hidden=20, scale=0.7, dust=0.0, lipschitz=0.8).double()
    pairs = torch.rand(6, 2, 4, 4, dtype=torch.float64)
    pairs[0, 0] = 0
    pairs[0, 0, 1, 2] = 1  # a Dirac
    pairs /= pairs.sum((-2, -1), keepdim=True)
    z = torch.zeros_like(pairs)
    with torch.no_grad():
        for _ in range(200):
            z = (pairs - generator.network(z.flatten(1)).view_as(z)) / generator.scale
        found = torch.stack(generator(z), 1)
    assert float((found - pairs).abs().max()) < 1e-12


def test_resampling_keeps_shapes():
    x = torch.rand(2, 16, 16)
    assert torch.allclose(resampled(x, 16, 0.0), x / x.sum((-2, -1), keepdim=True))


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"dust": -1.0}, {"lipschitz": 0.0}])
def test_invalid_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Generator(n=4, noise=4, hidden=3, **wrong)
    with pytest.raises(ValueError, match="z must have shape"):
        Generator(n=4, noise=4, hidden=3)(torch.zeros(2, 32))
