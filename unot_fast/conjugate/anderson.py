"""Fixed-point steps that are mixed so that their residual is least."""

from __future__ import annotations

import torch
from torch import Tensor


class Anderson:
    """Anderson's mixing of the iteration y <- y - step f.

    Parameters
    ----------
    step : float
    memory : int
        Differences that are mixed.

    References
    ----------
    Walker and Ni, "Anderson acceleration for fixed-point iterations", 2011, in the form of
    differences.
    """

    def __init__(self, step: float, memory: int) -> None:
        self.step, self.memory = step, memory
        self.steps: list[Tensor] = []
        self.changes: list[Tensor] = []

    def propose(self, y: Tensor, f: Tensor) -> Tensor:
        plain = y - self.step * f
        if not self.steps:
            return plain
        s, c = torch.stack(self.steps, 2), torch.stack(self.changes, 2)  # (B, d, differences)
        gram = c.mT @ c
        damping = 1e-7 * gram.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-30)
        gram = gram + damping[:, None, None] * torch.eye(gram.shape[1], device=gram.device).to(gram)
        mix = torch.linalg.solve(gram, c.mT @ f[..., None])
        return plain - ((s - self.step * c) @ mix)[..., 0]

    def learn(
        self, y: Tensor, f: Tensor, trial: Tensor, g: Tensor, uphill: Tensor | None = None
    ) -> Tensor:
        self.steps = [*self.steps, trial - y][-self.memory :]
        self.changes = [*self.changes, g - f][-self.memory :]
        return torch.ones(len(y), dtype=torch.bool, device=y.device)

    def keep(self, rows: Tensor) -> None:
        self.steps = [x[rows] for x in self.steps]
        self.changes = [x[rows] for x in self.changes]
