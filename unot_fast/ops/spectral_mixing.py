"""Layers on channels, one complex matrix for each mode."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.ops import _torch
from unot_fast.ops.autocast import keep_single
from unot_fast.ops.backends import implementation
from unot_fast.ops.folding import register_vmap
from unot_fast.ops.keeping import expect_kept, is_recorded, passed_on, room_for_kept, shape_of_kept
from unot_fast.ops.returning import asked_for, separate
from unot_fast.ops.second_derivatives import pull_back
from unot_fast.ops.shapes import expect, expect_alike
from unot_fast.ops.shortcut import shortcut
from unot_fast.ops.spectral_empty import unless_empty
from unot_fast.ops.tangents import refuse_tangents

_ARGUMENTS = "Tensor c, Tensor weight, Tensor? bias, bool gelu"
_DATA = (0,)  # the arguments that are no weights

torch.library.define(
    "unot_fast::spectral_mixing",
    f"({_ARGUMENTS}, bool keep, str backend) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "unot_fast::spectral_mixing_vjp",
    f"(Tensor grad, {_ARGUMENTS}, Tensor kept, bool weights, str backend) "
    "-> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)

_MODULES = {
    "cpu": "unot_fast.ops._cpu",
    "triton": "unot_fast.kernels.spectral_mixing",
    "torch": "unot_fast.ops._torch",
    "reference": "unot_fast.reference.spectral_mixing",
}


def _impl(c, weight, bias, gelu, keep, backend):
    expect_alike("spectral_mixing", c=c, weight=weight, bias=bias)
    shape = (weight.shape[1], *c.shape[3:], 2)
    expect("spectral_mixing", weight=(weight, (c.shape[1], *shape)), bias=(bias, shape))
    room = _kept(c, weight, gelu, keep, backend)
    backend = unless_empty(backend, c, weight)
    kept = room_for_kept(c, room, backend)
    mixing = implementation("spectral_mixing", backend, _MODULES)
    return mixing(c, weight, bias, gelu, **passed_on(kept, backend)).contiguous(), kept


torch.library.impl("unot_fast::spectral_mixing", "CompositeExplicitAutograd", _impl)


def _kept(c, weight, gelu, keep, backend):
    return shape_of_kept(_out(c, weight), gelu and keep, backend)


def _out(c, weight):
    return c.shape[0], weight.shape[1], *c.shape[2:]


@torch.library.impl("unot_fast::spectral_mixing_vjp", "CompositeExplicitAutograd")
def _impl_vjp(grad, c, weight, bias, gelu, kept, weights, backend):
    expect_alike("spectral_mixing_vjp", c=c, weight=weight, bias=bias, grad=grad, kept=kept)
    expect_kept("spectral_mixing_vjp", kept, _out(c, weight))
    backend = unless_empty(backend, c, weight)
    vjp = implementation("spectral_mixing_vjp", backend, _MODULES)
    found = vjp(grad, c, weight, bias, gelu, weights, **passed_on(kept, backend))
    return separate(found, asked_for((c, weight, bias), _DATA, weights))


@torch.library.register_fake("unot_fast::spectral_mixing")
def _fake(c, weight, bias, gelu, keep, backend):
    return c.new_empty(_out(c, weight)), c.new_empty(_kept(c, weight, gelu, keep, backend))


@torch.library.register_fake("unot_fast::spectral_mixing_vjp")
def _fake_vjp(grad, c, weight, bias, gelu, kept, weights, backend):
    inputs = asked_for((c, weight, bias), _DATA, weights)
    return tuple(c.new_empty(0 if t is None else t.shape) for t in inputs)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.gelu, _, ctx.backend = inputs
    ctx.set_materialize_grads(False)  # none of what is kept
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, output[1])


def _backward(ctx, grad: Tensor, _):
    if grad is None:
        return (None,) * 6
    *tensors, kept = ctx.saved_tensors
    weights = any(ctx.needs_input_grad[1:3])
    refuse_tangents("spectral_mixing", grad)
    found = torch.ops.unot_fast.spectral_mixing_vjp(
        grad, *tensors, ctx.gelu, kept, weights, ctx.backend
    )
    inputs = asked_for(tensors, _DATA, weights)
    found = (d if t is not None else None for d, t in zip(found, inputs, strict=True))
    return *found, None, None, None


torch.library.register_autograd(
    "unot_fast::spectral_mixing", _backward, setup_context=_setup_context
)


def _setup_second(ctx, inputs, output) -> None:
    grad, c, weight, bias, ctx.gelu, _, ctx.weights, ctx.backend = inputs
    ctx.save_for_backward(grad, c, weight, bias)


def _backward_second(ctx, dc: Tensor, dw: Tensor, dbias: Tensor):
    tensors, backend = ctx.saved_tensors, ctx.backend
    if ctx.gelu:
        found = pull_back(
            lambda *t: _torch.spectral_mixing_vjp(*t, True, ctx.weights),
            tensors, ctx.needs_input_grad[: len(tensors)], (dc, dw, dbias),
        )  # fmt: skip
        return *found, None, None, None, None
    # Without a GELU, <grad, mixing(c, weight)> is linear in each of the three.
    grad, c, weight, bias = tensors
    vjp, nothing = torch.ops.unot_fast.spectral_mixing_vjp, grad.new_empty(0)
    biased = bias is not None and ctx.weights
    dgrad = spectral_mixing(dc, weight, dbias if biased else None, backend=backend)
    from_dw = None
    if ctx.weights:
        dgrad = dgrad + spectral_mixing(c, dw, backend=backend)
        from_dw, *_ = vjp(grad, c, dw, None, False, nothing, False, backend)
    _, from_dc, _ = vjp(grad, dc, weight, None, False, nothing, True, backend)
    return dgrad, from_dw, from_dc, None, None, None, None, None


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

    For the backward pass the arguments are kept, and on the CPU the slope of the GELU. With a GELU
    second derivatives are computed by torch, without a kernel.

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
    keep = is_recorded(c, weight, bias)
    run = shortcut(torch.ops.unot_fast.spectral_mixing, _impl, c, weight, bias)
    out, _ = run(c, weight, bias, gelu, keep, backend)
    return out
