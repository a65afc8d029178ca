"""The experiments of the literature on learned transport maps, and their measures."""

from unot_fast.experiments.classifier import fit_classifier
from unot_fast.experiments.gaussians import GaussianPair
from unot_fast.experiments.metrics import cosine, frechet_distance, l2_uvp
from unot_fast.experiments.runs import Outcome, fit_pair, fit_table, gaussian_pair, judge, table
from unot_fast.experiments.tables import SETS, Table, load_table
from unot_fast.experiments.toys import TOYS
from unot_fast.experiments.translation import (
    Labelled,
    Quality,
    Translator,
    fit_translator,
    judge_translator,
)
from unot_fast.experiments.w2_benchmark import W2Benchmark

__all__ = [
    "SETS",
    "TOYS",
    "GaussianPair",
    "Labelled",
    "Outcome",
    "Quality",
    "Table",
    "Translator",
    "W2Benchmark",
    "cosine",
    "fit_classifier",
    "fit_pair",
    "fit_table",
    "fit_translator",
    "frechet_distance",
    "gaussian_pair",
    "judge",
    "judge_translator",
    "l2_uvp",
    "load_table",
    "table",
]
