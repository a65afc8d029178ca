"""The transport network: what goes in and comes out, whatever the grid."""

import dataclasses

import pytest
import torch

from unot_fast import UNOT, Grid, Sphere, sinkhorn
from unot_fast.models import PRESETS, UNOTConfig, weights
from unot_fast.models.final_sweeps import final_sweeps

TINY = {
    "mlp": dataclasses.replace(PRESETS["tiny"], width=16, depth=1),
    "euclidean": dataclasses.replace(PRESETS["euclidean"], width=16, depth=1),
    "sphere": dataclasses.replace(PRESETS["sphere"], width=16, depth=1),
    "fourier": dataclasses.replace(PRESETS["fourier"], width=8, depth=2, coordinates=True),
    "fourier on cells": dataclasses.replace(
        PRESETS["fourier"], width=8, depth=1, cells=(12, 12), sweeps=2, modes=(5, 4)
    ),
    "fourier on a sphere": UNOTConfig(
        cost="geodesic", epsilon=(0.1, 0.1), default_epsilon=0.1, cells=None, sweeps=0,
        kind="fourier", width=8, depth=1, modes=(6, 6),
    ),
}  # fmt: skip


def shapes(model):
    if model.config.cost == "geodesic":
        return [(12, 24), (21, 30)]
    return [(10, 10), (16, 16), (29, 29), (24, 20)]


def random_model(name):
    torch.manual_seed(0)
    model = UNOT(TINY[name])
    torch.nn.init.normal_(model.network.projection.weight, std=0.1)
    return model


@pytest.mark.parametrize("name", TINY)
def test_a_potential_at_any_resolution(name):
    model = random_model(name)
    for shape in shapes(model):
        a, b = torch.rand(2, 2, 3, *shape)
        a[0, 0, :, 1] = 0  # empty pixels
        g = model(a, b)
        assert g.shape == a.shape
        assert g.isfinite().all()


@pytest.mark.parametrize("name", TINY)
def test_problems_do_not_see_each_other(name):
    model = random_model(name)
    a, b = torch.rand(2, 4, *shapes(model)[0])
    torch.testing.assert_close(model(a, b)[2], model(a[2], b[2]), rtol=1e-4, atol=1e-4)


def test_totals_do_not_matter():
    model = random_model("mlp")
    a, b = torch.rand(2, 2, 20, 20)
    torch.testing.assert_close(model(a, b), model(3 * a, 0.2 * b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "euclidean", "sphere"])
def test_untrained_it_is_the_start_and_its_sweeps(name):
    model = UNOT(dataclasses.replace(TINY[name], sweeps=200))
    shape = shapes(model)[1]
    a, b = torch.rand(2, 2, *shape, dtype=torch.float64)
    geom, epsilon = model.geometry(shape), model.config.epsilon[1]
    result = sinkhorn(a, b, geom, epsilon, init=model(a, b, geom, epsilon), normalize=True,
                      max_iter=1, tol=0, overrelaxation=1.0)  # fmt: skip
    exact = sinkhorn(a, b, geom, epsilon, normalize=True, tol=1e-6)
    assert ((result.cost / exact.cost).log().abs() < 0.02).all()


@pytest.mark.parametrize("name", ["mlp", "euclidean", "sphere", "fourier"])
def test_without_its_network_it_is_the_start_alone(name):
    model = random_model(name)
    a, b = torch.rand(2, 2, *shapes(model)[1])
    bare = model.without_network()
    with torch.no_grad():
        torch.testing.assert_close(bare(a, b), UNOT(TINY[name])(a, b), rtol=0, atol=1e-6)
    assert not torch.allclose(bare(a, b), model(a, b), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TINY)
def test_refined_by_iterations_of_the_solver(name):
    model = random_model(name)
    a, b = torch.rand(2, 2, *shapes(model)[1])
    geom, options = model.geometry(a.shape[1:]), {"tol": 0.0, "normalize": True}
    refined = sinkhorn(
        a, b, geom, model.epsilon, init=model, max_iter=3, overrelaxation=1.5, **options
    )
    g = model.refined(3)(a, b)
    torch.testing.assert_close(g, refined.g, rtol=1e-4, atol=1e-4 * model.epsilon)
    assert not torch.allclose(g, model(a, b), rtol=1e-4, atol=1e-4 * model.epsilon)
    assert torch.equal(model.refined(0)(a, b), model(a, b))
    with pytest.raises(ValueError, match="iterations must not be negative; got -1"):
        model.refined(-1)


