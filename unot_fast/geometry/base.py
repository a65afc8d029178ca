"""What a solver may ask of a ground cost."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Structure(enum.Enum):
    """How a cost factors, which decides how a solve runs."""

    SEPARABLE = "separable"  # a sum of costs along the axes
    STATIONARY = "stationary"  # a function of the displacement
    SPHERICAL = "spherical"  # a function of two latitudes and a difference of longitudes
    DENSE = "dense"  # a matrix


class Geometry(ABC):
    """A source space, a target space and a cost between them.

    Attributes
    ----------
    shape, target_shape : tuple of int
        Shapes of a measure on either side.
    structure : Structure
    max_cost : float
        Largest cost between any two points.
    """

    shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    structure: Structure
    max_cost: float

    @abstractmethod
    def points(self, side: str = "source") -> Tensor:
        """Coordinates of all points, shape (\\*shape, dim), float64."""

    @abstractmethod
    def cost_matrix(self) -> Tensor:
        """Dense cost, shape (prod(shape), prod(target_shape)), row-major, float64."""

    @property
    @abstractmethod
    def kernel_costs(self) -> tuple[str, tuple[Tensor, ...]]:
        """Which operators take the cost, ``"separable"`` or ``"stationary"``, and as what tensors.

        Raises
        ------
        ValueError
            No operator takes it.
        """

    def plan_bytes(self, dtype: torch.dtype = torch.float64) -> int:
        """Memory that one dense plan would take."""
        n, m = torch.Size(self.shape).numel(), torch.Size(self.target_shape).numel()
        return n * m * torch.empty((), dtype=dtype).element_size()
