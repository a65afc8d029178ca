"""Gradient steps whose length is read off the last one."""

from __future__ import annotations

import torch
from torch import Tensor


class BarzilaiBorwein:
    """y <- y - t f with t = |s|^2 / (s . c), s the last step and c the change of f along it.

    Fast near a minimum; from far away nothing makes it converge.

    Parameters
    ----------
    first : float
        t of the first step.

    References
    ----------
    Barzilai and Borwein, "Two-point step size gradient methods", 1988.
    """

    def __init__(self, first: float) -> None:
        self.first = first
        self.length: Tensor | None = None

    def propose(self, y: Tensor, f: Tensor) -> Tensor:
        if self.length is None:
            self.length = torch.full_like(y[:, :1], self.first)
        return y - self.length * f

    def learn(
        self, y: Tensor, f: Tensor, trial: Tensor, g: Tensor, uphill: Tensor | None = None
    ) -> Tensor:
        step, change = trial - y, g - f
        both = (step * change).sum(1, keepdim=True)
        length = step.square().sum(1, keepdim=True) / both
        self.length = torch.where((both > 0) & length.isfinite(), length, self.length)
        return torch.ones(len(y), dtype=torch.bool, device=y.device)

    def keep(self, rows: Tensor) -> None:
        if self.length is not None:
            self.length = self.length[rows]
