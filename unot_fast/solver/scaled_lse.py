"""Log-sum-exps in products of exponentials, for starts that are evaluated once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_RANGE = 300.0  # of cost / epsilon: sums of both exponentials stay within float64
_TINY = 1e-300  # where h spans more than it should, a finite number
_CHUNK = 2**24  # elements held at a time


def in_range(epsilon: Tensor, largest: float) -> bool:
    """Whether products of exponentials can take costs so large; asks no device."""
    if epsilon.is_cuda or torch.compiler.is_compiling() or len(epsilon) == 0:
        return False
    return largest < _RANGE * float(epsilon.detach().amin())


def separable_product_lse(h: Tensor, costs: Sequence[Tensor], epsilon: Tensor) -> Tensor:
    r"""As `unot_fast.ops.separable_lse` on two axes, for epsilon `in_range`.

    Parameters
    ----------
    h : Tensor, shape (B, m_1, m_2)
        Logarithms, in nats, that span no more than the costs in units of epsilon and 50.
    costs : two Tensors, shapes (n_1, m_1) and (n_2, m_2)
    epsilon : Tensor, shape (B,)

    Returns
    -------
    Tensor, shape (B, n_1, n_2)
    """
    scale = -epsilon.double()[:, None, None]
    first, second = (torch.exp(c.double() / scale) for c in costs)
    top = h.amax((1, 2), keepdim=True).detach()
    sums = first @ torch.exp((h - top).double()) @ second.mT
    return (sums.clamp_min(_TINY).log() + top).to(h.dtype)


def dense_lse(h: Tensor, cost: Tensor, epsilon: Tensor, largest: float) -> Tensor:
    r"""Log-sum-exp of :math:`h_b - C_i / \varepsilon_b` for each row i of a cost matrix.

    Where all problems share one epsilon that is `in_range`, one matrix product for the batch.

    Parameters
    ----------
    h : Tensor, shape (B, n)
        Logarithms, in nats, that span no more than the costs in units of epsilon and 50.
    cost : Tensor, shape (m, n)
    epsilon : Tensor, shape (B,)
    largest : float
        Bound on the costs.

    Returns
    -------
    Tensor, shape (B, m)
    """
    if in_range(epsilon, largest) and bool((epsilon == epsilon[0]).all()):
        top = h.amax(1, keepdim=True).detach()
        kernel = torch.exp(cost.double() / -epsilon[0].double())
        sums = torch.exp((h - top).double()) @ kernel.T
        return (sums.clamp_min(_TINY).log() + top).to(h.dtype)
    rows = max(1, _CHUNK // cost.shape[1])
    out = []
    for x, e in zip(h, epsilon, strict=True):
        parts = [torch.logsumexp(x - part / e, 1) for part in cost.to(h.dtype).split(rows)]
        out.append(torch.cat(parts))
    return torch.stack(out) if out else h.new_empty((0, len(cost)))
