"""Torch's modes: autocast, inference mode, a default device, torch.vmap."""

import pytest
import torch

from unot_fast import (
    UNOT,
    Grid,
    NeuralPotential,
    Sphere,
    c_transform,
    sinkhorn,
    spectral_conv2d,
)

GEOMETRIES = [lambda: Grid((20, 18)), lambda: Grid((20, 18), "euclidean"), lambda: Sphere(12, 16)]


def pair(geom, batch=3):
    return torch.rand(2, batch, *geom.shape)


@pytest.mark.parametrize("make", GEOMETRIES)
def test_autocast_changes_nothing(make):
    geom = make()
    a, b = pair(geom)
    for init in ("multiscale", "zeros"):
        plain = sinkhorn(a, b, geom, 0.05, init=init, normalize=True)
        with torch.autocast("cpu", torch.bfloat16):
            cast = sinkhorn(a, b, geom, 0.05, init=init, normalize=True)
            assert torch.equal(cast.f, plain.f)
            assert torch.equal(cast.apply(b), plain.apply(b))
            assert torch.equal(cast.interpolate(0.5), plain.interpolate(0.5))


@pytest.mark.parametrize("name", ["sqeuclidean", "euclidean", "sphere"])
def test_networks_in_half_precision(name):
    model = UNOT.from_pretrained(name)
    geom = model.geometry((16, 32) if name == "sphere" else (20, 20))
    a, b = pair(geom)
    g = model(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(a, b), g)
    for half in (torch.float16, torch.bfloat16):
        model = UNOT.from_pretrained(name).to(half)
        assert float((model(a, b) - g).abs().max()) <= 0.1 * model.epsilon
        assert model(a.to(half), b.to(half)).dtype is half


@pytest.mark.parametrize("make", GEOMETRIES)
def test_a_geometry_of_inference_mode_can_be_trained_with(make):
    with torch.inference_mode():
        built_there = make()
    for geom in (built_there, make()):
        a, b = pair(geom)
        with torch.inference_mode():
            sinkhorn(a, b, geom, 0.05, normalize=True)
        a.requires_grad_()
        r = sinkhorn(a, b, geom, 0.05, normalize=True)
        (r.cost.sum() + r.f.square().sum()).backward()
        assert bool(a.grad.isfinite().all())


@pytest.mark.parametrize("make", GEOMETRIES)
def test_the_device_is_that_of_the_measures_whatever_the_default(make):
    a, b = pair(make())
    expected = sinkhorn(a, b, make(), 0.05, normalize=True)
    with torch.device("meta"):
        found = sinkhorn(a, b, make(), 0.05, normalize=True)
        assert torch.equal(found.f, expected.f)
        assert torch.equal(found.interpolate(0.5), expected.interpolate(0.5))
        a.requires_grad_()
        sinkhorn(a, b, make(), 0.05, normalize=True).f.square().sum().backward()
    assert bool(a.grad.isfinite().all())


def test_the_device_of_other_functions():
    z, x, weight = torch.rand(9, 3), torch.rand(2, 4, 12, 14), torch.rand(4, 4, 6, 4, 2)
    potential, model = NeuralPotential(3), UNOT.from_pretrained("sqeuclidean")
    a, b = torch.rand(2, 3, 20, 20)
    with torch.device("meta"):
        assert bool(c_transform(potential, z).converged.all())
        assert bool(spectral_conv2d(x, weight).isfinite().all())
        assert bool(model(a, b).isfinite().all())


@pytest.mark.parametrize("make", GEOMETRIES)
def test_vmap_with_default_arguments(make):
    geom = make()
    a, b = pair(geom)

    def made_of_a_solve(a, b):
        r = sinkhorn(a, b, geom, 0.05, normalize=True)
        return r.cost, r.apply(torch.ones_like(b)), r.interpolate(0.4)

    expected = made_of_a_solve(a, b)
    for found, x in zip(torch.vmap(made_of_a_solve)(a, b), expected, strict=True):
        torch.testing.assert_close(found, x)
    a[1, 0, 0] = -1
    with pytest.raises(ValueError, match="a must hold finite, non-negative masses"):
        torch.vmap(made_of_a_solve)(a, b)


def test_a_network_in_vmap():
    model = UNOT.from_pretrained("sqeuclidean")
    a, b = torch.rand(2, 3, 20, 20)
    torch.testing.assert_close(torch.vmap(model)(a, b), model(a, b))
