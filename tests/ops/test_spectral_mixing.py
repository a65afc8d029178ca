import pytest
import torch
from torch.library import opcheck

from tests.ops.agreement import TOLERANCE, check_second_derivatives, compare, normal
from unot_fast.ops import spectral_mixing

CASES = [  # batch, channels in and out, modes
    (1, 1, 1, (1,)),
    (2, 3, 5, (4, 3)),
    (5, 7, 2, (13, 33)),
    (9, 16, 17, (10, 6)),
    (4, 2, 3, (3, 2, 2)),
]
PARTS = [(False, False), (True, True), (True, False), (False, True)]  # bias, gelu


def problem(batch, c_in, c_out, modes, biased):
    return [
        normal(batch, c_in, 2, *modes),
        normal(c_in, c_out, *modes, 2),
        normal(c_out, *modes, 2) if biased else None,
    ]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize(("biased", "gelu"), PARTS)
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_reference(case, biased, gelu, backend, dtype):
    compare(spectral_mixing, problem(*case, biased), backend, dtype, gelu=gelu)


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_operator_rules(backend):
    op = torch.ops.unot_fast.spectral_mixing.default
    for biased, gelu in PARTS[:2]:
        arguments = problem(2, 3, 6, (4, 5), biased)
        for x in arguments:
            if x is not None:
                x.requires_grad_()
        for keep in (False, True):
            opcheck(op, (*arguments, gelu, keep, backend))
    c, *rest = problem(2, 3, 6, (4, 5), True)
    opcheck(op, (c.transpose(0, 1).contiguous().transpose(0, 1), *rest, True, True, backend))


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_without_samples_gradients_of_parameters_are_zero(backend):
    arguments = [x.requires_grad_() for x in problem(0, 3, 6, (4, 5), True)]
    out = spectral_mixing(*arguments, gelu=True, backend=backend)
    assert out.shape == (0, 6, 2, 4, 5)
    dc, *others = torch.autograd.grad(out.sum(), arguments)
    assert dc.shape == arguments[0].shape
    assert all(not d.any() for d in others)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_gradcheck(backend):
    arguments = [x.requires_grad_() for x in problem(2, 2, 3, (3,), True)]
    assert torch.autograd.gradcheck(
        lambda *a: spectral_mixing(*a, gelu=True, backend=backend), arguments
    )


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
@pytest.mark.parametrize(("biased", "gelu"), PARTS)
def test_second_derivative(biased, gelu, backend):
    arguments = problem(2, 2, 3, (3,), biased)
    check_second_derivatives(spectral_mixing, arguments, gelu=gelu, backend=backend)


def test_gelu_is_that_of_either_part():
    c, weight, bias = problem(2, 3, 4, (5, 7), True)
    z = torch.einsum(
        "bixy,ioxy->boxy", torch.complex(*c.unbind(2)), torch.view_as_complex(weight)
    ) + torch.view_as_complex(bias)
    expected = torch.stack([torch.nn.functional.gelu(part) for part in (z.real, z.imag)], 2)
    out = spectral_mixing(c, weight, bias, gelu=True, backend="cpu")
    assert torch.allclose(out, expected, atol=1e-12)


def test_shapes_are_checked():
    c, weight, bias = problem(2, 3, 6, (4, 5), True)
    with pytest.raises(ValueError, match="weight must have shape"):
        spectral_mixing(c, weight[..., :4, :], backend="cpu")
    with pytest.raises(ValueError, match="bias must have shape"):
        spectral_mixing(c, weight, bias[:5], backend="cpu")
