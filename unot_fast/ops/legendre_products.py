"""Between the lines of latitude of a sphere and the degrees of its harmonics."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.ops.autocast import keep_single
from unot_fast.ops.backends import implementation
from unot_fast.ops.shapes import expect, expect_alike
from unot_fast.ops.shortcut import shortcut
from unot_fast.ops.spectral_empty import unless_empty
from unot_fast.ops.tangents import refuse_tangents

torch.library.define(
    "unot_fast::legendre_products",
    "(Tensor x, Tensor table, bool to_lines, str backend) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)

_MODULES = {
    "cpu": "unot_fast.ops._cpu",
    "triton": "unot_fast.ops._torch",  # batched products, which torch has
    "torch": "unot_fast.ops._torch",
    "reference": "unot_fast.reference.legendre_products",
}


def _impl(x: Tensor, table: Tensor, to_lines: bool, backend: str) -> Tensor:
    name = "legendre_products"
    expect_alike(name, x=x, table=table)
    if x.ndim != 5 or x.shape[-1 if to_lines else -2] != 2:
        axes = "(L, M, B, C, 2)" if to_lines else "(B, C, n, 2, M)"
        raise ValueError(f"{name}: x must have shape {axes}; got {tuple(x.shape)}")
    orders, columns = (x.shape[1], x.shape[0]) if to_lines else (x.shape[4], x.shape[2])
    expect(name, table=(table, (orders, table.shape[1], columns)))
    backend = unless_empty(backend, x, table)
    return implementation(name, backend, _MODULES)(x, table, to_lines).contiguous()


torch.library.impl("unot_fast::legendre_products", "CompositeExplicitAutograd", _impl)


@torch.library.register_fake("unot_fast::legendre_products")
def _fake(x: Tensor, table: Tensor, to_lines: bool, backend: str) -> Tensor:
    if to_lines:
        _, orders, *samples, _ = x.shape
        return x.new_empty((*samples, table.shape[1], 2, orders))
    *samples, _, _, orders = x.shape
    return x.new_empty((table.shape[1], orders, *samples, 2))


def _setup_context(ctx, inputs, output) -> None:
    _, table, ctx.to_lines, ctx.backend = inputs
    ctx.save_for_backward(table)


def _backward(ctx, grad: Tensor):
    (table,) = ctx.saved_tensors
    dx = legendre_products(grad, table.mT, to_lines=not ctx.to_lines, backend=ctx.backend)
    return dx, None, None, None


torch.library.register_autograd(
    "unot_fast::legendre_products", _backward, setup_context=_setup_context
)


def _vmap(info, in_dims, x, table, to_lines, backend):
    dim, dim_of_table, *_ = in_dims
    options = {"to_lines": to_lines, "backend": backend}
    if dim_of_table is not None:  # a call for each
        samples = [x] * info.batch_size if dim is None else x.unbind(dim)
        pairs = zip(samples, table.unbind(dim_of_table), strict=True)
        return torch.stack([legendre_products(*pair, **options) for pair in pairs]), 0
    before, after = (2, 0) if to_lines else (0, 2)  # the axis of samples
    folded = x.movedim(dim, before).flatten(before, before + 1)
    out = legendre_products(folded, table, **options)
    return out.unflatten(after, (info.batch_size, -1)), after


torch.library.register_vmap("unot_fast::legendre_products", _vmap)
keep_single("legendre_products")


def legendre_products(x: Tensor, table: Tensor, *, to_lines: bool, backend: str) -> Tensor:
    r"""Products with one matrix for each order, from lines of latitude to degrees, or back.

    .. math:: c(l, m) = \sum_i T_m(l, i)\, x(i, m) \quad\text{or}\quad
              x(i, m) = \sum_l T_m(i, l)\, c(l, m)

    The adjoint of one is the other with the transposed matrices.

    Parameters
    ----------
    x : Tensor, shape (B, C, n, 2, M) or (L, M, B, C, 2), float32 or float64
        Coefficients of each line, as from `spectral_analysis`; or those of each degree and order,
        real and imaginary parts side by side, ready for products of channels.
    table : Tensor, shape (M, L, n) or (M, n, L)
        Of the dtype of ``x``. Carries no gradient.
    to_lines : bool
        Whether ``x`` is of degrees and the result of lines.
    backend : str
        ``"cpu"``, ``"triton"`` or ``"torch"``, both of which are products of torch, or
        ``"reference"``.

    Returns
    -------
    Tensor, shape (L, M, B, C, 2) or (B, C, n, 2, M)
    """
    refuse_tangents("legendre_products", x, table)
    run = shortcut(torch.ops.unot_fast.legendre_products, _impl, x, table)
    return run(x, table, to_lines, backend)