@pytest.mark.parametrize(
    "geom", [Grid((9, 12)), Grid((8, 8), "euclidean"), Sphere(6, 12)], ids=["grid", "any", "sphere"]
)
def test_final_sweeps_are_those_of_the_solver(geom):
    """In value and, where the potential has a gradient, in its gradient."""
    a, b = torch.rand(2, 3, *geom.shape, dtype=torch.float64) + 0.01
    a, b = (x / x.sum((1, 2), keepdim=True) for x in (a, b))
    g, epsilon = 0.1 * torch.rand_like(b), torch.tensor([0.05, 0.1, 0.3], dtype=torch.float64)
    options = {"tol": 0.0, "max_iter": 5, "overrelaxation": 1.7}
    expected = sinkhorn(a, b, geom, epsilon, init=g, **options).g
    for start in (g, g.clone().requires_grad_()):
        found = final_sweeps(a, b, geom, epsilon, start, 5)
        assert found.requires_grad is start.requires_grad
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-9)

    def last(g):
        return final_sweeps(a, b, geom, epsilon, g, 2)

    assert torch.autograd.gradcheck(last, g.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("name", ["mlp", "euclidean", "sphere"])
def test_final_sweeps_are_the_same_with_a_gradient(name):
    """Of all zeros but a few points too, and where the network is far off."""
    model = random_model(name)
    model.config = dataclasses.replace(model.config, final_sweeps=8)
    torch.nn.init.normal_(model.network.projection.weight, std=1.0)
    a, b = torch.rand(2, 4, *shapes(model)[1])
    a[1:], b[2:] = a[1:] * (a[1:] > 0.97), b[2:] * (b[2:] > 0.97)
    a[:, 0, 0] = b[:, 3, 3] = 1
    g = model(a, b)
    assert g.requires_grad
    without = model.requires_grad_(False)(a, b)
    torch.testing.assert_close(g, without, rtol=0, atol=1e-3 * model.epsilon)


def test_a_start_of_the_solver():
    model = random_model("mlp")
    a, b = torch.rand(2, 3, 24, 24)
    result = sinkhorn(a, b, Grid((24, 24)), 0.01, init=model, normalize=True)
    exact = sinkhorn(a, b, Grid((24, 24)), 0.01, normalize=True)
    assert result.converged.all()
    torch.testing.assert_close(result.cost, exact.cost, rtol=1e-2, atol=0)


def test_measures_get_no_gradient():
    a, b = torch.rand(2, 2, 12, 12)
    model = random_model("mlp").requires_grad_(False)
    assert not model(a.requires_grad_(), b).requires_grad


def test_scale_of_the_domain_is_that_of_epsilon():
    model = random_model("mlp")
    a, b = torch.rand(2, 2, 32, 32)
    g = model(a, b, Grid((32, 32)), 0.02)
    larger = model(a, b, Grid((32, 32), extent=3.0), 0.18)
    torch.testing.assert_close(larger, 9 * g, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", TINY)
def test_gradients_reach_the_weights(name):
    """Whole calls are differentiable; a step along the gradient has the slope that it says."""
    model = random_model(name).double()
    a, b = torch.rand(2, 2, *shapes(model)[1], dtype=torch.float64)
    target = torch.rand_like(b)
    weight = model.network.projection.weight

    def loss():
        return (model(a, b) * target).sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        step = 1e-5 * torch.randn_like(weight)
        weight += step
        above = loss()
        weight -= 2 * step
        slope = above - loss()
    torch.testing.assert_close(slope, 2 * (gradient * step).sum(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, a: m(a, a[:1]), "nu must have the shape of mu"),
        (lambda m, a: m(a, a[..., :-1]), "nu must have shape"),
        (lambda m, a: m(-a, a), "mu must be finite, non-negative"),
        (lambda m, a: m(a, 0 * a), "nu must be finite, non-negative and not zero everywhere"),
        (lambda m, a: m(a, a, Grid((16, 16), "euclidean")), "geom must have the cost"),
        (lambda m, a: m(a, a, Sphere(16, 16)), "geom must have the cost"),
        (lambda m, a: m(a, a, Grid((16, 16)), 1.0), "epsilon must be within"),
        (lambda m, a: m(a, a, Grid((16, 16), extent=(1.0, 2.0))), "geom must be about square"),
        (lambda m, a: m(a, a, Grid((16, 16), target=Grid((16, 16), extent=2.0))), "same points"),
        (lambda m, a: m(a, a, Grid((16, 16)), torch.ones(7)), "epsilon must be one number"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_model("mlp"), torch.rand(2, 16, 16))


@pytest.mark.parametrize("name", TINY)
def test_one_graph_under_torch_compile(name):
    """Of any resolution, with gradients in the parameters."""
    torch._dynamo.reset()  # of a handful of graphs that it keeps for a function
    model = random_model(name)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    parameters = list(model.parameters())
    for shape in shapes(model)[:2]:
        a, b = torch.rand(2, 3, *shape)
        expected, found = model(a, b), compiled(a, b)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        gradients = [torch.autograd.grad(g.square().sum(), parameters) for g in (found, expected)]
        for x, y in zip(*gradients, strict=True):
            assert (x - y).abs().max() <= 1e-3 * y.abs().max()


def test_bad_configurations():
    for change, message in (
        ({"cost": "manhattan"}, "cost must be one of"),
        ({"epsilon": (0.02, 0.03)}, "epsilon must be a range"),
        ({"cells": None}, "cells must be given"),
        ({"kind": "cnn"}, "kind must be"),
    ):
        with pytest.raises(ValueError, match=message):
            UNOTConfig(**change)


@pytest.mark.parametrize("name", TINY)
def test_weights_survive_a_file(name, tmp_path):
    model = random_model(name)
    model.save_pretrained(tmp_path / "w.safetensors", dtype=torch.float32, card={"note": "x"})
    again = UNOT.from_pretrained(tmp_path / "w.safetensors")
    assert again.config == model.config
    assert weights.card(tmp_path / "w.safetensors") == {"note": "x"}
    a, b = torch.rand(2, 2, *shapes(model)[0])
    with torch.no_grad():
        torch.testing.assert_close(again(a, b), model(a, b), rtol=0, atol=0)


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "x").write_bytes(b"something else")
    with pytest.raises(ValueError, match="no safetensors file"):
        UNOT.from_pretrained(tmp_path / "x")
    with pytest.raises(ValueError, match="must be a file or one of"):
        UNOT.from_pretrained("nothing")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "y")
    with pytest.raises(ValueError, match="holds no weights"):
        UNOT.from_pretrained(tmp_path / "y")


def test_the_base_preset_has_the_published_size():
    model = UNOT(PRESETS["base"])
    layer = model.network.layers[0]
    assert layer.w1.shape[:2] == (64, 256)
    assert len(model.network.layers) == 4
