"""Where no weight has a gradient, that of the data is what it is, and the others are not there."""

import pytest
import torch
from torch.library import opcheck

from tests.ops.spectral_calls import BACKENDS, CALLS, OPS

DATA = {"spectral_mixing": (0,), "spectral_synthesis": (0, 1), "channel_mlp": (0, 5)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", DATA)
def test_operator(operator, backend):
    *arguments, weights = CALLS[f"{operator}_vjp"]
    call = getattr(OPS, f"{operator}_vjp")
    every, some = (call(*arguments, flag, backend) for flag in (weights, False))
    for k, (x, y) in enumerate(zip(every, some, strict=True)):
        if k in DATA[operator]:
            torch.testing.assert_close(x, y)
        else:
            assert not y.numel()
    opcheck(call.default, (*arguments, False, backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", DATA)
def test_autograd(operator, backend, monkeypatch):
    asked, arguments = [], list(CALLS[operator])
    call, vjp = getattr(OPS, operator), getattr(OPS, f"{operator}_vjp")

    def spy(*inputs):
        asked.append(inputs[-2])
        return vjp(*inputs)

    monkeypatch.setattr(OPS, f"{operator}_vjp", spy)
    found = []
    for with_weights in (True, False):
        leaves = [
            x.detach().requires_grad_(with_weights or k == 0) if torch.is_tensor(x) else x
            for k, x in enumerate(arguments)
        ]
        out = call(*leaves, backend)
        out = out if torch.is_tensor(out) else out[0]
        out.square().sum().backward()
        found.append(leaves[0].grad)
    torch.testing.assert_close(*found)
    assert asked == [True, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_derivative_of_the_mixing(backend):
    c, *rest = CALLS["spectral_mixing"][:3]
    assert torch.autograd.gradgradcheck(
        lambda c: OPS.spectral_mixing(c, *rest, False, False, backend)[0].square(),
        c.clone().requires_grad_(),
    )
