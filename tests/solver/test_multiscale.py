"""The fused start of the CPU library against the same steps, one operator each."""

import pytest
import torch
from torch.library import opcheck

from tests.conftest import adversarial, normalised
from unot_fast import Grid, Pyramid
from unot_fast.solver import multiscale


@pytest.mark.parametrize(
    ("n", "m"),
    [
        ((28, 28), (28, 28)),
        ((33, 20), (33, 20)),
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
    levels = multiscale._levels(grid, pyramid.coarsest)
    assert len(levels) >= 1
    g, work = multiscale._fused(a, b, grid, epsilon, levels, pyramid)
    expected, expected_work = multiscale._composed(a, b, grid, epsilon, levels, "cpu", pyramid)
    assert torch.allclose(work, expected_work, rtol=1e-12)
    # the constant is free: the composed start fixes it on every level
    offset = (g - expected).flatten(1)
    spread = offset.amax(1) - offset.amin(1)
    assert bool((spread <= 1e-9 * epsilon).all())


def test_levels_conserve_mass_and_centre():
    grid = Grid((45, 28), target=(30, 64))
    a = normalised(torch.rand(2, 45, 28, dtype=torch.float64))
    mass = a
    for level in multiscale._levels(grid, 8):
        mass = multiscale._pool(mass, level.pool_source)
        assert mass.shape[1:] == level.grid.shape
        assert torch.allclose(mass.sum((1, 2)), torch.ones(2, dtype=torch.float64))
    assert max(level.grid.shape + level.grid.target_shape) < 12
    flat = torch.ones(1, 45, 28, dtype=torch.float64) / (45 * 28)
    for level in multiscale._levels(grid, 8):
        flat = multiscale._pool(flat, level.pool_source)
        centre = (flat.sum(2) @ level.grid.coordinates[0]).item()
        assert centre == pytest.approx(0.5)


def test_operator_rules():
    a, b = adversarial((20, 18), (20, 18))
    grid, pyramid = Grid((20, 18)), Pyramid()
    levels = multiscale._levels(grid, pyramid.coarsest)
    coarsest = levels[-1].grid
    args = (
        a,
        b,
        torch.full((len(a),), 0.05, dtype=torch.float64),
        [c for level in levels for c in level.grid.axis_costs],
        [c for level in levels for c in level.prolongation],
        [c for level in levels for c in level.pool_source],
        [c for level in levels for c in level.pool_target],
        [*coarsest.coordinates, *coarsest.target_coordinates],
        [0.0] * len(levels),
        [level.work for level in levels],
        True,
        1e-3,
        50,
    )
    opcheck(torch.ops.unot_fast.multiscale_start.default, args)
