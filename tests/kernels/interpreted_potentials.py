"""The Triton kernels of potentials in Triton's interpreter; see `test_interpreter.py`."""

import pytest
import torch

import unot_fast
from tests.ops.potentials import OPTIONS, converted, problem
from unot_fast.kernels import potential
from unot_fast.ops import c_transform, potential_gradient

SHAPES = [  # dim, widths, classes, rows of the quadratic term, points
    (3, (5, 7), 1, 3, 9),
    (2, (8,), 3, 0, 1),
    (20, (17, 10, 6), 4, 5, 3),
    (1, (3,), 1, 1, 16),
]
TOL = 1e-3


def search(arguments, backend, dtype=torch.float32, preconditioner=None, **options):
    (z, labels, *weights), _ = converted(arguments, dtype)
    tolerance = torch.full((len(z),), TOL, dtype=dtype)
    if preconditioner is not None:
        preconditioner = preconditioner.to(dtype)
    return c_transform(
        z, labels, z.clone(), tolerance, *weights, preconditioner, **OPTIONS,
        **{"memory": 3, "max_iter": 300} | options, backend=backend,
    )  # fmt: skip


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("shape", [*SHAPES, (17, (70, 33), 2, 70, 40)])
def test_gradient(shape, convex):
    torch.manual_seed(0)
    arguments = problem(*shape, convex=convex)
    expected = potential_gradient(*arguments, **OPTIONS, backend="reference")
    single, _ = converted(arguments, torch.float32)
    found = potential_gradient(*single, **OPTIONS, backend="triton")
    assert found.dtype is torch.float32
    assert float((found.double() - expected).abs().max() / expected.abs().max()) < 5e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_search(shape):
    """Up to rounding that of the CPU, whose number of gradients differs where it decides."""
    torch.manual_seed(0)
    arguments = problem(*shape)
    found, expected = search(arguments, "triton"), search(arguments, "reference", torch.float64)
    assert found.converged.all()
    distance = (found.y.double() - expected.y).norm(dim=1)
    assert (distance <= 2 * TOL / OPTIONS["strong"] * 1.1).all()
    compiled = search(arguments, "cpu")
    assert (found.n_iters - compiled.n_iters).abs().max() <= 1
    assert torch.allclose(found.residual, compiled.residual, atol=TOL)


def test_columns_take_the_next_points(monkeypatch):
    """More points than columns; and a point does not see the others."""
    monkeypatch.setattr(potential, "programs", lambda *_: 1)
    torch.manual_seed(0)
    z, labels, *weights = problem(1, (4,), 3, 1, 40)
    many = search([z, labels, *weights], "triton")
    compiled = search([z, labels, *weights], "cpu")
    assert many.converged.all()
    assert (many.n_iters - compiled.n_iters).abs().max() <= 1
    few = torch.tensor([3, 39, 20])
    alone = search([z[few], labels[few], *weights], "triton")
    torch.testing.assert_close(alone.y, many.y[few])
    assert torch.equal(alone.n_iters, many.n_iters[few])


def test_preconditioner():
    torch.manual_seed(0)
    z, _, maps, hidden, bias, top, linear = problem(8, (4,), 1, 8, 5)
    maps[:8] = 0  # nothing but the quadratic term
    hessian = maps[8:].T @ maps[8:] + OPTIONS["strong"] * torch.eye(8).double()
    arguments = [z, None, maps, hidden, bias, top, linear]
    assert search(arguments, "triton", preconditioner=torch.linalg.inv(hessian)).n_iters.max() <= 3


@pytest.mark.parametrize("memory", [1, 16])
def test_any_memory(memory):
    torch.manual_seed(0)
    arguments = problem(3, (5, 7), 1, 3, 4)
    options = {"memory": memory, "max_iter": 8}
    found, compiled = (search(arguments, b, **options) for b in ("triton", "cpu"))
    assert torch.equal(found.n_iters, compiled.n_iters)
    torch.testing.assert_close(found.y, compiled.y, rtol=1e-5, atol=1e-5)


def test_what_did_not_converge_says_so():
    torch.manual_seed(0)
    found = search(problem(3, (5, 7), 1, 3, 10), "triton", max_iter=3)
    assert not found.converged.any()
    assert (found.n_iters == 3).all()
    assert (found.residual > TOL).all()


def test_no_minimum_is_never_called_one():
    torch.manual_seed(0)
    z, labels, maps, hidden, bias, top, linear = problem(3, (8,), 1, 0, 5)
    arguments = [z, labels, 3 * maps, hidden, bias + 5, -100 * top, linear]
    found, compiled = (search(arguments, b, max_iter=15) for b in ("triton", "cpu"))
    assert not found.converged.any()
    assert torch.equal(found.y.isfinite(), compiled.y.isfinite())


def test_points_and_labels_that_are_none():
    torch.manual_seed(0)
    z, labels, *weights = problem(3, (8,), 3, 2, 4)
    labels[1] = 3
    found = search([z, labels, *weights], "triton")
    assert found.converged.tolist() == [True, False, True, True]
    assert found.residual.isnan().tolist() == [False, True, False, False]
    for points in (z[:0], z):
        arguments, _ = converted([points, labels[: len(points)], *weights], torch.float32)
        gradient = potential_gradient(*arguments, **OPTIONS, backend="triton")
        assert gradient.isnan().any(1).tolist() == [False, True, False, False][: len(points)]
    assert search([z[:0], labels[:0], *weights], "triton").y.shape == (0, 3)


def test_through_the_public_function():
    g = unot_fast.NeuralPotential(2, (8,))
    z = torch.randn(2, 3, 2)
    found = unot_fast.c_transform(g, z, backend="triton")
    assert found.backend == "triton"
    assert found.converged.all()
    torch.testing.assert_close(found.y, unot_fast.c_transform(g, z).y, rtol=0, atol=1e-3)
    with pytest.raises(TypeError, match="float32"):
        unot_fast.c_transform(g.double(), z.double(), backend="triton")
    wide = unot_fast.NeuralPotential(257, (8,))
    with pytest.raises(ValueError, match="up to 256 dimensions"):
        unot_fast.c_transform(wide, torch.zeros(1, 257), backend="triton")
