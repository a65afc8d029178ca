"""Log-sum-exp against a cost that depends on the last axis only through a shift."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops.backends import implementation

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


@torch.library.impl("unot_fast::stationary_lse", "CompositeExplicitAutograd")
def _impl(h, table, row_class, step, shape, epsilon, backend):
    run = implementation("stationary_lse", backend, _MODULES)
    return run(h, table, row_class, step, shape, epsilon).to(h.dtype)


@torch.library.register_fake("unot_fast::stationary_lse")
def _fake(h, table, row_class, step, shape, epsilon, backend):
    return h.new_empty((h.shape[0], *shape))


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
        In nats, of the dtype of ``h``.
    """
    return torch.ops.unot_fast.stationary_lse(
        h, table, row_class, step, list(shape), epsilon, backend
    )
