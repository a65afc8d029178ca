"""Log-sum-exp against a separable cost: one half-step of Sinkhorn's iteration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops.autocast import keep_single
from unot_fast.ops.backends import implementation
from unot_fast.ops.folding import folding
from unot_fast.ops.lse_gradient import lse_vjp
from unot_fast.ops.shortcut import shortcut
from unot_fast.ops.tangents import refuse_tangents

torch.library.define(
    "unot_fast::separable_lse",
    "(Tensor h, Tensor[] costs, Tensor epsilon, str backend) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)

_MODULES = {
    "cpu": "unot_fast.ops._cpu",
    "cuda": "unot_fast.ops._cuda",
    "triton": "unot_fast.kernels.separable_lse",
    "reference": "unot_fast.reference.separable_lse",
}


def _impl(h: Tensor, costs: Sequence[Tensor], epsilon: Tensor, backend: str) -> Tensor:
    return implementation("separable_lse", backend, _MODULES)(h, costs, epsilon).to(h.dtype)


torch.library.impl("unot_fast::separable_lse", "CompositeExplicitAutograd", _impl)


@torch.library.register_fake("unot_fast::separable_lse")
def _fake(h: Tensor, costs: Sequence[Tensor], epsilon: Tensor, backend: str) -> Tensor:
    return h.new_empty((h.shape[0], *(c.shape[0] for c in costs)))


def _setup_context(ctx, inputs, output):
    h, costs, epsilon, backend = inputs
    ctx.save_for_backward(h, output, epsilon, *costs)
    ctx.backend, ctx.axes = backend, len(costs)


def _backward(ctx, grad):
    _, costs_need, epsilon_needs, _ = ctx.needs_input_grad
    if any(costs_need) or epsilon_needs:
        raise RuntimeError("separable_lse has no gradient in epsilon or the costs")
    h, out, epsilon, *costs = ctx.saved_tensors
    across = [c.T.contiguous() for c in costs]

    def transposed(x: Tensor) -> Tensor:
        return separable_lse(x, across, epsilon, backend=ctx.backend)

    return lse_vjp(h, out, grad, transposed), [None] * ctx.axes, None, None


torch.library.register_autograd("unot_fast::separable_lse", _backward, setup_context=_setup_context)


def _vmap(info, in_dims, h, costs, epsilon, backend):
    if any(d is not None for d in in_dims[1]):
        raise ValueError("separable_lse: the costs are shared and cannot be vmapped over")
    h, epsilon = folding(info, in_dims[0], in_dims[2])(h, epsilon)
    out = separable_lse(h, costs, epsilon, backend=backend)
    return out.unflatten(0, (info.batch_size, -1)), 0


torch.library.register_vmap("unot_fast::separable_lse", _vmap)
keep_single("separable_lse")


def separable_lse(h: Tensor, costs: Sequence[Tensor], epsilon: Tensor, *, backend: str) -> Tensor:
    r"""Log-sum-exp of ``h`` against a sum of per-axis costs.

    .. math:: \mathrm{out}_b(x) = \log \sum_y \exp\bigl(h_b(y)
              - \textstyle\sum_k C_k(x_k, y_k) / \varepsilon_b\bigr)

    Parameters
    ----------
    h : Tensor, shape (B, m_1, ..., m_d)
        Logarithms, in nats; ``-inf`` stands for no mass.
    costs : sequence of d Tensors, shape (n_k, m_k)
        Cost along each axis, d <= 3.
    epsilon : Tensor, shape (B,)
        Positive regularisation, in units of cost.
    backend : str
        ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"reference"``.

    Returns
    -------
    Tensor, shape (B, n_1, ..., n_d)
        In nats, of the dtype of ``h``; differentiable in it.
    """
    refuse_tangents("separable_lse", h)
    run = shortcut(torch.ops.unot_fast.separable_lse, _impl, h, epsilon)
    return run(h, list(costs), epsilon, backend)
