"""A few modes of many images: one product with a complex table for each axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops.autocast import keep_single
from unot_fast.ops.backends import implementation
from unot_fast.ops.complex_tables import adjoint
from unot_fast.ops.folding import check_shared
from unot_fast.ops.shapes import expect, expect_alike
from unot_fast.ops.shortcut import shortcut
from unot_fast.ops.spectral_empty import unless_empty
from unot_fast.ops.tangents import refuse_tangents

torch.library.define(
    "unot_fast::spectral_analysis",
    "(Tensor x, Tensor[] tables, str backend) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)

_MODULES = {
    "cpu": "unot_fast.ops._cpu",
    "triton": "unot_fast.kernels.spectral_analysis",
    "torch": "unot_fast.ops._torch",
    "reference": "unot_fast.reference.spectral_analysis",
}


def _impl(x: Tensor, tables: Sequence[Tensor], backend: str) -> Tensor:
    expect_alike("spectral_analysis", tables, x=x)
    for n, table in zip(x.shape[x.ndim - len(tables) :], tables, strict=True):
        expect("spectral_analysis", table=(table, (table.shape[0], n, 2)))
    backend = unless_empty(backend, x, *tables)
    return implementation("spectral_analysis", backend, _MODULES)(x, tables).contiguous()


torch.library.impl("unot_fast::spectral_analysis", "CompositeExplicitAutograd", _impl)


@torch.library.register_fake("unot_fast::spectral_analysis")
def _fake(x: Tensor, tables: Sequence[Tensor], backend: str) -> Tensor:
    return x.new_empty((*x.shape[: x.ndim - len(tables)], 2, *(t.shape[0] for t in tables)))


def _setup_context(ctx, inputs, output) -> None:
    _, tables, ctx.backend = inputs
    ctx.save_for_backward(*tables)


def _backward(ctx, grad: Tensor):
    from unot_fast.ops.spectral_synthesis import spectral_synthesis

    tables = ctx.saved_tensors
    d = len(tables)
    lead, c = grad.shape[: grad.ndim - d - 1], grad
    if len(lead) != 2 and (d, len(lead)) != (1, 3):  # those that the synthesis takes
        c = grad.reshape(lead[:-1].numel(), lead[-1:].numel(), *grad.shape[len(lead) :])
    dx = spectral_synthesis(c, [adjoint(t) for t in tables], backend=ctx.backend)
    return dx.reshape(*lead, *dx.shape[dx.ndim - d :]), [None] * d, None


torch.library.register_autograd(
    "unot_fast::spectral_analysis", _backward, setup_context=_setup_context
)


def _vmap(info, in_dims, x, tables, backend):
    check_shared("spectral_analysis", in_dims)
    return spectral_analysis(x.movedim(in_dims[0], 0), tables, backend=backend), 0


torch.library.register_vmap("unot_fast::spectral_analysis", _vmap)
keep_single("spectral_analysis")


def spectral_analysis(x: Tensor, tables: Sequence[Tensor], *, backend: str) -> Tensor:
    r"""Coefficients of real functions on a grid.

    .. math:: c(k_1, \dots, k_d) = \sum_{i_1 \dots i_d} T_1(k_1, i_1) \cdots T_d(k_d, i_d)\,
              x(i_1, \dots, i_d)

    Parameters
    ----------
    x : Tensor, shape (\*, n_1, ..., n_d), float32 or float64
    tables : sequence of d Tensors, shape (m_k, n_k, 2)
        Real and imaginary parts, of the dtype of ``x``.
    backend : str
        ``"cpu"`` (d <= 2), ``"triton"`` (d <= 2, float32), ``"torch"`` or ``"reference"``.

    Returns
    -------
    Tensor, shape (\*, 2, m_1, ..., m_d)
        Real parts, then imaginary parts.
    """
    refuse_tangents("spectral_analysis", x)
    run = shortcut(torch.ops.unot_fast.spectral_analysis, _impl, x, *tables)
    return run(x, list(tables), backend)
