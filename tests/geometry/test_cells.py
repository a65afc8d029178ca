"""Cells of points: masses stay, and plans between cells resemble those between points."""

import math

import pytest
import torch

from unot_fast import Grid, Sphere, sinkhorn
from unot_fast.geometry.cells import pooled
from unot_fast.solver.dispatch import prolong
from unot_fast.training import RandomMeasures

GEOMETRIES = {
    "sqeuclidean": lambda n: Grid((n, n)),
    "lp": lambda n: Grid((n, n), "lp", p=1.5),
    "euclidean": lambda n: Grid((n, n), "euclidean"),
    "function": lambda n: Grid((n, n), lambda d: d.abs().sum(-1)),
    "sphere": lambda n: Sphere(n, 2 * n),
    "published sphere": Sphere.published,
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("n", [10, 16, 27])
def test_masses_stay(name, n):
    geom = GEOMETRIES[name](n)
    shape = (12, 24) if "sphere" in name else (12, 12)
    level = geom.cells(shape)
    assert level.geom.shape == shape
    x = torch.rand(3, *geom.shape, dtype=torch.float64)
    torch.testing.assert_close(pooled(x, level.pool_source).sum((1, 2)), x.sum((1, 2)))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_as_many_cells_as_points_are_the_points(name):
    geom = GEOMETRIES[name](9)
    cells = geom.cells(geom.shape).geom
    if "sphere" in name:
        torch.testing.assert_close(cells.latitudes, geom.latitudes)
    else:
        for x, y in zip(cells.coordinates, geom.coordinates, strict=True):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_start_from_cells_is_close(name):
    geom = GEOMETRIES[name](32)
    points = geom.points()
    a, b = (torch.exp(-((points - c) ** 2).sum(-1) / 0.3)[None] for c in (0.2, 0.7))
    a, b = ((x / x.sum()).double() for x in (a, b))
    epsilon = torch.tensor([0.03 * geom.max_cost])
    level = geom.cells((16, 32) if "sphere" in name else (16, 16))
    own = epsilon - level.blur
    coarse = sinkhorn(
        pooled(a, level.pool_source), pooled(b, level.pool_target), level.geom, own, tol=1e-8
    )
    mass = pooled(a, level.pool_source)
    between = epsilon - level.blur_between
    g = -between * prolong(level, mass.log() + coarse.f / between, between, geom, "cpu")
    exact = sinkhorn(a, b, geom, epsilon, tol=1e-8)
    started = sinkhorn(a, b, geom, epsilon, init=g, tol=0, max_iter=1, overrelaxation=1.0)
    assert abs(float(started.cost / exact.cost) - 1) < 0.01


def test_blur_makes_the_plan_between_cells_as_wide():
    n, epsilon = 28, torch.tensor([0.01], dtype=torch.float64)
    geom = Grid((n, n))
    level = geom.cells((14, 14))
    source, random = RandomMeasures(geom), torch.Generator().manual_seed(0)
    a, b = (source(32, random).double() for _ in "ab")
    exact = sinkhorn(a, b, geom, epsilon, tol=1e-6, normalize=True).cost

    def error(own, between):
        pair = pooled(a, level.pool_source), pooled(b, level.pool_target)
        f = sinkhorn(*pair, level.geom, own, tol=1e-6, normalize=True).f
        scale = between.expand(32)
        h = pair[0].log() + f / between
        g = -between * prolong(level, h, scale, geom, "cpu")
        options = {"tol": 0, "max_iter": 1, "overrelaxation": 1.0, "normalize": True}
        started = sinkhorn(a, b, geom, epsilon, init=g, **options)
        return (started.cost / exact - 1).abs().mean()

    corrected = error(epsilon - level.blur, epsilon - level.blur_between)
    assert corrected < 0.8 * error(epsilon, epsilon)


def test_bad_shapes():
    with pytest.raises(ValueError, match="shape must have 2 axes"):
        Grid((8, 8)).cells((4,))
    with pytest.raises(ValueError, match="same points on either side"):
        Grid((8, 8), target=(9, 8)).cells((4, 4))
    assert math.isclose(float(Grid((1, 8)).cells((1, 4)).pool_source[0].sum()), 1)
