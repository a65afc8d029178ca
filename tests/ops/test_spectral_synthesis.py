import itertools

import pytest
import torch
from torch.library import opcheck

from tests.ops.agreement import TOLERANCE, check_second_derivatives, compare, normal
from unot_fast.ops import spectral_synthesis

CASES = [  # batch, channels in and out, points, modes
    (2, 3, 5, (8, 9), (4, 3)),
    (3, 16, 17, (64, 64), (10, 6)),
    (1, 4, 3, (1, 7), (1, 4)),
    (5, 7, 2, (13, 100), (13, 33)),
    (2, 4, 6, (28, 28), (10, 6)),
    (9, 2, 3, (5, 130), (3, 20)),
    (2, 3, 4, (17,), (5,)),
]


def problem(batch, c_in, c_out, points, modes, skip, bias, hidden, gate, lines=False):
    """Arguments of the operator, of such sizes that activations are neither 0 nor linear."""
    tables = [normal(n, m, 2) for n, m in zip(points, modes, strict=True)]
    if gate and not hidden:
        c_in = c_out
    x = normal(batch, c_in, *points)
    c = normal(batch, c_out, 2, *modes, scale=0.5 / torch.tensor(modes).prod() ** 0.5)
    if lines:
        c, tables = normal(batch, c_out, points[0], 2, modes[1], scale=0.2), tables[1:]
    out = c_in if gate else 4
    return [
        c,
        tables,
        x if skip or gate else None,
        normal(c_out, c_in, scale=c_in**-0.5) if skip else None,
        normal(c_out) if bias else None,
        normal(hidden, c_out, scale=c_out**-0.5) if hidden else None,
        normal(hidden) if hidden and bias else None,
        normal(out, hidden, scale=hidden**-0.5) if hidden else None,
        normal(out) if hidden and bias else None,
        normal(c_in) if gate else None,
    ]


PARTS = [  # skip, bias, hidden channels, gate
    (False, False, 0, False),
    (True, True, 0, False),
    (False, True, 5, False),
    (True, False, 32, True),
    (False, True, 33, True),
    (True, True, 8, False),
    (False, False, 0, True),
    (True, True, 0, True),
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_reference(case, gelu, backend, dtype):
    for parts in PARTS:
        compare(spectral_synthesis, problem(*case, *parts), backend, dtype, gelu=gelu)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_lines_in_place_of_modes(backend):
    for parts, gelu in itertools.product(PARTS, (False, True)):
        arguments = problem(2, 3, 5, (9, 70), (1, 6), *parts, lines=True)
        compare(spectral_synthesis, arguments, backend, torch.float64, gelu=gelu)


def test_three_axes():
    for parts in PARTS:
        arguments = problem(2, 3, 4, (6, 5, 4), (3, 2, 2), *parts)
        compare(spectral_synthesis, arguments, "torch", torch.float64, gelu=True)


@pytest.mark.parametrize("threads", [1, 3])
def test_samples_shared_by_threads(threads):
    """The gradient of the coefficients has shares of several threads, always in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        arguments = problem(1, 3, 5, (40, 9), (4, 3), True, True, 5, True)
        compare(spectral_synthesis, arguments, "cpu", torch.float64, gelu=True)
        first, second = (_gradients(arguments) for _ in range(2))
        assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    finally:
        torch.set_num_threads(before)


def _gradients(arguments):
    leaves = [x.float().requires_grad_() if torch.is_tensor(x) else x for x in arguments]
    leaves[1] = [t.float() for t in leaves[1]]
    out = spectral_synthesis(*leaves, gelu=True, backend="cpu")
    return torch.autograd.grad(out.square().sum(), [x for x in leaves if torch.is_tensor(x)])


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_operator_rules(backend):
    op = torch.ops.unot_fast.spectral_synthesis.default
    for parts in (*PARTS[:4], *PARTS[-2:]):
        arguments = problem(2, 3, 5, (6, 4), (3, 2), *parts)
        for x in arguments:
            if torch.is_tensor(x):
                x.requires_grad_()
        for keep in (False, True):
            opcheck(op, (*arguments, True, keep, backend))
    empty = problem(0, 3, 5, (6, 4), (3, 2), *PARTS[3])
    opcheck(op, (*empty, True, True, backend))


def test_gradcheck():
    c, tables, x, *rest = problem(1, 2, 3, (4, 5), (2, 2), True, True, 3, True)
    leaves = [t.requires_grad_() for t in (c, x, *rest)]
    assert torch.autograd.gradcheck(
        lambda c, *a: spectral_synthesis(c, tables, *a, gelu=True, backend="cpu"), leaves
    )


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("parts", PARTS)
def test_second_derivative(parts, backend, gelu):
    skip, bias, hidden, gate = parts
    arguments = problem(1, 2, 2, (2, 3), (2, 2), skip, bias, hidden and 2, gate)
    check_second_derivatives(spectral_synthesis, arguments, gelu=gelu, backend=backend)


@pytest.mark.parametrize("wrong", range(10))
def test_shapes_are_checked(wrong):
    arguments = problem(2, 3, 5, (6, 4), (3, 2), True, True, 7, True)
    if wrong == 1:
        arguments[1] = [*arguments[1][:1], normal(4, 3, 2)]
    else:
        arguments[wrong] = arguments[wrong][..., :-1]
    with pytest.raises(ValueError, match="spectral_synthesis: "):
        spectral_synthesis(*arguments, backend="cpu")


@pytest.mark.parametrize("shape", [(5, 2, 3, 2), (2, 3, 5, 2, 3, 2), (2, 5, 3, 3, 2)])
def test_leading_shape_is_checked(shape):
    with pytest.raises(ValueError, match="spectral_synthesis: c must have shape"):
        spectral_synthesis(normal(*shape), [normal(6, 3, 2), normal(4, 2, 2)], backend="cpu")


def test_gate_needs_as_many_channels():
    c, tables, *_ = problem(2, 3, 5, (6, 4), (3, 2), False, False, 0, False)
    with pytest.raises(ValueError, match="a gated x needs 3 channels in the result; got 5"):
        spectral_synthesis(c, tables, normal(2, 3, 6, 4), gate=normal(3), backend="cpu")
