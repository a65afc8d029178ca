"""A whole Sinkhorn solve on a cost that depends on the last axis only through a shift."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.ops.autocast import keep_single
from unot_fast.ops.backends import implementation
from unot_fast.ops.folding import folding
from unot_fast.ops.shapes import expect
from unot_fast.ops.shortcut import shortcut
from unot_fast.ops.sinkhorn_separable import (
    Solution,
    check_problems,
    fake_solution,
    gradients,
    save_solution,
)

torch.library.define(
    "unot_fast::sinkhorn_stationary",
    "(Tensor a, Tensor b, Tensor table, Tensor row_class, Tensor epsilon, Tensor g, float tol, "
    "str criterion, int max_iter, float? overrelaxation, str backend) -> (Tensor f, Tensor g_out, "
    "Tensor cost, Tensor value, Tensor marginal_error, Tensor n_iters, Tensor converged, "
    "Tensor log_domain)",
    tags=torch.Tag.pt2_compliant_tag,
)

_MODULES = {
    "cpu": "unot_fast.ops._cpu",
    "cuda": "unot_fast.ops._cuda",
    "reference": "unot_fast.reference.sinkhorn_stationary",
}


def _impl(*args):
    *args, backend = args
    a, b, table, row_class, epsilon, g, *_ = args
    check_problems("sinkhorn_stationary", a, b, epsilon, g, a.shape[1:], b.shape[1:])
    rows = [x.shape[1:-1].numel() for x in (a, b)]
    length = a.shape[-1] + b.shape[-1] - 1
    expect("sinkhorn_stationary", table=(table, (len(table), length)), row_class=(row_class, rows))
    return implementation("sinkhorn_stationary", backend, _MODULES)(*args)


torch.library.impl("unot_fast::sinkhorn_stationary", "CompositeExplicitAutograd", _impl)


@torch.library.register_fake("unot_fast::sinkhorn_stationary")
def _fake(a, b, *_):
    return fake_solution(a, b)


def _setup_context(ctx, inputs, output):
    a, b, table, row_class, epsilon, *_, backend = inputs
    save_solution(ctx, a, b, [table, row_class], epsilon, output, backend, "stationary")


def _backward(ctx, *grads):
    grad_a, grad_b, grad_epsilon = gradients(ctx, ctx.needs_input_grad[4], *grads)
    return grad_a, grad_b, None, None, grad_epsilon, *[None] * 6


torch.library.register_autograd(
    "unot_fast::sinkhorn_stationary", _backward, setup_context=_setup_context
)


def _vmap(info, in_dims, a, b, table, row_class, epsilon, g, *options):
    if in_dims[2] is not None or in_dims[3] is not None:
        raise ValueError("sinkhorn_stationary: the cost is shared and cannot be vmapped over")
    fold = folding(info, in_dims[0], in_dims[1], in_dims[4], in_dims[5])
    a, b, epsilon, g = fold(a, b, epsilon, g)
    out = torch.ops.unot_fast.sinkhorn_stationary(a, b, table, row_class, epsilon, g, *options)
    return tuple(t.unflatten(0, (info.batch_size, -1)) for t in out), (0,) * len(out)


torch.library.register_vmap("unot_fast::sinkhorn_stationary", _vmap)
keep_single("sinkhorn_stationary")


def sinkhorn_stationary(
    a: Tensor,
    b: Tensor,
    table: Tensor,
    row_class: Tensor,
    epsilon: Tensor,
    g: Tensor,
    *,
    tol: float,
    criterion: str,
    max_iter: int,
    overrelaxation: float | None,
    backend: str,
) -> Solution:
    """Run Sinkhorn's iteration from ``g``, all iterations of a problem in one call.

    Iteration, options and results are those of `unot_fast.ops.sinkhorn_separable`; the cost is
    that of `unot_fast.geometry.LineCost` with step 1.

    Parameters
    ----------
    a, b : Tensor, shapes (B, n_1, ..., n_d) and (B, m_1, ..., m_d)
        Non-negative, each problem of total mass 1.
    table : Tensor, shape (classes, n_d + m_d - 1)
    row_class : Tensor of int32, shape (n_1 ... n_{d-1}, m_1 ... m_{d-1})
    epsilon : Tensor, shape (B,)
    g : Tensor, shape of b
        Start, in units of cost.
    tol, criterion, max_iter, overrelaxation
        As there.
    backend : str
        ``"cpu"``, ``"cuda"`` or ``"reference"``.

    Returns
    -------
    Solution
    """
    run = shortcut(torch.ops.unot_fast.sinkhorn_stationary, _impl, a, b, epsilon, g)
    out = run(a, b, table, row_class, epsilon, g, tol, criterion, max_iter, overrelaxation, backend)
    return Solution(*out)
