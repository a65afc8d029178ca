"""Weights of points such that every class weighs as much on one side as on the other."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced(
    x_labels: Tensor, z_labels: Tensor, classes: int, kept: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Of the points of both sides; :math:`\sum_k w_k (\text{mean}_k\,\psi - \text{mean}_k\,\phi)`.

    A class has one weight w, the mean of its shares of both sides: with a share of its own on each
    side the constant that a class's potential is free by would make the dual unbounded. Classes
    that are absent on one side weigh nothing, and the weights of each side add up to 1.

    Parameters
    ----------
    x_labels, z_labels : Tensor, shapes (N,) and (M,), int64
        All 0 where there is one class.
    classes : int
    kept : Tensor, shape (M,), bool, optional
        Which of the target's points count; all if None.

    Returns
    -------
    tuple of Tensor, shapes (N,) and (M,), float64
    """
    kept = torch.ones_like(z_labels, dtype=torch.bool) if kept is None else kept
    first = torch.bincount(x_labels, minlength=classes).double()
    second = torch.bincount(z_labels[kept], minlength=classes).double()
    share = first / first.sum().clamp_min(1) + second / second.sum().clamp_min(1)
    share = torch.where((first > 0) & (second > 0), share, 0.0)
    share = share / share.sum().clamp_min(1e-12)
    return (share / first.clamp_min(1))[x_labels], (share / second.clamp_min(1))[z_labels] * kept


def one_class(labels: Tensor | None, x: Tensor) -> Tensor:
    """The labels, or zeros for these points where there are none."""
    return torch.zeros(len(x), dtype=torch.int64, device=x.device) if labels is None else labels
