"""Steps of one length along the gradient: the published iteration, and the best of its kind."""

from __future__ import annotations

import torch
from torch import Tensor


class FixedStep:
    """y <- y - step f, which converges where ``step`` is below 2 / (greatest curvature of u).

    With ``step`` = 0.1 / (greatest curvature of g) it is the iteration of Park et al. (2026);
    2 / (least + greatest curvature of u) contracts most.
    """

    def __init__(self, step: float) -> None:
        self.step = step

    def propose(self, y: Tensor, f: Tensor) -> Tensor:
        return y - self.step * f

    def learn(
        self, y: Tensor, f: Tensor, trial: Tensor, g: Tensor, uphill: Tensor | None = None
    ) -> Tensor:
        return torch.ones(len(y), dtype=torch.bool, device=y.device)

    def keep(self, rows: Tensor) -> None:
        pass
