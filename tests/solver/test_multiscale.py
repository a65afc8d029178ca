"""The fused solve of the CPU library against the same steps, one operator each."""

from dataclasses import replace

import pytest
import torch
from torch.library import opcheck

from tests.conftest import adversarial, normalised
from unot_fast import Grid, Pyramid, sinkhorn
from unot_fast.geometry.cells import pooled
from unot_fast.ops import sinkhorn_separable
from unot_fast.solver import multiscale
from unot_fast.training import RandomMeasures


@pytest.mark.parametrize(
    ("n", "m"),
    [
        ((28, 28), (28, 28)),
        ((33, 20), (33, 20)),
        ((9, 7), (9, 7)),
        ((45,), (45,)),
        ((40, 9), (13, 50)),
        ((17, 12, 14), (17, 12, 14)),
        ((24, 5, 13), (9, 30, 4)),
    ],
)
@pytest.mark.parametrize("p", [2, 1])
@pytest.mark.parametrize("eps", [1e-3, 0.01, 0.3])
def test_fused_is_composed(n, m, p, eps):
    a, b = adversarial(n, m)
    grid = Grid(n, "lp", p=p, target=m)
    epsilon = eps * torch.linspace(1, 2, len(a), dtype=torch.float64)
    pyramid = Pyramid(tol=1e-6, max_iter=12)  # few iterations: rounding has no time to grow
    options = {"tol": 0.0, "criterion": "marginal", "max_iter": 2, "overrelaxation": 1.0}
    solution, work = multiscale.solve_multiscale(
        a, b, grid, epsilon, pyramid, **options, backend="cpu"
    )
    g, expected_work = multiscale.multiscale_start(a, b, grid, epsilon, "cpu", pyramid)
    expected = sinkhorn_separable(a, b, grid.axis_costs, epsilon, g, **options, backend="cpu")
    assert torch.allclose(work, expected_work, rtol=1e-12)
    for x, y in ((solution.f, expected.f), (solution.g, expected.g)):
        assert bool(((x - y).flatten(1).abs().amax(1) <= 1e-9 * epsilon).all())
    for name in ("cost", "value", "marginal_error"):
        x, y = getattr(solution, name), getattr(expected, name)
        assert torch.allclose(x, y, rtol=1e-9, atol=1e-12), name


def test_levels_conserve_mass_and_centre():
    grid = Grid((45, 28), target=(30, 64))
    a = normalised(torch.rand(2, 45, 28, dtype=torch.float64))
    mass = a
    for level in multiscale._levels(grid, 8):
        mass = pooled(mass, level.pool_source)
        assert mass.shape[1:] == level.geom.shape
        assert torch.allclose(mass.sum((1, 2)), torch.ones(2, dtype=torch.float64))
    assert max(level.geom.shape + level.geom.target_shape) < 12
    flat = torch.ones(1, 45, 28, dtype=torch.float64) / (45 * 28)
    for level in multiscale._levels(grid, 8):
        flat = pooled(flat, level.pool_source)
        centre = (flat.sum(2) @ level.geom.coordinates[0]).item()
        assert centre == pytest.approx(0.5)


def test_operator_rules():
    a, b = (normalised(torch.rand(2, 20, 18, dtype=torch.float64)) for _ in range(2))
    grid, pyramid = Grid((20, 18)), Pyramid()
    levels = multiscale._levels(grid, pyramid.coarsest)
    args = (
        a.requires_grad_(),
        b.requires_grad_(),
        grid.axis_costs,
        torch.full((len(a),), 0.05, dtype=torch.float64),
        multiscale._matrices(grid, pyramid.coarsest, a.device),
        [n for level in levels for n in (*level.geom.shape, *level.geom.target_shape)],
        [0.01, 0.001, 0.0005] * len(levels),
        [multiscale._relative_work(level, grid) for level in levels],
        True,
        1e-3,
        50,
        1e-9,
        "marginal",
        100,
        None,
        "cpu",
    )
    opcheck(torch.ops.unot_fast.sinkhorn_multiscale.default, args)


def test_blur_nearly_halves_the_error_of_the_start():
    grid = Grid((28, 28))
    source, random = RandomMeasures(grid), torch.Generator().manual_seed(0)
    a, b = (source(48, random).double() for _ in "ab")
    exact = sinkhorn(a, b, grid, 0.01, tol=1e-6, normalize=True).cost

    def error(levels):
        grid.__dict__["_pyramid_levels"] = {8: levels}
        options = {"tol": 0, "max_iter": 1, "overrelaxation": 1.0, "normalize": True}
        cost = sinkhorn(a, b, grid, 0.01, **options, pyramid=Pyramid(tol=1e-5)).cost
        return float((cost / exact - 1).abs().median())

    levels = multiscale._levels(grid, 8)
    plain = [replace(level, blur=0.0, blur_between=0.0) for level in levels]
    assert error(levels) < 0.6 * error(plain)


def test_blur_is_the_variance_of_pixels_in_their_cells():
    levels = multiscale._levels(Grid((32, 32), target=(64, 64)), 8)
    pixel = {32: 1 / 31, 64: 1 / 63}
    finer_y = 64
    for level in levels:
        spread = []
        for n, cells in ((32, level.geom.shape[0]), (64, level.geom.target_shape[0])):
            spread.append(((n / cells) ** 2 - 1) / 12 * pixel[n] ** 2)
        finer = ((64 / finer_y) ** 2 - 1) / 12 * pixel[64] ** 2
        finer_y = level.geom.target_shape[0]
        assert level.blur == pytest.approx(2 * sum(spread))
        assert level.blur_between == pytest.approx(2 * (spread[0] + finer))
    assert all(level.blur == 0 for level in multiscale._levels(Grid((32,), "lp", p=1), 8))


def test_levels_stop_where_the_solve_does():
    own = {(0.0, "marginal"): 1e-3, (1e-9, "marginal"): 1e-3, (4e-3, "marginal"): 4e-3}
    own |= {(1.0, "marginal"): 1e-2, (1e-2, "cost"): 1e-3}
    for (tol, criterion), expected in own.items():
        assert Pyramid().of_solve(tol, criterion) == Pyramid(tol=expected)
        assert Pyramid(tol=0.5).of_solve(tol, criterion) == Pyramid(tol=0.5)
    a, b = (normalised(torch.rand(4, 32, 32, dtype=torch.float64) ** 4) for _ in range(2))
    loose, tight = (sinkhorn(a, b, Grid((32, 32)), 0.01, tol=tol) for tol in (1e-2, 1e-3))
    assert bool((loose.coarse_work < tight.coarse_work).all())
