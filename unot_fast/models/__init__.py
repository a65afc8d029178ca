"""Neural operators between functions on grids, and what they are trained on."""

from unot_fast.models.config import PRESETS, UNOTConfig
from unot_fast.models.generator import Generator
from unot_fast.models.meta_ot import MetaOT
from unot_fast.models.mlp import ResidualMLP
from unot_fast.models.network import FourierNetwork
from unot_fast.models.neural_potential import NeuralPotential
from unot_fast.models.potential import Potential
from unot_fast.models.published import PublishedUNOT
from unot_fast.models.unot import UNOT

__all__ = [
    "PRESETS",
    "UNOT",
    "FourierNetwork",
    "Generator",
    "MetaOT",
    "NeuralPotential",
    "Potential",
    "PublishedUNOT",
    "ResidualMLP",
    "UNOTConfig",
]
