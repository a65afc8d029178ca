import pytest
import torch
from torch.library import opcheck

from tests.ops.agreement import TOLERANCE, compare, normal
from unot_fast.ops import spectral_analysis

CASES = [  # leading shape, points, modes
    ((2, 3), (8, 9), (4, 3)),
    ((1, 1), (1, 7), (1, 4)),
    ((5, 7), (13, 100), (13, 33)),
    ((16, 8), (64, 64), (10, 6)),
    ((2, 3), (17,), (5,)),
    ((2, 3, 6), (70,), (9,)),
]


def tables(points, modes):
    return [normal(m, n, 2) for m, n in zip(modes, points, strict=True)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize(("lead", "points", "modes"), CASES)
def test_agrees_with_reference(lead, points, modes, backend, dtype):
    compare(spectral_analysis, [normal(*lead, *points), tables(points, modes)], backend, dtype)


def test_three_axes():
    arguments = [normal(2, 2, 6, 5, 4), tables((6, 5, 4), (3, 2, 2))]
    compare(spectral_analysis, arguments, "torch", torch.float64)


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_operator_rules(backend):
    x = normal(2, 3, 6, 5).requires_grad_()
    op = torch.ops.unot_fast.spectral_analysis.default
    opcheck(op, (x, tables((6, 5), (3, 2)), backend))
    opcheck(op, (x.detach().mT, tables((5, 6), (3, 2)), backend))
    opcheck(op, (x.detach()[:0], tables((6, 5), (3, 2)), backend))


def test_second_derivative():
    t = tables((6, 5), (3, 2))
    x = normal(1, 2, 6, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: spectral_analysis(x, t, backend="cpu"), x)
    assert torch.autograd.gradgradcheck(lambda x: spectral_analysis(x, t, backend="cpu") ** 2, x)


@pytest.mark.parametrize("lead", [(), (3,), (2, 1, 3)])
def test_gradient_of_any_leading_shape(lead):
    x, t = normal(*lead, 6, 5).requires_grad_(), tables((6, 5), (3, 2))
    for backend in ("cpu", "torch"):
        assert torch.autograd.gradcheck(
            lambda x, backend=backend: spectral_analysis(x, t, backend=backend), x, fast_mode=True
        )


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="table must have shape"):
        spectral_analysis(normal(2, 3, 6, 5), tables((6, 4), (3, 2)), backend="cpu")
