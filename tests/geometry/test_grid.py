import math

import pytest
import torch

from unot_fast import Grid
from unot_fast.geometry import LineCost, Structure
from unot_fast.reference.stationary_lse import dense_cost


def dense(cost: LineCost, n: int, m: int):
    return dense_cost(cost.table, cost.row_class, cost.step, n, m)


def test_default_coordinates_reach_both_ends():
    grid = Grid((5, 3))
    assert torch.equal(grid.coordinates[0], torch.linspace(0, 1, 5, dtype=torch.float64))
    assert grid.max_cost == 2.0
    assert grid.structure is Structure.SEPARABLE


@pytest.mark.parametrize("shape", [7, (7,), (4, 5), (2, 3, 4), (1, 6)])
@pytest.mark.parametrize(("cost", "p"), [("sqeuclidean", None), ("lp", 1), ("lp", 1.5)])
def test_axis_costs_sum_to_the_cost_matrix(shape, cost, p):
    grid = Grid(shape, cost, p=p, target=[n + 1 for n in Grid(shape).shape])
    total = torch.zeros(grid.shape + grid.target_shape, dtype=torch.float64)
    d = grid.ndim
    for k, axis in enumerate(grid.axis_costs):
        view = [1] * (2 * d)
        view[k], view[d + k] = axis.shape
        total = total + axis.view(view)
    assert torch.allclose(total.flatten(d).flatten(0, d - 1), grid.cost_matrix(), atol=1e-15)
    assert grid.max_cost == pytest.approx(float(grid.cost_matrix().max()))


def test_physical_units():
    assert Grid((11, 21), spacing=0.5).coordinates[1][-1] == 10.0
    assert Grid((11, 21), extent=(2, 3)).coordinates[0][-1] == 2.0
    # twice the length: four times the squared distance
    ratio = Grid((6, 6), extent=2).cost_matrix() / Grid((6, 6)).cost_matrix()
    assert torch.allclose(ratio.nan_to_num(4.0), torch.tensor(4.0, dtype=torch.float64))


def test_target_grid_keeps_its_own_coordinates():
    grid = Grid((4, 4), target=Grid((3, 5), extent=2))
    assert grid.target_shape == (3, 5)
    assert grid.target_coordinates[1][-1] == 2
    assert Grid((4, 4), extent=3, target=(2, 2)).target_coordinates[0][-1] == 3


def test_from_coordinates():
    x = torch.tensor([0.0, 0.1, 0.7])
    grid = Grid.from_coordinates([x], cost="lp", p=1)
    assert torch.allclose(grid.cost_matrix()[0], x.double())
    with pytest.raises(ValueError, match="coordinates must be finite, increasing"):
        Grid.from_coordinates([torch.tensor([0.0, 0.0])])


EUCLIDEAN = [
    Grid((7, 9), "euclidean"),
    Grid((11,), "euclidean", extent=3.0),
    Grid((5, 7), "euclidean", spacing=(0.2, 0.1), target=Grid((6, 4), spacing=0.1)),
    Grid((3, 4, 5), "euclidean"),
    Grid((4, 1), "euclidean"),
]


@pytest.mark.parametrize("grid", EUCLIDEAN, ids=repr)
def test_rows_make_the_euclidean_cost_matrix(grid):
    n, m = grid.shape[-1], grid.target_shape[-1]
    squares = Grid.from_coordinates(grid.coordinates, grid.target_coordinates).cost_matrix()
    assert torch.allclose(grid.cost_matrix(), squares.sqrt(), atol=1e-15)
    assert torch.allclose(dense(grid.lines, n, m), grid.cost_matrix(), atol=1e-14)
    assert grid.max_cost == pytest.approx(float(grid.cost_matrix().max()))
    assert grid.structure is Structure.STATIONARY


