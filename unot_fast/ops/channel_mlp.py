"""Two pointwise layers, with a gated residual: the pointwise half of a Fourier block."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.ops import _torch
from unot_fast.ops.autocast import keep_single
from unot_fast.ops.backends import implementation
from unot_fast.ops.folding import register_vmap
from unot_fast.ops.returning import asked_for, separate
from unot_fast.ops.second_derivatives import pull_back
from unot_fast.ops.shapes import expect, expect_alike, expect_mlp
from unot_fast.ops.shortcut import shortcut
from unot_fast.ops.spectral_empty import unless_empty
from unot_fast.ops.tangents import refuse_tangents

_ARGUMENTS = (
    "Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor? residual, Tensor? gate, "
    "bool gelu"
)

_DATA = (0, 5)  # x and the residual, which are no weights

torch.library.define(
    "unot_fast::channel_mlp",
    f"({_ARGUMENTS}, str backend) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "unot_fast::channel_mlp_vjp",
    f"(Tensor grad, {_ARGUMENTS}, bool weights, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)

_MODULES = {
    "cpu": "unot_fast.ops._cpu",
    "triton": "unot_fast.kernels.channel_mlp",
    "torch": "unot_fast.ops._torch",
    "reference": "unot_fast.reference.channel_mlp",
}


def _impl(x, w1, b1, w2, b2, residual, gate, gelu, backend):
    expect_alike("channel_mlp", x=x, w1=w1, b1=b1, w2=w2, b2=b2, residual=residual, gate=gate)
    _, out = expect_mlp("channel_mlp", x.shape[1], w1, b1, w2, b2)
    shape = (x.shape[0], out, *x.shape[2:])
    expect("channel_mlp", residual=(residual, shape), gate=(gate, (out,)))
    backend = unless_empty(backend, x, w1, w2)
    mlp = implementation("channel_mlp", backend, _MODULES)
    return mlp(x, w1, b1, w2, b2, residual, gate, gelu).contiguous()


torch.library.impl("unot_fast::channel_mlp", "CompositeExplicitAutograd", _impl)


@torch.library.impl("unot_fast::channel_mlp_vjp", "CompositeExplicitAutograd")
def _impl_vjp(grad, x, w1, b1, w2, b2, residual, gate, gelu, weights, backend):
    expect_alike(
        "channel_mlp_vjp", x=x, w1=w1, b1=b1, w2=w2, b2=b2, residual=residual, gate=gate, grad=grad
    )
    backend = unless_empty(backend, x, w1, w2)
    vjp = implementation("channel_mlp_vjp", backend, _MODULES)
    inputs = x, w1, b1, w2, b2, residual, gate
    return separate(vjp(grad, *inputs, gelu, weights), asked_for(inputs, _DATA, weights))


@torch.library.register_fake("unot_fast::channel_mlp")
def _fake(x, w1, b1, w2, b2, residual, gate, gelu, backend):
    return x.new_empty((x.shape[0], w2.shape[0], *x.shape[2:]))


@torch.library.register_fake("unot_fast::channel_mlp_vjp")
def _fake_vjp(grad, x, w1, b1, w2, b2, residual, gate, gelu, weights, backend):
    inputs = asked_for((x, w1, b1, w2, b2, residual, gate), _DATA, weights)
    return tuple(x.new_empty(0 if t is None else t.shape) for t in inputs)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.gelu, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad: Tensor):
    tensors, needed = ctx.saved_tensors, ctx.needs_input_grad
    refuse_tangents("channel_mlp", grad)
    weights = any(needed[k] for k in range(len(tensors)) if k not in _DATA)
    found = torch.ops.unot_fast.channel_mlp_vjp(grad, *tensors, ctx.gelu, weights, ctx.backend)
    inputs = asked_for(tensors, _DATA, weights)
    return *(d if t is not None else None for d, t in zip(found, inputs, strict=True)), None, None


torch.library.register_autograd("unot_fast::channel_mlp", _backward, setup_context=_setup_context)


def _setup_second(ctx, inputs, output) -> None:
    *tensors, ctx.gelu, ctx.weights, _ = inputs
    ctx.save_for_backward(*tensors)


def _backward_second(ctx, *cotangents: Tensor):
    tensors, needed = ctx.saved_tensors, ctx.needs_input_grad
    found = pull_back(
        lambda *t: _torch.channel_mlp_vjp(*t, ctx.gelu, ctx.weights),
        tensors, needed[: len(tensors)], cotangents,
    )  # fmt: skip
    return *found, None, None, None


torch.library.register_autograd(
    "unot_fast::channel_mlp_vjp", _backward_second, setup_context=_setup_second
)
register_vmap("channel_mlp", 0, 5)
register_vmap("channel_mlp_vjp")
keep_single("channel_mlp", "channel_mlp_vjp")


def channel_mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    gelu: bool = False,
    backend: str,
) -> Tensor:
    r"""Two pointwise layers, the values between them never in memory.

    .. math:: y = \sigma\bigl(W_2\, \mathrm{gelu}(W_1 x + \beta_1) + \beta_2 + \gamma r\bigr)

    Nothing but the arguments is kept for the backward pass. Second derivatives are computed by
    torch, without a kernel.

    Parameters
    ----------
    x : Tensor, shape (B, C, n_1, ..., n_d), float32 or float64
    w1, b1 : Tensor, shapes (H, C) and (H,)
        Of the dtype of ``x``, like all others; ``b1`` may be None.
    w2, b2 : Tensor, shapes (O, H) and (O,)
        ``b2`` may be None.
    residual : Tensor, shape (B, O, n_1, ..., n_d), optional
        r.
    gate : Tensor, shape (O,), optional
        The factor of ``residual``; 1 if None.
    gelu : bool
        Whether the last activation is the GELU, with the exact distribution function, or none.
    backend : str
        ``"cpu"``, ``"triton"`` (float32), ``"torch"`` or ``"reference"``.

    Returns
    -------
    Tensor, shape (B, O, n_1, ..., n_d)
    """
    refuse_tangents("channel_mlp", x, w1, b1, w2, b2, residual, gate)
    tensors = x, w1, b1, w2, b2, residual, gate
    run = shortcut(torch.ops.unot_fast.channel_mlp, _impl, *tensors)
    return run(*tensors, gelu, backend)
