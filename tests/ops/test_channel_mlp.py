import pytest
import torch
from torch.library import opcheck

from tests.ops.agreement import TOLERANCE, check_second_derivatives, compare, normal
from unot_fast.ops import channel_mlp

CASES = [  # batch, channels in, hidden and out, points
    (2, 3, 5, 4, (8, 9)),
    (1, 1, 1, 1, (1,)),
    (3, 64, 32, 64, (64, 64)),
    (2, 4, 128, 64, (10, 30)),
    (2, 64, 128, 1, (131,)),
    (2, 3, 7, 2, (4, 5, 6)),
]


def problem(batch, c_in, hidden, out, points, biases, residual, gate):
    return [
        normal(batch, c_in, *points),
        normal(hidden, c_in, scale=c_in**-0.5),
        normal(hidden) if biases else None,
        normal(out, hidden, scale=hidden**-0.5),
        normal(out) if biases else None,
        normal(batch, out, *points) if residual else None,
        normal(out) if gate else None,
    ]


PARTS = [(True, True, True), (True, True, False), (False, False, False), (True, False, False)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_reference(case, gelu, backend, dtype):
    for parts in PARTS:
        compare(channel_mlp, problem(*case, *parts), backend, dtype, gelu=gelu)


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_operator_rules(backend):
    op = torch.ops.unot_fast.channel_mlp.default
    for parts in PARTS:
        arguments = problem(2, 3, 5, 4, (6, 7), *parts)
        for x in arguments:
            if x is not None:
                x.requires_grad_()
        opcheck(op, (*arguments, True, backend))
    opcheck(op, (*problem(0, 3, 5, 4, (6, 7), *PARTS[0]), True, backend))
    x, *rest = problem(2, 3, 5, 4, (6, 7), *PARTS[1])
    opcheck(op, (x.mT.contiguous().mT, *rest, True, backend))


def test_gradcheck():
    leaves = [x.requires_grad_() for x in problem(1, 2, 3, 2, (4, 5), *PARTS[0])]
    assert torch.autograd.gradcheck(lambda *a: channel_mlp(*a, gelu=True, backend="cpu"), leaves)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("parts", PARTS)
def test_second_derivative(parts, backend, gelu):
    arguments = problem(1, 2, 3, 2, (2, 2), *parts)
    check_second_derivatives(channel_mlp, arguments, gelu=gelu, backend=backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gelu_is_torchs(dtype):
    """With weights 1 and nothing else, the first layer is a GELU."""
    x = torch.cat((torch.linspace(-12, 12, 4001), torch.tensor([0.0, 1e30, 1e-30]))).to(dtype)
    one = torch.ones(1, 1, dtype=dtype)
    out = channel_mlp(x.view(1, 1, -1), one, None, one, None, backend="cpu").flatten()
    exact = torch.nn.functional.gelu(x.double()).to(dtype)
    error = (out - exact).abs() / x.abs().clamp_min(1.0)
    assert float(error.max()) < 2 * torch.finfo(dtype).eps
    assert bool(channel_mlp(
        torch.full((1, 1, 1), torch.nan, dtype=dtype), one, None, one, None, backend="cpu"
    ).isnan().all())  # fmt: skip


def test_shapes_are_checked():
    x, w1, b1, w2, b2, *_ = problem(2, 3, 5, 4, (6, 7), *PARTS[2])
    for wrong in (
        (x[:, :2], w1, b1, w2, b2),
        (x, w1, torch.zeros(4).double(), w2, b2),
        (x, w1, b1, w2[:, :3], b2),
        (x, w1, b1, w2, b2, x),
    ):
        with pytest.raises(ValueError, match=r"channel_mlp: .* must have shape"):
            channel_mlp(*wrong, backend="cpu")
