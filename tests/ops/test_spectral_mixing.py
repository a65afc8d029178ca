import pytest
import torch
from torch.library import opcheck

from tests.ops.agreement import TOLERANCE, compare, normal
from unot_fast.ops import spectral_mixing

CASES = [  # batch, channels in and out, modes
    (1, 1, 1, (1,)),
    (2, 3, 5, (4, 3)),
    (5, 7, 2, (13, 33)),
    (9, 16, 17, (10, 6)),
    (4, 2, 3, (3, 2, 2)),
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize(("batch", "c_in", "c_out", "modes"), CASES)
def test_agrees_with_reference(batch, c_in, c_out, modes, backend, dtype):
    arguments = [normal(batch, c_in, 2, *modes), normal(c_in, c_out, *modes, 2)]
    compare(spectral_mixing, arguments, backend, dtype)


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_operator_rules(backend):
    c, weight = normal(2, 3, 2, 4, 5), normal(3, 6, 4, 5, 2)
    op = torch.ops.unot_fast.spectral_mixing.default
    opcheck(op, (c.requires_grad_(), weight.requires_grad_(), backend))
    opcheck(op, (c.detach().transpose(0, 1).contiguous().transpose(0, 1), weight.detach(), backend))
    opcheck(op, (c.detach()[:0], weight.detach(), backend))


def test_gradcheck():
    c, weight = normal(2, 2, 2, 3).requires_grad_(), normal(2, 3, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: spectral_mixing(*a, backend="cpu"), (c, weight))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="weight must have shape"):
        spectral_mixing(normal(2, 3, 2, 4, 5), normal(3, 6, 4, 4, 2), backend="cpu")
