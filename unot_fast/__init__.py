"""Exact and learned optimal transport on grids, fast on any machine."""

from unot_fast._version import __version__
from unot_fast.geometry import Geometry, Grid, Sphere
from unot_fast.ops import backends
from unot_fast.solver import OTResult, Pyramid, sinkhorn

__all__ = [
    "Geometry",
    "Grid",
    "OTResult",
    "Pyramid",
    "Sphere",
    "__version__",
    "backends",
    "sinkhorn",
]
