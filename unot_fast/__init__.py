"""Exact and learned optimal transport on grids, fast on any machine."""

from unot_fast._version import __version__
from unot_fast.conjugate import CTransform, PowerCost, c_transform
from unot_fast.geometry import Geometry, Grid, Sphere
from unot_fast.models import UNOT, NeuralPotential, Potential
from unot_fast.neural_ot import NeuralOT
from unot_fast.ops import backends
from unot_fast.solver import OTResult, Pyramid, sinkhorn
from unot_fast.solver.starts import register_start
from unot_fast.spectral import (
    Acceleration,
    accelerate,
    restore,
    spectral_backend,
    spectral_conv1d,
    spectral_conv2d,
    spectral_conv3d,
    spectral_conv_s2,
)

register_start("unot", "unot_fast.models.start:unot_start")

__all__ = [
    "UNOT",
    "Acceleration",
    "CTransform",
    "Geometry",
    "Grid",
    "NeuralOT",
    "NeuralPotential",
    "OTResult",
    "Potential",
    "PowerCost",
    "Pyramid",
    "Sphere",
    "__version__",
    "accelerate",
    "backends",
    "c_transform",
    "restore",
    "sinkhorn",
    "spectral_backend",
    "spectral_conv1d",
    "spectral_conv2d",
    "spectral_conv3d",
    "spectral_conv_s2",
]
