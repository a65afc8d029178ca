"""The public solver on costs that are no sum over the axes."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from tests.conftest import adversarial, normalised
from unot_fast import Grid, Sphere, sinkhorn


def lopsided(d):
    """A function of the displacement that is not symmetric."""
    return d.abs().pow(1.5).sum(-1) + 0.5 * torch.relu(d[..., -1]) + 0.1 * d[..., 0].abs()


GEOMETRIES = [
    Grid((6, 7), "euclidean"),
    Grid((5, 8), "euclidean", spacing=0.1, target=Grid((7, 6), spacing=0.1)),
    Grid((3, 4, 4), "euclidean"),
    Grid((5, 7), lopsided),
    Grid((9,), lopsided, target=9),
    Sphere(6, 8),
    Sphere.published(7),
]


def pair(geom, batch=2):
    return (
        normalised(torch.rand(batch, *shape, dtype=torch.float64) + 0.05, len(shape))
        for shape in (geom.shape, geom.target_shape)
    )


@pytest.mark.parametrize("geom", GEOMETRIES, ids=repr)
@pytest.mark.parametrize("eps", [0.3, 0.03])
def test_plan_and_what_is_made_of_it(geom, eps):
    a, b = pair(geom)
    result = sinkhorn(a, b, geom, eps, tol=1e-10, max_iter=50_000)
    assert bool(result.converged.all())
    plan = result.plan().flatten(1 + len(geom.shape)).flatten(1, -2)
    assert torch.allclose(plan.sum(2), a.flatten(1), atol=1e-9)
    assert torch.allclose(plan.sum(1), b.flatten(1), atol=1e-9)
    assert torch.allclose((plan * geom.cost_matrix()).sum((1, 2)), result.cost, rtol=1e-8)

    x = torch.randn(2, 3, *geom.target_shape, dtype=torch.float64)
    expected = torch.einsum("bij,bcj->bci", plan, x.flatten(2))
    assert torch.allclose(result.apply(x).flatten(2), expected, atol=1e-12)
    x = torch.randn(2, *geom.shape, dtype=torch.float64)
    expected = torch.einsum("bij,bi->bj", plan, x.flatten(1))
    assert torch.allclose(result.apply(x, transpose=True).flatten(1), expected, atol=1e-12)
    points = geom.points("target").flatten(0, -2)
    mean = plan @ points / plan.sum(2, keepdim=True)
    assert torch.allclose(result.barycentric_map().flatten(1, -2), mean, atol=1e-12)


@pytest.mark.parametrize(
    "geom",
    [
        Grid((30, 40), "euclidean"),
        Grid((33,), "euclidean"),
        Grid((13, 14, 12), "euclidean"),
        Grid((24, 30), lopsided),
        Sphere(16, 30),
        Sphere(15, 25, grid="legendre-gauss"),
        Sphere.published(24),
    ],
    ids=repr,
)
def test_every_start_reaches_the_same_cost(geom):
    a, b = adversarial(geom.shape, geom.target_shape)
    options = dict(tol=1e-11, max_iter=20_000)
    costs = [sinkhorn(a, b, geom, 0.1, init=init, **options) for init in ("zeros", "multiscale")]
    assert bool(costs[0].converged.all())
    assert bool(costs[1].converged.all())
    assert torch.allclose(costs[0].cost, costs[1].cost, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    "geom",
    [
        Grid((70, 3), "euclidean"),
        Grid((70, 1), "euclidean"),
        Grid((2, 40), "euclidean", spacing=(0.5, 0.02)),
        Sphere(3, 50),
        Sphere(40, 1),
    ],
    ids=repr,
)
def test_thin_grids(geom):
    a, b = pair(geom)
    zeros, multiscale = (
        sinkhorn(a, b, geom, 0.1, init=init, tol=1e-8) for init in ("zeros", "multiscale")
    )
    assert bool(zeros.converged.all())
    assert bool(multiscale.converged.all())
    assert torch.allclose(zeros.cost, multiscale.cost, rtol=1e-5)


def test_multiscale_start_saves_iterations():
    geom = Grid((48, 48), "euclidean")
    x = torch.linspace(0, 1, 48, dtype=torch.float64)
    blob = torch.exp(-((x - 0.3) ** 2) / 0.02)
    a, b = blob[:, None] * blob, blob.flip(0)[:, None] * blob
    zeros, multiscale = (
        sinkhorn(a, b, geom, 0.05, init=init, normalize=True) for init in ("zeros", "multiscale")
    )
    assert float(multiscale.coarse_work) > 0
    assert int(multiscale.n_iters) + float(multiscale.coarse_work) < 0.5 * int(zeros.n_iters)
    assert float(multiscale.cost) == pytest.approx(float(zeros.cost), rel=2e-3)


@pytest.mark.parametrize("geom", [Sphere(20, 41), Sphere(21, 40, "chordal")], ids=repr)
def test_dirac_to_dirac_is_the_distance(geom):
    a, b = torch.zeros(2, *geom.shape, dtype=torch.float64)
    a[3, 5], b[15, 30] = 1, 1
    x, y = geom.points()[3, 5], geom.points()[15, 30]
    distance = math.acos(float(x @ y)) if geom.cost == "geodesic" else float((x - y).norm())
    assert float(sinkhorn(a, b, geom, 0.05).cost) == pytest.approx(distance, rel=1e-12)


def test_rotation_of_the_sphere_changes_nothing():
    geom = Sphere(12, 24)
    a, b = pair(geom)
    still = sinkhorn(a, b, geom, 0.1, tol=1e-10)
    turned = sinkhorn(a.roll(7, -1), b.roll(7, -1), geom, 0.1, tol=1e-10, init="zeros")
    assert torch.allclose(still.cost, turned.cost, rtol=1e-9)
    assert torch.allclose(still.f.roll(7, -1), turned.f, atol=1e-9)


@pytest.mark.parametrize(
    "geom", [Grid((9, 11), "euclidean"), Sphere(9, 12), Sphere.published(9)], ids=repr
)
def test_interpolation_keeps_mass_and_ends(geom):
    a, b = pair(geom)
    result = sinkhorn(a, b, geom, 0.02, tol=1e-8, max_iter=50_000)
    assert torch.allclose(result.interpolate(0.5).flatten(1).sum(1), torch.ones(2).double())
    if getattr(geom, "grid", "") != "published":  # where points coincide, mass may change places
        inner = (slice(None), slice(1, -1))
        assert torch.allclose(result.interpolate(0.0)[inner], a[inner], atol=1e-7)
        assert torch.allclose(result.interpolate(1.0)[inner], b[inner], atol=1e-7)


def test_interpolation_moves_along_the_great_circle():
    geom = Sphere(37, 72)
    a, b = torch.zeros(2, *geom.shape, dtype=torch.float64)
    a[18, 0], b[18, 24] = 1, 1  # on the equator, 120 degrees apart
    middle = sinkhorn(a, b, geom, 0.05).interpolate(0.5)
    assert float(middle[18, 12]) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("geom", [Grid((3, 4), "euclidean"), Sphere(3, 4)], ids=repr)
@pytest.mark.parametrize("name", ["value", "cost", "f", "g"])
def test_gradcheck(geom, name):
    def function(x, y):
        a, b = (torch.softmax(z.flatten(1), 1).reshape(z.shape) for z in (x, y))
        return getattr(sinkhorn(a, b, geom, 0.3, tol=1e-13, max_iter=20_000), name)

    logits = [torch.randn(2, *geom.shape).double().requires_grad_() for _ in "xy"]
    assert gradcheck(function, logits, eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shape", [(6, 5), (20, 18)])
@pytest.mark.parametrize("kind", ["euclidean", "function", "sphere"])
def test_compile_and_vmap(kind, shape):
    """Of geometries that nobody has solved on before, with and without coarser levels."""
    if kind == "sphere":
        geom = Sphere(*shape)
    else:
        geom = Grid(shape, kind if kind == "euclidean" else lambda d: d.norm(dim=-1).pow(1.5))

    def cost(a, b):
        return sinkhorn(a, b, geom, 0.1, tol=1e-6, validate=False).cost

    compiled = torch.compile(cost, fullgraph=True, backend="eager")
    a, b = pair(geom)
    x, y = (t.clone().requires_grad_() for t in (a, b))
    found = torch.autograd.grad(compiled(x, y).sum(), (x, y))
    expected = torch.autograd.grad(cost(x, y).sum(), (x, y))
    assert all(map(torch.allclose, found, expected))
    assert torch.allclose(torch.vmap(cost)(a, b), cost(a, b))


@pytest.mark.parametrize("geom", [GEOMETRIES[0], Sphere(6, 8, "chordal", p=2)], ids=repr)
def test_what_is_for_other_costs_is_refused(geom, monkeypatch):
    a, b = pair(geom)
    with pytest.raises(ValueError, match="init='gaussian' needs the squared Euclidean"):
        sinkhorn(a, b, geom, 0.1, init="gaussian")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="backend 'triton' has no"):
        sinkhorn(a, b, geom, 0.1, backend="triton")


def test_unequal_spacing_is_refused():
    geom = Grid((4, 4), "euclidean", target=(3, 3))
    a, b = torch.rand(4, 4), torch.rand(3, 3)
    with pytest.raises(ValueError, match="geom: a cost that is no sum over the axes needs points"):
        sinkhorn(a, b, geom, 0.1, normalize=True)
