"""Log-sum-exp against a cost matrix, for a start that is evaluated once."""

from __future__ import annotations

import torch
from torch import Tensor

_RANGE = 300.0  # of cost / epsilon: sums of both exponentials stay within float64
_CHUNK = 2**24  # elements held at a time


def dense_lse(h: Tensor, cost: Tensor, epsilon: Tensor, largest: float) -> Tensor:
    r"""Log-sum-exp of :math:`h_b - C_i / \varepsilon_b` for each row i of a cost matrix.

    Where all problems share one epsilon, and it is not too small, one matrix product of
    exponentials for the batch.

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
    shared = _shared(epsilon)
    if shared is not None and largest < _RANGE * shared:
        top = h.amax(1, keepdim=True)
        kernel = torch.exp(cost.to(torch.float64) / -shared)
        sums = torch.exp((h - top).double()) @ kernel.T
        return (sums.log() + top).to(h.dtype)
    rows = max(1, _CHUNK // cost.shape[1])
    out = []
    for x, e in zip(h, epsilon, strict=True):
        parts = [torch.logsumexp(x - part / e, 1) for part in cost.to(h.dtype).split(rows)]
        out.append(torch.cat(parts))
    return torch.stack(out) if out else h.new_empty((0, len(cost)))


def _shared(epsilon: Tensor) -> float | None:
    """The one value of all, where finding out waits for no device."""
    if epsilon.is_cuda or torch.compiler.is_compiling() or len(epsilon) == 0:
        return None
    first = float(epsilon[0])
    return first if bool((epsilon == first).all()) else None
