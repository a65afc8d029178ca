"""The boundary between the library and its kernels: one file per operator."""

from unot_fast.ops.backends import Backend, backends, resolve
from unot_fast.ops.normalise import Normalised, normalise
from unot_fast.ops.separable_lse import separable_lse
from unot_fast.ops.sinkhorn_multiscale import sinkhorn_multiscale
from unot_fast.ops.sinkhorn_separable import Solution, sinkhorn_separable
from unot_fast.ops.sinkhorn_stationary import sinkhorn_stationary
from unot_fast.ops.stationary_lse import stationary_lse

__all__ = [
    "Backend",
    "Normalised",
    "Solution",
    "backends",
    "normalise",
    "resolve",
    "separable_lse",
    "sinkhorn_multiscale",
    "sinkhorn_separable",
    "sinkhorn_stationary",
    "stationary_lse",
]
