"""Layers on channels, one complex matrix for each mode."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.ops.autocast import keep_single
from unot_fast.ops.backends import implementation
from unot_fast.ops.folding import register_vmap
from unot_fast.ops.returning import asked_for, separate
from unot_fast.ops.shapes import expect, expect_alike
from unot_fast.ops.spectral_empty import unless_empty
from unot_fast.ops.tangents import refuse_tangents

_ARGUMENTS = "Tensor c, Tensor weight, Tensor? bias, bool gelu"
_DATA = (0,)  # the arguments that are no weights

torch.library.define(
    "unot_fast::spectral_mixing",
    f"({_ARGUMENTS}, str backend) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "unot_fast::spectral_mixing_vjp",
    f"(Tensor grad, {_ARGUMENTS}, bool weights, str backend) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)

_MODULES = {
    "cpu": "unot_fast.ops._cpu",
    "triton": "unot_fast.kernels.spectral_mixing",
    "torch": "unot_fast.ops._torch",
    "reference": "unot_fast.reference.spectral_mixing",
}


@torch.library.impl("unot_fast::spectral_mixing", "CompositeExplicitAutograd")
def _impl(c, weight, bias, gelu, backend):
    expect_alike("spectral_mixing", c=c, weight=weight, bias=bias)
    shape = (weight.shape[1], *c.shape[3:], 2)
    expect("spectral_mixing", weight=(weight, (c.shape[1], *shape)), bias=(bias, shape))
    backend = unless_empty(backend, c, weight)
    mixing = implementation("spectral_mixing", backend, _MODULES)
    return mixing(c, weight, bias, gelu).contiguous()


@torch.library.impl("unot_fast::spectral_mixing_vjp", "CompositeExplicitAutograd")
def _impl_vjp(grad, c, weight, bias, gelu, weights, backend):
    expect_alike("spectral_mixing_vjp", c=c, weight=weight, bias=bias, grad=grad)
    backend = unless_empty(backend, c, weight)
    vjp = implementation("spectral_mixing_vjp", backend, _MODULES)
    found = vjp(grad, c, weight, bias, gelu, weights)
    return separate(found, asked_for((c, weight, bias), _DATA, weights))


@torch.library.register_fake("unot_fast::spectral_mixing")
def _fake(c, weight, bias, gelu, backend):
    return c.new_empty((c.shape[0], weight.shape[1], *c.shape[2:]))


@torch.library.register_fake("unot_fast::spectral_mixing_vjp")
def _fake_vjp(grad, c, weight, bias, gelu, weights, backend):
    inputs = asked_for((c, weight, bias), _DATA, weights)
    return tuple(c.new_empty(0 if t is None else t.shape) for t in inputs)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.gelu, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad: Tensor):
    tensors, weights = ctx.saved_tensors, any(ctx.needs_input_grad[1:3])
    refuse_tangents("spectral_mixing", grad)
    found = torch.ops.unot_fast.spectral_mixing_vjp(grad, *tensors, ctx.gelu, weights, ctx.backend)
    inputs = asked_for(tensors, _DATA, weights)
    return *(d if t is not None else None for d, t in zip(found, inputs, strict=True)), None, None


torch.library.register_autograd(
    "unot_fast::spectral_mixing", _backward, setup_context=_setup_context
)


def _setup_second(ctx, inputs, output) -> None:
    grad, c, weight, bias, ctx.gelu, ctx.weights, ctx.backend = inputs
    ctx.biased = bias is not None and ctx.weights
    ctx.save_for_backward(grad, c, weight)


def _backward_second(ctx, dc: Tensor, dw: Tensor, dbias: Tensor):
    """Without a GELU, <grad, mixing(c, weight)> is linear in each of the three."""
    if ctx.gelu:
        raise RuntimeError("spectral_mixing: second derivatives are not available with a GELU")
    (grad, c, weight), backend = ctx.saved_tensors, ctx.backend
    vjp = torch.ops.unot_fast.spectral_mixing_vjp
    dgrad = spectral_mixing(dc, weight, dbias if ctx.biased else None, backend=backend)
    from_dw = None
    if ctx.weights:
        dgrad = dgrad + spectral_mixing(c, dw, backend=backend)
        from_dw, *_ = vjp(grad, c, dw, None, False, False, backend)
    _, from_dc, _ = vjp(grad, dc, weight, None, False, True, backend)
    return dgrad, from_dw, from_dc, None, None, None, None


torch.library.register_autograd(
    "unot_fast::spectral_mixing_vjp", _backward_second, setup_context=_setup_second
)
register_vmap("spectral_mixing", 0)
register_vmap("spectral_mixing_vjp")
keep_single("spectral_mixing", "spectral_mixing_vjp")


def spectral_mixing(
    c: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False, backend: str
) -> Tensor:
    r"""Mix the channels of every mode.

    .. math:: \mathrm{out}_b(o, k)
        = \sigma\Bigl(\sum_i c_b(i, k)\, w(i, o, k) + \beta(o, k)\Bigr)

    Nothing but the arguments is kept for the backward pass.

    Parameters
    ----------
    c : Tensor, shape (B, C, 2, m_1, ..., m_d), float32 or float64
        Real parts, then imaginary parts, as from `spectral_analysis`.
    weight : Tensor, shape (C, O, m_1, ..., m_d, 2)
        A complex weight as ``torch.view_as_real`` has it, of the dtype of ``c``.
    bias : Tensor, shape (O, m_1, ..., m_d, 2), optional
        Likewise.
    gelu : bool
        Whether sigma is the GELU of the real part and of the imaginary part, with the exact
        distribution function, or nothing.
    backend : str
        ``"cpu"``, ``"triton"`` (float32), ``"torch"`` or ``"reference"``.

    Returns
    -------
    Tensor, shape (B, O, 2, m_1, ..., m_d)
    """
    refuse_tangents("spectral_mixing", c, weight, bias)
    return torch.ops.unot_fast.spectral_mixing(c, weight, bias, gelu, backend)