@pytest.mark.parametrize("grid", EUCLIDEAN, ids=repr)
def test_halved_euclidean_grid(grid):
    half = grid.halved()
    assert half.geom.shape == tuple(len(p) for p in half.pool_source)
    for pool in (*half.pool_source, *half.pool_target):
        assert torch.equal(pool.sum(0), torch.ones(pool.shape[1]).double())
    between = Grid.from_coordinates(grid.target_coordinates, half.geom.coordinates, "euclidean")
    found = dense(half.prolongation, grid.target_shape[-1], half.geom.shape[-1])
    widths = [float(c[1] - c[0]) for c in half.geom.coordinates if len(c) > 1]
    blur = sum(w**2 for w in widths) / 96  # of one cell; two have twice as much
    assert torch.allclose(found, (between.cost_matrix() ** 2 + blur).sqrt(), atol=1e-14)
    n, m = half.geom.shape[-1], half.geom.target_shape[-1]
    assert torch.allclose(dense(half.geom.lines, n, m), half.geom.cost_matrix(), atol=1e-14)
    assert float(half.geom.cost_matrix().min()) ** 2 >= 2 * blur * (1 - 1e-12)


def test_euclidean_cost_between_unequal_spacings():
    grid = Grid((4, 4), "euclidean", target=(3, 3))
    assert grid.structure is Structure.DENSE
    assert grid.cost_matrix().shape == (16, 9)
    with pytest.raises(ValueError, match="geom: a cost that is no sum over the axes needs points"):
        _ = grid.lines


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(shape=()), "shape must have 1, 2 or 3 axes"),
        (dict(shape=(2, 2, 2, 2)), "shape must have 1, 2 or 3 axes"),
        (dict(shape=(0, 3)), "shape must hold positive integers"),
        (dict(shape=(2.5, 3)), "shape must hold positive integers"),
        (dict(shape=4, cost="manhattan"), "cost must be one of"),
        (dict(shape=4, cost="lp"), "p must be a number >= 1"),
        (dict(shape=4, cost="lp", p=0.5), "p must be a number >= 1"),
        (dict(shape=4, cost="lp", p=math.nan), "p must be a number >= 1"),
        (dict(shape=4, p=3), "p goes with cost='lp'"),
        (dict(shape=4, extent=-1), "extent must be positive"),
        (dict(shape=(4, 4), spacing=(1, 0)), "spacing must be positive"),
        (dict(shape=(4, 4), spacing=(1,)), "spacing must hold one number per axis"),
        (dict(shape=4, extent=1, spacing=1), "not both"),
        (dict(shape=4, target=(3, 3)), "target must have 1 axes"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Grid(**kwargs)


def lopsided(d):
    """Cheaper to the right, dearer far away, and not symmetric."""
    return d.square().sum(-1).sqrt() + 0.5 * torch.relu(d[..., -1]) + 0.1 * d[..., 0].abs()


@pytest.mark.parametrize(
    ("shape", "target"), [((7,), None), ((5, 6), None), ((3, 4, 5), None), ((4, 6), (6, 6))]
)
def test_cost_of_a_displacement(shape, target):
    grid = Grid(shape, lopsided, target=target)
    assert grid.structure is Structure.STATIONARY
    lines, (n, m) = grid.lines, (grid.shape[-1], grid.target_shape[-1])
    matrix = dense(lines, n, m)
    assert torch.allclose(matrix, grid.cost_matrix(), atol=1e-14)
    assert torch.allclose(grid.cost_matrix(torch.tensor([2])), matrix[2:3])
    assert grid.max_cost == pytest.approx(float(matrix.max()))
    level = grid.halved()
    points, cells = grid.points("target"), level.geom.points("source")
    d = cells.reshape(1, -1, len(shape)) - points.reshape(-1, 1, len(shape))
    coarse = dense(level.prolongation, m, level.geom.shape[-1])
    assert torch.allclose(coarse, lopsided(d), atol=1e-14)


def test_bad_functions_are_refused():
    with pytest.raises(ValueError, match="cost must return finite costs"):
        Grid((4, 4), lambda d: d.sum(-1))
    with pytest.raises(ValueError, match="cost must map displacements"):
        Grid((4, 4), lambda d: d)
    with pytest.raises(ValueError, match="equally spaced"):
        Grid((4, 4), lopsided, target=(4, 5))
