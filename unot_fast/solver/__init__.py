"""Solving entropic transport problems."""

from unot_fast.solver.multiscale import Pyramid
from unot_fast.solver.result import OTResult
from unot_fast.solver.sinkhorn import sinkhorn

__all__ = ["OTResult", "Pyramid", "sinkhorn"]
