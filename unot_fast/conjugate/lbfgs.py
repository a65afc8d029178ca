"""Limited-memory quasi-Newton steps with a line search on slopes."""

from __future__ import annotations

import torch
from torch import Tensor


class LBFGS:
    """What `unot_fast.ops.c_transform` does in one call, for any potential and device.

    A trial is taken where the slope along the step has not turned upwards by more than half of
    what it was, and where values are looked at has not led uphill; else the step is cut where a
    line through both slopes is zero. Taken or not, a trial teaches the curvature. For a strongly
    convex u no start is too far.

    Parameters
    ----------
    memory : int
        Steps that are remembered.
    preconditioner : Tensor, shape (d, d), optional
        About the inverse of the Hessian of u; the identity if None.
    """

    def __init__(self, memory: int, preconditioner: Tensor | None = None) -> None:
        self.memory, self.preconditioner = memory, preconditioner
        # Of every pair: step, change of the gradient, 1 / (step . change) or 0.
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self.scale: Tensor | None = None
        self.step = self.slope = self.length = self.anew = None

    def propose(self, y: Tensor, f: Tensor) -> Tensor:
        if self.scale is None:
            self.scale, self.slope, self.length = (torch.ones_like(y[:, :1]) for _ in range(3))
            self.anew, self.step = self.length > 0, torch.zeros_like(y)
        direction = self._direction(f)
        along = _dot(direction, f)
        descends = (along > 0) & along.isfinite()
        direction = torch.where(descends, direction, self.scale * f)
        along = torch.where(descends, along, self.scale * _dot(f, f))
        self.step = torch.where(self.anew, -direction, self.step)
        self.slope = torch.where(self.anew, along, self.slope)
        self.length = torch.where(self.anew, 1.0, self.length)
        return y + self.length * self.step

    def learn(
        self, y: Tensor, f: Tensor, trial: Tensor, g: Tensor, uphill: Tensor | None = None
    ) -> Tensor:
        step, change = trial - y, g - f
        both, turned = _dot(step, change), _dot(change, self._precondition(change))
        known = (both > 1e-12 * _dot(step, step)) & turned.isfinite() & (turned > 0)
        pair = (step, change, 1 / both)
        self.pairs = [*self.pairs, tuple(torch.where(known, x, 0.0) for x in pair)]
        self.pairs = self.pairs[-self.memory :]
        self.scale = torch.where(known, both / turned, self.scale)
        ahead = _dot(g, self.step)
        self.anew = ahead <= 0.5 * self.slope
        if uphill is not None:
            self.anew = self.anew & ~uphill[:, None]
        cut = self.length * (self.slope / (self.slope + ahead)).nan_to_num(0.0).clamp(0.05, 0.7)
        self.length = torch.where(self.anew, self.length, cut)
        return self.anew[:, 0]

    def keep(self, rows: Tensor) -> None:
        self.pairs = [tuple(x[rows] for x in pair) for pair in self.pairs]
        if self.scale is not None:
            self.scale, self.slope, self.length = (
                x[rows] for x in (self.scale, self.slope, self.length)
            )
            self.step, self.anew = self.step[rows], self.anew[rows]

    def _precondition(self, x: Tensor) -> Tensor:
        return x if self.preconditioner is None else x @ self.preconditioner

    def _direction(self, f: Tensor) -> Tensor:
        q, weights = f, []
        for step, change, inverse in reversed(self.pairs):
            weights.append(inverse * _dot(step, q))
            q = q - weights[-1] * change
        q = self.scale * self._precondition(q)
        for (step, change, inverse), weight in zip(self.pairs, reversed(weights), strict=True):
            q = q + (weight - inverse * _dot(change, q)) * step
        return q


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)
