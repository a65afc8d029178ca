"""What a solver may ask of a ground cost."""

from __future__ import annotations

import enum
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from unot_fast.geometry.lines import LineCost

F = TypeVar("F", bound=Callable)


def lasting(function: F) -> F:
    """For tensors that are kept: on the CPU whatever the default device, and good for autograd
    even where they are first needed in inference mode."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        with torch.inference_mode(False), torch.device("cpu"):
            return function(*args, **kwargs)

    return call


def placed(constant: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A constant on a device, copied there once: a copy from the host waits for the device."""
    key = device, dtype or constant.dtype
    if key == (constant.device, constant.dtype) or torch.compiler.is_compiling():
        return constant.to(*key)
    copies = constant.__dict__.setdefault("_copies", {})
    if key not in copies:
        copy = _copy(constant, *key)
        if type(copy) is not Tensor:  # one of a tracer's
            return copy
        copies[key] = copy
    return copies[key]


@lasting
def _copy(constant: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return constant.to(device, dtype)


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
    def cost_matrix(self, rows: Tensor | None = None) -> Tensor:
        """Dense cost, shape (prod(shape), prod(target_shape)), row-major, float64.

        ``rows``, indices of flattened source points, picks some of its rows.
        """

    @property
    @abstractmethod
    def kernel_costs(self) -> tuple[str, tuple[Tensor, ...]]:
        """Which operators take the cost, ``"separable"`` or ``"stationary"``, and as what tensors.

        Raises
        ------
        ValueError
            No operator takes it.
        """

    @abstractmethod
    def cells(self, shape: Sequence[int]) -> Coarser:
        """The geometry on ``shape`` equal blocks of points per axis, fractional at their borders.

        Of the same blocks on either side, which must have the same points.
        """

    def plan_bytes(self, dtype: torch.dtype = torch.float64) -> int:
        """Memory that one dense plan would take."""
        n, m = torch.Size(self.shape).numel(), torch.Size(self.target_shape).numel()
        return n * m * torch.empty((), dtype=dtype).element_size()


@dataclass(frozen=True)
class Coarser:
    """A geometry on cells of points, and how it hangs together with the finer one.

    Attributes
    ----------
    geom : Geometry
        Of the cells.
    pool_source, pool_target : tuple of Tensor
        Sums over cells, per axis, shape (cells, points).
    prolongation : tuple of Tensor, LineCost or Tensor
        Cost from the points of the finer target to the cells of the source: along every axis
        where it is a sum over them, otherwise between rows, or between all of them, shape
        (points, cells).
    resolved : float
        Smallest epsilon that the cells resolve, up to a factor: the cost between neighbours, of a
        distance a quarter of it.
    blur, blur_between : float
        What spreading masses evenly over the cells adds to epsilon: a plan between cells is as
        wide as the one between points where its epsilon is so much smaller; and the same of a plan
        from the cells to the finer points.
    """

    geom: Geometry
    pool_source: tuple[Tensor, ...]
    pool_target: tuple[Tensor, ...]
    prolongation: tuple[Tensor, ...] | LineCost | Tensor
    resolved: float
    blur: float = 0.0
    blur_between: float = 0.0

    def epsilon(self, epsilon: Tensor, resolution: float) -> Tensor:
        """That between cells: smaller by the blur, but at least a quarter and what they resolve."""
        own = torch.maximum(epsilon - self.blur, epsilon / 4)
        return own.clamp_min(resolution * self.resolved)

    def epsilon_between(self, epsilon: Tensor, own: Tensor) -> Tensor:
        """That from the cells, where it is ``own``, to the finer points."""
        return torch.maximum(epsilon - self.blur_between, own)
