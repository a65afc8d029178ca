"""The published evaluation of learned starts: data, protocol, tables and figures."""

from unot_fast.evaluation.datasets import CELLS, Cell, measures, pairs, spherical_measures
from unot_fast.evaluation.images import load_images

__all__ = [
    "CELLS",
    "Cell",
    "load_images",
    "measures",
    "pairs",
    "spherical_measures",
]
