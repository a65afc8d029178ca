"""A cost in other units of length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unot_fast.conjugate.cost import Cost, PowerCost


@dataclass(frozen=True)
class ScaledCost:
    """c(scale x, scale z) / unit, of points that were divided by ``scale``."""

    cost: Cost
    scale: float
    unit: float

    def value(self, x: Tensor, z: Tensor) -> Tensor:
        return self.cost.value(self.scale * x, self.scale * z) / self.unit

    def gradient(self, x: Tensor, z: Tensor) -> Tensor:
        return self.cost.gradient(self.scale * x, self.scale * z) * (self.scale / self.unit)

    def transport(self, x: Tensor, slope: Tensor) -> Tensor:
        return self.cost.transport(self.scale * x, slope * (self.unit / self.scale)) / self.scale


def described(cost: Cost | None) -> float | str | None:
    """What a file says of a cost, in whatever units: its power, or its name."""
    if isinstance(cost, ScaledCost):
        return described(cost.cost)
    if isinstance(cost, PowerCost):
        return float(cost.p)
    return None if cost is None else type(cost).__name__


def in_units(cost: Cost, scale: float, dim: int) -> tuple[Cost, float]:
    """The cost of points that were divided by ``scale``, and what its values are to be taken times.

    It grows as |x - z| does where that is 1, whatever the cost and the scale.
    """
    if isinstance(cost, PowerCost):
        return cost, scale**cost.p
    x = torch.full((1, dim), scale * dim**-0.5, device="cpu")
    unit = scale * float(cost.gradient(x, torch.zeros_like(x)).norm())
    if not 0 < unit < float("inf"):
        raise ValueError(
            f"cost must grow with the distance; its slope at {scale:.3g} is not usable"
        )
    return ScaledCost(cost, scale, unit), unit
