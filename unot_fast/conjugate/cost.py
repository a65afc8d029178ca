"""Costs other than half the squared distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Cost(Protocol):
    """A function of x - z, strictly convex and smooth, least at 0: what is asked of a cost."""

    def value(self, x: Tensor, z: Tensor) -> Tensor:
        """c, shape (B,)."""

    def gradient(self, x: Tensor, z: Tensor) -> Tensor:
        """That of c in ``x``, shape (B, d)."""

    def transport(self, x: Tensor, slope: Tensor) -> Tensor:
        """The z at which the gradient of c in ``x`` is -``slope``, the gradient of g there."""


@dataclass(frozen=True)
class PowerCost:
    r"""The cost :math:`\tfrac1p |x - z|^p`, p > 1.

    With the potential g of the source the optimal map solves
    :math:`\nabla_x c(x, T(x)) = -\nabla g(x)`:

    .. math:: T(x) = x + |\nabla g(x)|^{q - 2} \nabla g(x), \qquad \tfrac1p + \tfrac1q = 1

    Another cost that is a function of x - z, strictly convex and smooth, takes a class with these
    three methods and no more. Potentials are then those of a free `NeuralPotential`: what is convex
    for p = 2 has no such meaning, and a search may end in one of several minima.

    Parameters
    ----------
    p : float
        2 is half the squared distance.
    """

    p: float

    def __post_init__(self) -> None:
        if not self.p > 1:
            raise ValueError(f"p must be greater than 1; got {self.p}")

    def value(self, x: Tensor, z: Tensor) -> Tensor:
        """c, shape (B,)."""
        return (x - z).norm(dim=1) ** self.p / self.p

    def gradient(self, x: Tensor, z: Tensor) -> Tensor:
        """That of c in ``x``, shape (B, d)."""
        return _power(x - z, self.p - 1)

    def transport(self, x: Tensor, slope: Tensor) -> Tensor:
        """T(x), from the gradient of g at ``x``."""
        return x + _power(slope, 1 / (self.p - 1))


def _power(v: Tensor, exponent: float) -> Tensor:
    """A vector along ``v`` of length |v|^exponent; 0 at 0."""
    length = v.norm(dim=1, keepdim=True)
    smallest = torch.finfo(v.dtype).tiny
    return torch.where(length > 0, v * length.clamp_min(smallest) ** (exponent - 1), 0.0)
