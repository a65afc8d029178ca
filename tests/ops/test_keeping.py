"""What a forward pass keeps changes no gradient, and is kept only where one may be asked for."""

import pytest
import torch

from tests.ops.agreement import normal
from tests.ops.spectral_calls import CALLS, OPS
from unot_fast.ops import spectral_mixing
from unot_fast.ops.keeping import is_recorded

OPERATORS = ["spectral_mixing", "spectral_synthesis"]


def gradients(operator, arguments, keep, dtype):
    def leaf(x):
        return x.detach().to(dtype).requires_grad_()

    leaves = torch.utils._pytree.tree_map_only(torch.Tensor, leaf, arguments[:-1])
    out, kept = getattr(OPS, operator)(*leaves, keep, "cpu")
    assert bool(kept.numel()) is keep
    assert not kept.requires_grad
    tensors = [x for x in leaves if torch.is_tensor(x)]
    return torch.autograd.grad(out.square().sum(), tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("operator", OPERATORS)
def test_gradients_are_the_same(operator, dtype):
    found = [gradients(operator, CALLS[operator], keep, dtype) for keep in (True, False)]
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(kept, again)


@pytest.mark.parametrize("size", [1, 7, 33])
def test_modes_that_fill_no_vector(size):
    arguments = normal(3, 2, 2, size), normal(2, 5, size, 2), normal(5, size, 2), True, True
    found = [gradients("spectral_mixing", arguments, keep, torch.float32) for keep in (True, False)]
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(kept, again)


@pytest.mark.parametrize("operator", OPERATORS)
def test_nothing_is_kept_elsewhere(operator):
    for backend in ("torch", "reference"):
        _, kept = getattr(OPS, operator)(*CALLS[operator][:-1], True, backend)
        assert not kept.numel()


@pytest.mark.parametrize("operator", OPERATORS)
def test_shape_of_what_is_kept_is_checked(operator):
    *arguments, _, weights = CALLS[f"{operator}_vjp"]
    with pytest.raises(ValueError, match=f"{operator}_vjp: kept must have shape"):
        getattr(OPS, f"{operator}_vjp")(*arguments, normal(2, 3), weights, "cpu")


def test_linear_layers_keep_nothing():
    *arguments, _, _ = CALLS["spectral_mixing"]
    assert not OPS.spectral_mixing(*arguments, False, True, "cpu")[1].numel()
    c, tables, *rest = CALLS["spectral_synthesis"][:-2]
    rest[3:7] = [None] * 4  # no pointwise layers
    assert not OPS.spectral_synthesis(c, tables, *rest, False, True, "cpu")[1].numel()


def test_recorded():
    x, parameter = normal(3), normal(3).requires_grad_()
    assert is_recorded(x, None, parameter)
    assert not is_recorded(x, None)
    with torch.no_grad():
        assert not is_recorded(parameter)


def test_vmap_over_a_batch_and_over_weights():
    c, weight, bias = (normal(*shape) for shape in ((4, 2, 3, 2, 5), (3, 4, 5, 2), (4, 5, 2)))
    weight.requires_grad_()
    for dims, weights in (((0, None), weight), ((0, 0), weight.expand(4, *weight.shape))):
        out = torch.vmap(
            lambda c, w: spectral_mixing(c, w, bias, gelu=True, backend="cpu"), in_dims=dims
        )(c, weights)
        one = [spectral_mixing(x, weight, bias, gelu=True, backend="cpu") for x in c]
        torch.testing.assert_close(out, torch.stack(one))
        (found,) = torch.autograd.grad(out.square().sum(), weight)
        (expected,) = torch.autograd.grad(sum(y.square().sum() for y in one), weight)
        torch.testing.assert_close(found, expected)
