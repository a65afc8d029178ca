"""Spaces and costs."""

from unot_fast.geometry.base import Geometry, Structure
from unot_fast.geometry.grid import Grid
from unot_fast.geometry.lines import LineCost
from unot_fast.geometry.sphere import Sphere

__all__ = ["Geometry", "Grid", "LineCost", "Sphere", "Structure"]
