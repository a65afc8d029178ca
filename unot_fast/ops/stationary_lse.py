"""Log-sum-exp against a cost that depends on the last axis only through a shift."""

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
    "unot_fast::stationary_lse",
    "(Tensor h, Tensor table, Tensor row_class, int step, SymInt[] shape, Tensor epsilon, "
    "str backend) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)

_MODULES = {
    "cpu": "unot_fast.ops._cpu",
    "cuda": "unot_fast.ops._cuda",
    "reference": "unot_fast.reference.stationary_lse",
}


def _impl(h, table, row_class, step, shape, epsilon, backend):
    run = implementation("stationary_lse", backend, _MODULES)
    return run(h, table, row_class, step, shape, epsilon).to(h.dtype)


torch.library.impl("unot_fast::stationary_lse", "CompositeExplicitAutograd", _impl)


@torch.library.register_fake("unot_fast::stationary_lse")
def _fake(h, table, row_class, step, shape, epsilon, backend):
    return h.new_empty((h.shape[0], *shape))


def _setup_context(ctx, inputs, output):
    h, table, row_class, step, _, epsilon, backend = inputs
    ctx.save_for_backward(h, output, table, row_class, epsilon)
    ctx.step, ctx.backend = step, backend


def _backward(ctx, grad):
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[5]:
        raise RuntimeError("stationary_lse has no gradient in epsilon or the cost")
    if ctx.step != 1:
        raise RuntimeError("stationary_lse has a gradient between grids of equal spacing only")
    h, out, table, row_class, epsilon = ctx.saved_tensors
    across = table.flip(-1).contiguous(), row_class.T.contiguous()

    def transposed(x: Tensor) -> Tensor:
        return stationary_lse(x, *across, 1, h.shape[1:], epsilon, backend=ctx.backend)

    return lse_vjp(h, out, grad, transposed), *[None] * 6


torch.library.register_autograd(
    "unot_fast::stationary_lse", _backward, setup_context=_setup_context
)


def _vmap(info, in_dims, h, table, row_class, step, shape, epsilon, backend):
    if in_dims[1] is not None or in_dims[2] is not None:
        raise ValueError("stationary_lse: the cost is shared and cannot be vmapped over")
    h, epsilon = folding(info, in_dims[0], in_dims[5])(h, epsilon)
    out = stationary_lse(h, table, row_class, step, shape, epsilon, backend=backend)
    return out.unflatten(0, (info.batch_size, -1)), 0


torch.library.register_vmap("unot_fast::stationary_lse", _vmap)
keep_single("stationary_lse")


def stationary_lse(
    h: Tensor,
    table: Tensor,
    row_class: Tensor,
    step: int,
    shape: Sequence[int],
    epsilon: Tensor,
    *,
    backend: str,
) -> Tensor:
    r"""Log-sum-exp of ``h`` against the cost of `unot_fast.geometry.LineCost`.

    .. math:: \mathrm{out}_b(x) = \log \sum_y \exp\bigl(h_b(y) - C(x, y) / \varepsilon_b\bigr)

    Parameters
    ----------
    h : Tensor, shape (B, m_1, ..., m_d)
        Logarithms, in nats; ``-inf`` stands for no mass.
    table : Tensor, shape (classes, n_d + step * (m_d - 1))
    row_class : Tensor of int32, shape (n_1 ... n_{d-1}, m_1 ... m_{d-1})
    step : int
    shape : sequence of d ints
        n_1, ..., n_d.
    epsilon : Tensor, shape (B,)
        Positive regularisation, in units of cost.
    backend : str
        ``"cpu"``, ``"cuda"`` or ``"reference"``.

    Returns
    -------
    Tensor, shape (B, n_1, ..., n_d)
        In nats, of the dtype of ``h``; differentiable in it where ``step`` is 1.
    """
    refuse_tangents("stationary_lse", h)
    run = shortcut(torch.ops.unot_fast.stationary_lse, _impl, h, epsilon)
    return run(h, table, row_class, step, list(shape), epsilon, backend)
