import pytest
import torch
from torch.library import opcheck

from tests.ops.potentials import OPTIONS, SHAPES, converted, problem
from unot_fast.ops import potential, potential_gradient

TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}
BACKENDS = ["cpu", "torch"]


def outcome(arguments, backend, dtype):
    """Value, gradient, and the derivatives of a weighted sum of values."""
    arguments, leaves = converted(arguments, dtype, grad=True)
    value = potential(*arguments, **OPTIONS, backend=backend)
    weight = torch.linspace(-1, 2, len(value), dtype=torch.float64).to(dtype)
    found = torch.autograd.grad((value * weight).sum(), leaves)
    with torch.no_grad():
        gradient = potential_gradient(*arguments, **OPTIONS, backend=backend)
    return [value.detach(), gradient, *found]


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_reference(shape, backend, dtype, convex):
    torch.manual_seed(0)
    arguments = problem(*shape, convex=convex)
    expected = outcome(arguments, "reference", torch.float64)
    for k, (x, y) in enumerate(zip(outcome(arguments, backend, dtype), expected, strict=True)):
        assert x.dtype is dtype
        assert x.shape == y.shape
        if y.numel():
            error = float((x.double() - y).abs().max() / y.abs().max().clamp_min(1e-30))
            assert error < TOLERANCE[dtype], f"{k}: {error:.1e}"


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_far_points_do_not_overflow(backend):
    torch.manual_seed(0)
    x, *rest = problem(*SHAPES[0])
    arguments, _ = converted([1e4 * x, *rest], torch.float32)
    assert potential(*arguments, **OPTIONS, backend=backend).isfinite().all()
    assert potential_gradient(*arguments, **OPTIONS, backend=backend).isfinite().all()


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_gradcheck(backend):
    torch.manual_seed(0)
    (x, labels, maps, hidden, bias, top, linear), leaves = converted(
        problem(2, (3, 4), 2, 1, 3), torch.float64, grad=True
    )

    def run(x, maps, first, bias, top, linear):
        return potential(x, labels, maps, [first], bias, top, linear, **OPTIONS, backend=backend)

    assert torch.autograd.gradcheck(run, (x, maps, hidden[0], bias, top, linear))
    assert len(leaves) == 6


def test_gradient_in_torch_is_differentiable():
    torch.manual_seed(0)
    arguments, _leaves = converted(problem(2, (3, 4), 1, 1, 3), torch.float64, grad=True)
    x, labels, maps, (v,), bias, top, linear = arguments

    def run(x, maps, v, top):
        return potential_gradient(
            x, labels, maps, [v], bias, top, linear, **OPTIONS, backend="torch"
        )

    assert torch.autograd.gradcheck(run, (x, maps, v, top))


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_operator_rules(backend):
    torch.manual_seed(0)
    for shape in ((3, (5, 7), 1, 3, 10), (2, (8,), 3, 0, 4)):
        arguments, _ = converted(problem(*shape), torch.float64, grad=True)
        opcheck(torch.ops.unot_fast.potential.default, (*arguments, *OPTIONS.values(), backend))
        detached, _ = converted(arguments, torch.float64)
        opcheck(
            torch.ops.unot_fast.potential_gradient.default,
            (*detached, *OPTIONS.values(), backend),
        )


def test_no_second_derivative_of_the_operator():
    torch.manual_seed(0)
    arguments, leaves = converted(problem(*SHAPES[0]), torch.float64, grad=True)
    value = potential(*arguments, **OPTIONS, backend="cpu")
    (dx,) = torch.autograd.grad(value.sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        dx.sum().backward()


def test_arguments_are_checked():
    torch.manual_seed(0)
    x, labels, maps, hidden, bias, top, linear = problem(2, (3, 4), 3, 2, 5)
    for change, error, message in (
        ({"maps": maps[:5]}, ValueError, "maps must have at least 14 rows"),
        ({"bias": bias[:, :3]}, ValueError, "bias must have shape"),
        ({"hidden": [hidden[0].T]}, ValueError, "bias must have shape"),
        ({"linear": linear[:1]}, ValueError, "linear must have shape"),
        ({"labels": None}, ValueError, "labels are needed"),
        ({"labels": labels.int()}, TypeError, "labels must be int64"),
        ({"labels": labels + 1 + 2}, ValueError, r"labels must be in 0\.\.2"),
        ({"top": top.float()}, TypeError, "top must have the dtype"),
    ):
        arguments = {
            "x": x, "labels": labels, "maps": maps, "hidden": hidden, "bias": bias, "top": top,
            "linear": linear,
        } | change  # fmt: skip
        with pytest.raises(error, match=message):
            potential(**arguments, **OPTIONS, backend="cpu")
    with pytest.raises(ValueError, match="sharpness"):
        potential(
            x, labels, maps, hidden, bias, top, linear, strong=0.0, sharpness=0.0, backend="cpu"
        )
