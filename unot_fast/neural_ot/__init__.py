"""Transport maps between samples, learned as one potential."""

from unot_fast.neural_ot.discrepancy import by_class, energy_distance, mmd, sliced_w2
from unot_fast.neural_ot.linear_map import gaussian_map, symmetric_power
from unot_fast.neural_ot.solver import NeuralOT

__all__ = [
    "NeuralOT",
    "by_class",
    "energy_distance",
    "gaussian_map",
    "mmd",
    "sliced_w2",
    "symmetric_power",
]
