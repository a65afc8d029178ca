"""The gradient of a log-sum-exp, by the operator itself on the transposed cost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def lse_vjp(h: Tensor, out: Tensor, grad: Tensor, transposed: Callable[[Tensor], Tensor]) -> Tensor:
    r"""Gradient in h of ``out``, :math:`\log \sum_y e^{h(y) - C(x, y) / \varepsilon}`.

    .. math:: e^{h(y)} \sum_x \mathrm{grad}(x)\, e^{-\mathrm{out}(x) - C(x, y) / \varepsilon}

    as the difference of two sums without signs, which the operator takes in the log domain.
    """
    zero = torch.zeros_like(out)
    finite = torch.where(out.isfinite(), out, zero)
    parts = []
    for sign in (1, -1):
        x = (sign * grad).clamp_min(0)
        x = torch.where(out.isfinite(), x, zero).log() - finite
        parts.append(torch.exp(h + transposed(x)))
    return parts[0] - parts[1]
