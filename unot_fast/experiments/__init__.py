"""The experiments of the literature on learned transport maps, and their measures."""

from unot_fast.experiments.gaussians import GaussianPair
from unot_fast.experiments.metrics import cosine, l2_uvp
from unot_fast.experiments.runs import Outcome, fit_pair, gaussian_pair, judge, table
from unot_fast.experiments.toys import TOYS
from unot_fast.experiments.w2_benchmark import W2Benchmark

__all__ = [
    "TOYS",
    "GaussianPair",
    "Outcome",
    "W2Benchmark",
    "cosine",
    "fit_pair",
    "gaussian_pair",
    "judge",
    "l2_uvp",
    "table",
]
