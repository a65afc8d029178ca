"""Spaces and costs."""

from unot_fast.geometry.base import Coarser, Geometry, Structure
from unot_fast.geometry.grid import Grid
from unot_fast.geometry.lines import LineCost
from unot_fast.geometry.sphere import Sphere

__all__ = ["Coarser", "Geometry", "Grid", "LineCost", "Sphere", "Structure"]
