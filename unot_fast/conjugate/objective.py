"""What a c-transform is the minimum of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unot_fast.conjugate.cost import Cost
from unot_fast.models import Potential


@dataclass(frozen=True)
class Objective:
    """c(y, z) + g(y), for points z with their classes.

    Attributes
    ----------
    potential : Potential
        g.
    z : Tensor, shape (B, d)
    labels : Tensor, shape (B,), optional
    cost : Cost, optional
        Half the squared distance if None.
    """

    potential: Potential
    z: Tensor
    labels: Tensor | None
    cost: Cost | None

    @property
    def convex(self) -> bool:
        """Whether it is so by construction."""
        return self.cost is None and self.potential.convex

    def at(self, rows: Tensor) -> Objective:
        """That of some of the points."""
        labels = None if self.labels is None else self.labels[rows]
        return Objective(self.potential, self.z[rows], labels, self.cost)

    def value(self, y: Tensor) -> Tensor:
        if self.cost is None:
            apart = (self.z - y).square().sum(1) / 2
        else:
            apart = self.cost.value(y, self.z)
        return apart + self.potential(y, self.labels)

    def gradient(self, y: Tensor) -> Tensor:
        if self.cost is None:
            return self.potential.transport(y, self.labels) - self.z
        return self.cost.gradient(y, self.z) + self.potential.gradient(y, self.labels)
