"""The boundary between the library and its kernels: one file per operator."""

from unot_fast.ops.backends import Backend, backends, resolve
from unot_fast.ops.c_transform import Minimum, c_transform
from unot_fast.ops.channel_mlp import channel_mlp
from unot_fast.ops.legendre_products import legendre_products
from unot_fast.ops.normalise import Normalised, normalise
from unot_fast.ops.potential import potential, potential_gradient
from unot_fast.ops.separable_lse import separable_lse
from unot_fast.ops.sinkhorn_multiscale import sinkhorn_multiscale
from unot_fast.ops.sinkhorn_separable import Solution, sinkhorn_separable
from unot_fast.ops.sinkhorn_stationary import sinkhorn_stationary
from unot_fast.ops.spectral_analysis import spectral_analysis
from unot_fast.ops.spectral_mixing import spectral_mixing
from unot_fast.ops.spectral_synthesis import spectral_synthesis
from unot_fast.ops.stationary_lse import stationary_lse

__all__ = [
    "Backend",
    "Minimum",
    "Normalised",
    "Solution",
    "backends",
    "c_transform",
    "channel_mlp",
    "legendre_products",
    "normalise",
    "potential",
    "potential_gradient",
    "resolve",
    "separable_lse",
    "sinkhorn_multiscale",
    "sinkhorn_separable",
    "sinkhorn_stationary",
    "spectral_analysis",
    "spectral_mixing",
    "spectral_synthesis",
    "stationary_lse",
]
