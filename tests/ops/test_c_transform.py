import pytest
import torch
from torch.library import opcheck

from tests.ops.potentials import OPTIONS, SHAPES, converted, problem
from unot_fast.ops import c_transform, potential_gradient

TOL = {torch.float64: 1e-9, torch.float32: 1e-4}


def run(arguments, backend, dtype, preconditioner=None, **options):
    (z, labels, *weights), _ = converted(arguments, dtype)
    tolerance = torch.full((len(z),), TOL[dtype], dtype=dtype)
    if preconditioner is not None:
        preconditioner = preconditioner.to(dtype)
    return c_transform(
        z, labels, z.clone(), tolerance, *weights, preconditioner, **OPTIONS,
        **{"memory": 6, "max_iter": 300} | options, backend=backend,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_reference(shape, dtype):
    torch.manual_seed(0)
    arguments = problem(*shape)
    found, expected = run(arguments, "cpu", dtype), run(arguments, "reference", torch.float64)
    assert expected.converged.all()
    assert found.converged.all()
    assert found.y.dtype is dtype
    # u is strongly convex, so a small gradient means a near minimum.
    distance = (found.y.double() - expected.y).norm(dim=1)
    assert (distance <= (TOL[dtype] + TOL[torch.float64]) / OPTIONS["strong"] * 1.1).all()
    z, labels, *weights = arguments
    gradient = potential_gradient(
        found.y.double(), labels, *weights, **OPTIONS, backend="reference"
    )
    residual = (gradient - z).norm(dim=1)
    slack = 1e-5 * (1 + z.norm(dim=1)) if dtype is torch.float32 else 1e-13
    assert ((residual - found.residual.double()).abs() <= slack).all()


def test_a_point_does_not_see_the_batch():
    torch.manual_seed(0)
    z, labels, *weights = problem(17, (33, 20, 9), 4, 5, 200)
    whole = run([z, labels, *weights], "cpu", torch.float32)
    few = torch.tensor([3, 199, 70])
    part = run([z[few], labels[few], *weights], "cpu", torch.float32)
    assert torch.equal(whole.y[few], part.y)
    assert torch.equal(whole.n_iters[few], part.n_iters)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads):
    torch.manual_seed(0)
    arguments, before = problem(4, (16, 8), 1, 4, 500), torch.get_num_threads()
    one = run(arguments, "cpu", torch.float32)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(run(arguments, "cpu", torch.float32).y, one.y)
    finally:
        torch.set_num_threads(before)


def test_the_inverse_hessian_of_a_quadratic_solves_in_two():
    torch.manual_seed(0)
    z, _, maps, hidden, bias, top, linear = problem(8, (4,), 1, 8, 50)
    maps[:8] = 0  # nothing but the quadratic term
    hessian = maps[8:].T @ maps[8:] + OPTIONS["strong"] * torch.eye(8).double()
    arguments = [z, None, maps, hidden, bias, top, linear]
    plain = run(arguments, "cpu", torch.float64)
    helped = run(arguments, "cpu", torch.float64, torch.linalg.inv(hessian))
    assert helped.n_iters.max() <= 2 < plain.n_iters.min()


@pytest.mark.parametrize("memory", [1, 16])
def test_any_memory(memory):
    torch.manual_seed(0)
    assert run(problem(*SHAPES[2]), "cpu", torch.float64, memory=memory).converged.all()


def test_what_did_not_converge_says_so():
    torch.manual_seed(0)
    found = run(problem(*SHAPES[2]), "cpu", torch.float64, max_iter=3)
    assert not found.converged.any()
    assert (found.n_iters == 3).all()
    assert (found.residual > TOL[torch.float64]).all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_minimum_is_never_called_one(backend):
    """u falls without end: A and strong cannot hold a concave square."""
    torch.manual_seed(0)
    z, labels, maps, hidden, bias, top, linear = problem(3, (8,), 1, 0, 40)
    found = run(
        [z, labels, 3 * maps, hidden, bias + 5, -100 * top, linear], backend, torch.float64,
        max_iter=50,
    )  # fmt: skip
    assert found.y.isfinite().all()
    assert not found.converged.any()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_operator_rules(backend):
    torch.manual_seed(0)
    for shape, help_ in (((3, (5, 7), 1, 3, 10), True), ((2, (8,), 3, 0, 4), False)):
        z, labels, *weights = problem(*shape)
        preconditioner = torch.eye(shape[0], dtype=torch.float64) if help_ else None
        tolerance = torch.full((len(z),), 1e-6, dtype=torch.float64)
        opcheck(
            torch.ops.unot_fast.c_transform.default,
            (z, labels, z.clone(), tolerance, *weights, preconditioner, *OPTIONS.values(), 6, 50,
             backend),
        )  # fmt: skip


def test_compiles():
    torch.manual_seed(0)
    z, labels, *weights = problem(*SHAPES[0])
    tolerance = torch.full((len(z),), 1e-6, dtype=torch.float64)

    def solve(z):
        return c_transform(
            z, labels, z, tolerance, *weights, **OPTIONS, memory=6, max_iter=50, backend="cpu"
        ).y

    assert torch.equal(torch.compile(solve, fullgraph=True)(z), solve(z))


def test_arguments_are_checked():
    torch.manual_seed(0)
    z, labels, *weights = problem(*SHAPES[0])
    good = {"start": z, "tolerance": torch.ones(len(z)).double(), "preconditioner": None}
    for change, message in (
        ({"start": z[:1]}, "start must have shape"),
        ({"tolerance": z[:, 0][:3]}, "tolerance must have shape"),
        ({"preconditioner": torch.eye(2).double()}, "preconditioner must have shape"),
        ({"memory": 17}, r"memory must be in 1\.\.16"),
        ({"max_iter": 0}, "max_iter must be positive"),
    ):
        used = {"memory": 6, "max_iter": 10} | good | change
        with pytest.raises(ValueError, match=message):
            c_transform(
                z, labels, used.pop("start"), used.pop("tolerance"), *weights, **used, **OPTIONS,
                backend="cpu",
            )  # fmt: skip
