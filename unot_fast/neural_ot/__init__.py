"""Transport maps between samples, learned as one potential."""

from unot_fast.neural_ot.solver import NeuralOT

__all__ = ["NeuralOT"]
