"""Training of transport networks."""

from unot_fast.training.config import PRESETS, TrainingConfig
from unot_fast.training.graphs import Graphs
from unot_fast.training.measures import RandomMeasures
from unot_fast.training.meta_ot import train_meta_ot
from unot_fast.training.trainer import DivergedError, Row, Trainer

__all__ = [
    "PRESETS",
    "DivergedError",
    "Graphs",
    "RandomMeasures",
    "Row",
    "Trainer",
    "TrainingConfig",
    "train_meta_ot",
]
