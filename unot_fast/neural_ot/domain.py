"""Where the source lives, and a wall around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unot_fast.conjugate import Cost
from unot_fast.models import Potential

_MARGIN = 1.25  # radius of the ball over that of the points
_STIFFNESS = 10.0
_POINTS = 256  # that searches may begin at
_PAIRS = 2**20  # that are looked at in one go


class Domain(nn.Module):
    r"""A ball that holds the source with a margin, and some of the source's points.

    A transport asks for the minimum of c(y, z) + g(y) over the source only, and for other costs
    than the quadratic one there may be no other: a network may fall like a quadratic, and a cost of
    a lower power does not hold it. Outside the ball there is

    .. math:: k (|x - m| - R)^3 / 3 R,

    convex, twice differentiable and of faster growth than either. Inside it is 0, so that the dual
    is what it was. Of several minima the one is looked for that is near the best of the points.

    Before `measure` the ball is all space.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("radius", torch.full((), torch.inf))
        self.register_buffer("points", torch.zeros(_POINTS, dim))

    def measure(self, x: Tensor) -> None:
        """Take the ball and the points from those of the source."""
        self.centre.copy_(x.mean(0))
        self.radius.copy_(_MARGIN * (x - self.centre).norm(dim=1).max())
        if not self.radius > 1e-6 * (1 + x.norm(dim=1).max()):
            raise ValueError("source has no spread: all its points are one")
        self.points.copy_(x[torch.arange(_POINTS, device=x.device) * len(x) // _POINTS])

    def wall(self, x: Tensor) -> Tensor:
        """Its height, shape (B,)."""
        return _STIFFNESS * self._beyond(x) ** 3 / (3 * self.radius)

    def slope(self, x: Tensor) -> Tensor:
        """The gradient of `wall`, shape (B, d)."""
        apart, beyond = x - self.centre, self._beyond(x)
        length = apart.norm(dim=1).clamp_min(self.radius)
        return (_STIFFNESS * beyond.square() / (self.radius * length))[:, None] * apart

    def starts(self, potential: Potential, cost: Cost, z: Tensor, labels: Tensor | None) -> Tensor:
        """The point of the source at which c(x, z) + g(x) is least, for every z."""
        if not self.radius.isfinite():
            return z
        classes, count = potential.classes, len(self.points)
        kinds = None if labels is None else torch.arange(classes, device=z.device)
        g = potential(
            self.points.to(z).repeat(classes, 1),
            None if kinds is None else kinds.repeat_interleave(count),
        ).view(classes, count)
        found = []
        for first in range(0, len(z), _PAIRS // count):
            some = z[first : first + _PAIRS // count]
            own = g if labels is None else g[labels[first : first + len(some)]]
            apart = cost.value(
                self.points.to(z).repeat(len(some), 1), some.repeat_interleave(count, 0)
            )
            found.append((apart.view(len(some), count) + own).argmin(1))
        return self.points.to(z)[torch.cat(found)] if found else z

    def _beyond(self, x: Tensor) -> Tensor:
        return ((x - self.centre).norm(dim=1) - self.radius).clamp_min(0)


class Confined(Potential):
    """A potential with the wall of a domain."""

    def __init__(self, potential: Potential, domain: Domain) -> None:
        super().__init__(potential.dim, potential.classes)
        self.potential, self.domain = potential, domain

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.potential(x, labels) + self.domain.wall(x)

    def gradient(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.potential.gradient(x, labels) + self.domain.slope(x)
