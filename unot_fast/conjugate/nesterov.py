"""Gradient steps with momentum."""

from __future__ import annotations

import torch
from torch import Tensor


class Nesterov:
    """Nesterov's method for a strongly convex u, its momentum lost where it points uphill.

    Parameters
    ----------
    least, greatest : float
        Bounds on the curvature of u.

    References
    ----------
    O'Donoghue and Candes, "Adaptive restart for accelerated gradient schemes", 2015.
    """

    def __init__(self, least: float, greatest: float) -> None:
        root = (least / greatest) ** 0.5
        self.step, self.momentum = 1 / greatest, (1 - root) / (1 + root)
        self.before: Tensor | None = None  # the last step's end, before momentum

    def propose(self, y: Tensor, f: Tensor) -> Tensor:
        end = y - self.step * f
        before = end if self.before is None else self.before
        ahead = end - before
        uphill = (f * ahead).sum(1, keepdim=True) > 0
        self.before = end
        return torch.where(uphill, end, end + self.momentum * ahead)

    def learn(
        self, y: Tensor, f: Tensor, trial: Tensor, g: Tensor, uphill: Tensor | None = None
    ) -> Tensor:
        return torch.ones(len(y), dtype=torch.bool, device=y.device)

    def keep(self, rows: Tensor) -> None:
        if self.before is not None:
            self.before = self.before[rows]
