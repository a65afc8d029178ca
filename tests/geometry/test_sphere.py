import math

import pytest
import torch

from unot_fast import Sphere
from unot_fast.geometry import LineCost, Structure
from unot_fast.reference.stationary_lse import dense_cost

SPHERES = [
    Sphere(8, 12),
    Sphere(9, 5, grid="legendre-gauss"),
    Sphere(7, 10, "chordal", p=2),
    Sphere(6, 1),
    Sphere.published(10),
]


def dense(cost: LineCost, n: int, m: int):
    return dense_cost(cost.table, cost.row_class, cost.step, n, m)


@pytest.mark.parametrize("sphere", SPHERES, ids=repr)
def test_circles_make_the_cost_matrix(sphere):
    n = sphere.shape[1]
    cost = sphere.cost_matrix()
    assert torch.allclose(dense(sphere.lines, n, n), cost, atol=1e-14)
    assert sphere.max_cost == pytest.approx(float(cost.max()))
    assert sphere.structure is Structure.SPHERICAL


def test_cost_is_the_angle():
    sphere = Sphere(9, 16)
    x = sphere.points().reshape(-1, 3)
    angle = torch.arccos((x @ x.T).clamp(-1, 1))
    assert torch.allclose(sphere.cost_matrix(), angle, atol=3e-8)  # what arccos leaves near 0, pi
    assert sphere.max_cost == pytest.approx(math.pi)
    assert torch.allclose(Sphere(9, 16, "chordal").cost_matrix(), torch.cdist(x, x), atol=1e-7)


@pytest.mark.parametrize("grid", ["equiangular", "legendre-gauss"])
@pytest.mark.parametrize("nlat", [4, 7, 16])
def test_weights_are_areas(grid, nlat):
    """Exact for the polynomials that the quadrature claims: degree nlat - 1."""
    sphere = Sphere(nlat, 12, grid=grid)
    z = sphere.points()[..., 2]
    for k in range(nlat):
        exact = 4 * math.pi / (k + 1) if k % 2 == 0 else 0.0
        assert float((sphere.weights * z**k).sum()) == pytest.approx(exact, abs=1e-12)
    assert bool((sphere.weights > 0).all())


def test_masses_and_densities():
    sphere = Sphere(10, 20)
    mass = sphere.masses(torch.ones(3, 10, 20))
    assert torch.allclose(mass.sum((1, 2)), torch.tensor(4 * math.pi))
    assert torch.allclose(sphere.density(mass), torch.ones(3, 10, 20))
    with pytest.raises(ValueError, match="no areas"):
        Sphere.published(8).masses(torch.ones(8, 8))


def test_published_grid_repeats_poles_and_seam():
    sphere = Sphere.published(28)
    points = sphere.points().reshape(-1, 3)
    distinct = torch.unique((points * 1e9).round(), dim=0)
    assert len(distinct) == 704
    assert sphere.max_cost == pytest.approx(math.pi / 10)


@pytest.mark.parametrize("sphere", [Sphere(8, 12), Sphere(9, 7), Sphere.published(10)], ids=repr)
def test_halved(sphere):
    half = sphere.halved()
    rows, columns = half.pool_source
    assert half.geom.shape == (len(rows), len(columns))
    assert torch.equal(rows.sum(0), torch.ones(sphere.shape[0]).double())
    # Prolongation: cost between the fine points and the coarse ones.
    n, m = sphere.shape[1], len(columns)
    spacing = float(sphere.longitudes[1])
    longitude = (2 * torch.arange(m) + 0.5) * spacing
    latitude = half.geom.latitudes[:, None]
    y = torch.stack(
        torch.broadcast_tensors(
            latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()
        ),
        dim=-1,
    ).reshape(-1, 3)
    x = sphere.points().reshape(-1, 3)
    near, far = (x[:, None] - y).norm(dim=-1), (x[:, None] + y).norm(dim=-1)
    width = float(half.geom.latitudes.diff().abs().mean())
    level = torch.outer(torch.cos(sphere.latitudes), torch.cos(half.geom.latitudes))
    level = level[:, None, :, None]
    blur = (width**2 + level * (2 * spacing) ** 2) / 96
    blur = blur.expand(-1, n, -1, m).reshape(near.shape)
    expected = sphere.scale * ((2 * torch.atan2(near, far)) ** 2 + blur).sqrt()
    assert torch.allclose(dense(half.prolongation, n, m), expected, atol=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Sphere(1, 8), "nlat must be"),
        (lambda: Sphere(8, 0), "nlon must be"),
        (lambda: Sphere(8, 8, "arccos"), "cost must be one of"),
        (lambda: Sphere(8, 8, p=0.5), "p must be"),
        (lambda: Sphere(8, 8, grid="healpix"), "grid must be one of"),
        (lambda: Sphere.published(1), "n must be"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
