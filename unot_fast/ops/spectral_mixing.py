"""Linear maps of channels, one complex matrix for each mode."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.ops.backends import implementation
from unot_fast.ops.shapes import expect

torch.library.define(
    "unot_fast::spectral_mixing",
    "(Tensor c, Tensor weight, str backend) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "unot_fast::spectral_mixing_vjp",
    "(Tensor grad, Tensor c, Tensor weight, str backend) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)

_MODULES = {
    "cpu": "unot_fast.ops._cpu",
    "torch": "unot_fast.ops._torch",
    "reference": "unot_fast.reference.spectral_mixing",
}


@torch.library.impl("unot_fast::spectral_mixing", "CompositeExplicitAutograd")
def _impl(c: Tensor, weight: Tensor, backend: str) -> Tensor:
    shape = (c.shape[1], weight.shape[1], *c.shape[3:], 2)
    expect("spectral_mixing", weight=(weight, shape))
    return implementation("spectral_mixing", backend, _MODULES)(c, weight).contiguous()


@torch.library.impl("unot_fast::spectral_mixing_vjp", "CompositeExplicitAutograd")
def _impl_vjp(grad: Tensor, c: Tensor, weight: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    vjp = implementation("spectral_mixing_vjp", backend, _MODULES)
    return tuple(t.contiguous() for t in vjp(grad, c, weight))


@torch.library.register_fake("unot_fast::spectral_mixing")
def _fake(c: Tensor, weight: Tensor, backend: str) -> Tensor:
    return c.new_empty((c.shape[0], weight.shape[1], *c.shape[2:]))


@torch.library.register_fake("unot_fast::spectral_mixing_vjp")
def _fake_vjp(grad: Tensor, c: Tensor, weight: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return c.new_empty(c.shape), weight.new_empty(weight.shape)


def _setup_context(ctx, inputs, output) -> None:
    c, weight, ctx.backend = inputs
    ctx.save_for_backward(c, weight)


def _backward(ctx, grad: Tensor):
    c, weight = ctx.saved_tensors
    return *torch.ops.unot_fast.spectral_mixing_vjp(grad, c, weight, ctx.backend), None


torch.library.register_autograd(
    "unot_fast::spectral_mixing", _backward, setup_context=_setup_context
)


def spectral_mixing(c: Tensor, weight: Tensor, *, backend: str) -> Tensor:
    r"""Mix the channels of every mode.

    .. math:: \mathrm{out}_b(o, k) = \sum_i c_b(i, k)\, w(i, o, k)

    Parameters
    ----------
    c : Tensor, shape (B, C, 2, m_1, ..., m_d), float32 or float64
        Real parts, then imaginary parts, as from `spectral_analysis`.
    weight : Tensor, shape (C, O, m_1, ..., m_d, 2)
        A complex weight as ``torch.view_as_real`` has it, of the dtype of ``c``.
    backend : str
        ``"cpu"``, ``"torch"`` or ``"reference"``.

    Returns
    -------
    Tensor, shape (B, O, 2, m_1, ..., m_d)
    """
    return torch.ops.unot_fast.spectral_mixing(c, weight, backend)
