"""Both maps of a potential, in its own units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unot_fast.conjugate import CTransform, PowerCost, c_transform
from unot_fast.models import NeuralPotential
from unot_fast.neural_ot.linear_map import LinearMap


@dataclass(frozen=True)
class Maps:
    """A potential, the linear map that its searches begin with, and the cost if not quadratic."""

    potential: NeuralPotential
    linear: LinearMap
    cost: PowerCost | None = None

    def transport(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The forward map."""
        if self.cost is None:
            return self.potential.transport(x, labels)
        return self.cost.transport(x, self.potential.gradient(x, labels))

    def start(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Where to look for the backward map; of other costs nothing is known, and it is z."""
        return self.linear.inverse(z, labels) if self.cost is None else z

    def search(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        start: Tensor | None = None,
        tol: float,
        max_iter: int,
    ) -> CTransform:
        """The c-transform, and in its ``y`` the backward map; from `start` if None is given."""
        labels = None if self.potential.classes == 1 else labels
        return c_transform(
            self.potential, z, labels, start=self.start(z, labels) if start is None else start,
            tol=tol, max_iter=max_iter, cost=self.cost,
            preconditioner=self.linear.inverse_slope if self.cost is None else None,
        )  # fmt: skip

    def least_curvature(self, x: Tensor, labels: Tensor | None = None, points: int = 128) -> float:
        r"""The least eigenvalue of the Hessian of u at some of these points.

        Where it is not positive the map is not one to one. Nothing is asked of a potential that is
        convex by construction, and other costs have no such condition: nan.
        """
        if self.cost is not None:
            return float("nan")
        if self.potential.convex:
            return self.potential.strong
        few = None if labels is None else labels[:points]
        with torch.no_grad():
            return float(self.potential.curvature(x[:points], few)[0].min())
