"""The published evaluation of learned starts: data, protocol, tables and figures."""

from unot_fast.evaluation.datasets import CELLS, Cell, measures, pairs, spherical_measures
from unot_fast.evaluation.images import load_images
from unot_fast.evaluation.labels import load_labels
from unot_fast.evaluation.protocol import Evaluation, Statistics, Timing
from unot_fast.evaluation.starts import GAUSS, MULTISCALE, ONES, Start
from unot_fast.evaluation.validation import CostError

__all__ = [
    "CELLS",
    "GAUSS",
    "MULTISCALE",
    "ONES",
    "Cell",
    "CostError",
    "Evaluation",
    "Start",
    "Statistics",
    "Timing",
    "load_images",
    "load_labels",
    "measures",
    "pairs",
    "spherical_measures",
]
