"""The experiments of the literature on learned transport maps, and their measures."""

from unot_fast.experiments.gaussians import GaussianPair
from unot_fast.experiments.metrics import cosine, l2_uvp
from unot_fast.experiments.runs import Outcome, fit_pair, fit_table, gaussian_pair, judge, table
from unot_fast.experiments.tables import SETS, Table, load_table
from unot_fast.experiments.toys import TOYS
from unot_fast.experiments.w2_benchmark import W2Benchmark

__all__ = [
    "SETS",
    "TOYS",
    "GaussianPair",
    "Outcome",
    "Table",
    "W2Benchmark",
    "cosine",
    "fit_pair",
    "fit_table",
    "gaussian_pair",
    "judge",
    "l2_uvp",
    "load_table",
    "table",
]
