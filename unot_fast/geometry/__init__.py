"""Spaces and costs."""

from unot_fast.geometry.base import Geometry, Structure
from unot_fast.geometry.grid import Grid

__all__ = ["Geometry", "Grid", "Structure"]
