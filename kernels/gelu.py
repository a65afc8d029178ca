"""GELU with the exact normal distribution function: gelu(x) = x Phi(x)."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normal_cdf(x):
    return 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)


@triton.jit
def gelu_and_slope(x):
    cdf = normal_cdf(x)
    return x * cdf, cdf + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def gelu_slope(x):
    _, slope = gelu_and_slope(x)
    return slope
