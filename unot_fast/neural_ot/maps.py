"""Both maps of a potential, in its own units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unot_fast.conjugate import Cost, CTransform, c_transform
from unot_fast.models import NeuralPotential, Potential
from unot_fast.neural_ot.domain import Confined, Domain
from unot_fast.neural_ot.linear_map import LinearMap


@dataclass(frozen=True)
class Maps:
    """A potential and what helps its searches.

    Attributes
    ----------
    potential : NeuralPotential
    linear : LinearMap
        Where searches of quadratic cost begin.
    domain : Domain
        Where those of other costs begin, and stay.
    cost : Cost, optional
        In the units of the potential; None for the quadratic one.
    """

    potential: NeuralPotential
    linear: LinearMap
    domain: Domain
    cost: Cost | None = None

    @property
    def whole(self) -> Potential:
        """The potential, for other costs than the quadratic one with the wall of its domain."""
        return self.potential if self.cost is None else Confined(self.potential, self.domain)

    def transport(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The forward map."""
        if self.cost is None:
            return self.potential.transport(x, labels)
        return self.cost.transport(x, self.whole.gradient(x, labels))

    def start(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Where to look for the backward map."""
        if self.cost is None:
            return self.linear.inverse(z, labels)
        with torch.no_grad():
            return self.domain.starts(self.potential, self.cost, z, labels)

    def search(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        start: Tensor | None = None,
        tol: float,
        max_iter: int,
        verify: bool = True,
    ) -> CTransform:
        """The c-transform, and in its ``y`` the backward map; from `start` if None is given."""
        labels = None if self.potential.classes == 1 else labels
        return c_transform(
            self.whole, z, labels, start=self.start(z, labels) if start is None else start,
            tol=tol, max_iter=max_iter, cost=self.cost, verify=verify,
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
