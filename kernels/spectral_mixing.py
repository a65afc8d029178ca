"""Linear maps of channels, one complex matrix for each mode.

Modes are the fastest index of coefficients and weights alike, so a program takes a few modes at a
time, the width of a memory transaction, and multiplies a stack of matrices.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unot_fast.kernels.gelu import normal_cdf
from unot_fast.kernels.products import dot, expect_single, padded, precision

_MODES = 4


def spectral_mixing(c: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """See `unot_fast.ops.spectral_mixing`; float32."""
    expect_single("spectral_mixing", c)
    weight = weight.contiguous()
    i, o = weight.shape[:2]
    return _mix(c.contiguous(), weight, i, o, adjoint=False, bias=bias, gelu=gelu)


def spectral_mixing_vjp(
    grad: Tensor, c: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool, weights: bool
) -> tuple[Tensor, Tensor, Tensor]:
    expect_single("spectral_mixing", c)
    grad, c, weight = grad.contiguous(), c.contiguous(), weight.contiguous()
    i, o = weight.shape[:2]
    if gelu:
        z = _mix(c, weight, i, o, adjoint=False, bias=bias, gelu=False)
        grad = torch.ops.aten.gelu_backward(grad, z)
    dc = _mix(grad, weight, o, i, adjoint=True)
    none = grad.new_empty(0)
    if not weights:
        return dc, none, none
    dbias = none if bias is None else grad.sum(0).movedim(1, -1)
    return dc, _weight_gradient(c, grad, weight), dbias


def _mix(
    c: Tensor, weight: Tensor, q: int, p: int, *, adjoint: bool, bias: Tensor | None = None,
    gelu: bool = False,
) -> Tensor:  # fmt: skip
    batch, modes = c.shape[0], c[0, 0, 0].numel() if c.numel() else 0
    out = c.new_empty(batch, p, *c.shape[2:])
    if not out.numel():
        return out
    o = weight.shape[1]
    stride_q, stride_p = (1, o) if adjoint else (o, 1)
    samples, outputs = min(padded(batch), 32), min(padded(p), 32)
    grid = triton.cdiv(modes, _MODES), triton.cdiv(p, outputs), triton.cdiv(batch, samples)
    with torch.cuda.device_of(c):
        _mixing_kernel[grid](
            c, weight, None if bias is None else bias.contiguous(), out, batch, q, p, modes,
            stride_q, stride_p, ADJOINT=adjoint, GELU=gelu, MODES=_MODES, SAMPLES=samples, IN=16,
            OUT=outputs, PRECISION=precision(), num_warps=4, num_stages=1,
        )  # fmt: skip
    return out


def _weight_gradient(c: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    out = torch.empty_like(weight)
    (q, p), batch = weight.shape[:2], c.shape[0]
    modes = weight.numel() // (2 * q * p) if weight.numel() else 0
    if not out.numel() or not batch:
        return out.zero_()
    tile_q, tile_p = 16, min(padded(p), 32)
    grid = triton.cdiv(modes, _MODES), triton.cdiv(q, tile_q), triton.cdiv(p, tile_p)
    with torch.cuda.device_of(c):
        _weight_kernel[grid](
            c, grad, out, batch, q, p, modes, MODES=_MODES, SAMPLES=16, IN=tile_q, OUT=tile_p,
            PRECISION=precision(), num_warps=4, num_stages=1,
        )  # fmt: skip
    return out


@triton.jit
def _mixing_kernel(
    c, weight, bias, out, batch, q, p, modes, stride_q, stride_p, ADJOINT: tl.constexpr,
    GELU: tl.constexpr, MODES: tl.constexpr, SAMPLES: tl.constexpr, IN: tl.constexpr,
    OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out(b, p) = sum_q w(q, p) c(b, q), or with the conjugate of w."""
    k = (tl.program_id(0) * MODES + tl.arange(0, MODES))[:, None, None]
    column = (tl.program_id(1) * OUT + tl.arange(0, OUT))[None, None, :]
    sample = (tl.program_id(2) * SAMPLES + tl.arange(0, SAMPLES))[None, :, None].to(tl.int64)
    re = tl.zeros((MODES, SAMPLES, OUT), tl.float32)
    im = tl.zeros((MODES, SAMPLES, OUT), tl.float32)
    for start in range(0, q, IN):
        depth = start + tl.arange(0, IN)
        across, down = depth[None, None, :], depth[None, :, None]
        inside = (k < modes) & (sample < batch) & (across < q)
        at = c + (sample * q + across) * 2 * modes + k
        u = tl.load(at, mask=inside, other=0.0)
        v = tl.load(at + modes, mask=inside, other=0.0)
        inside = (k < modes) & (down < q) & (column < p)
        at = weight + ((down * stride_q + column * stride_p).to(tl.int64) * modes + k) * 2
        w_re = tl.load(at, mask=inside, other=0.0)
        w_im = tl.load(at + 1, mask=inside, other=0.0)
        if ADJOINT:
            w_im = -w_im
        re = dot(u, w_re, re, PRECISION)
        re = dot(-v, w_im, re, PRECISION)
        im = dot(u, w_im, im, PRECISION)
        im = dot(v, w_re, im, PRECISION)
    if bias is not None:
        at, inside = bias + (column * modes + k) * 2, (k < modes) & (column < p)
        re += tl.load(at, mask=inside, other=0.0)
        im += tl.load(at + 1, mask=inside, other=0.0)
    if GELU:
        re *= normal_cdf(re)
        im *= normal_cdf(im)
    at = out + (sample * p + column) * 2 * modes + k
    inside = (k < modes) & (sample < batch) & (column < p)
    tl.store(at, re, mask=inside)
    tl.store(at + modes, im, mask=inside)


@triton.jit
def _weight_kernel(
    c, grad, out, batch, q, p, modes, MODES: tl.constexpr, SAMPLES: tl.constexpr,
    IN: tl.constexpr, OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dw(q, p) = sum_b conj(c(b, q)) grad(b, p)."""
    k = (tl.program_id(0) * MODES + tl.arange(0, MODES))[:, None, None]
    row = (tl.program_id(1) * IN + tl.arange(0, IN))[None, :, None]
    column = (tl.program_id(2) * OUT + tl.arange(0, OUT))[None, None, :]
    re = tl.zeros((MODES, IN, OUT), tl.float32)
    im = tl.zeros((MODES, IN, OUT), tl.float32)
    for start in range(0, batch, SAMPLES):
        sample = (start + tl.arange(0, SAMPLES)).to(tl.int64)
        across, down = sample[None, None, :], sample[None, :, None]
        inside = (k < modes) & (across < batch) & (row < q)
        at = c + (across * q + row) * 2 * modes + k
        u = tl.load(at, mask=inside, other=0.0)
        v = tl.load(at + modes, mask=inside, other=0.0)
        inside = (k < modes) & (down < batch) & (column < p)
        at = grad + (down * p + column) * 2 * modes + k
        g_re = tl.load(at, mask=inside, other=0.0)
        g_im = tl.load(at + modes, mask=inside, other=0.0)
        re = dot(u, g_re, re, PRECISION)
        re = dot(v, g_im, re, PRECISION)
        im = dot(u, g_im, im, PRECISION)
        im = dot(-v, g_re, im, PRECISION)
    at = out + ((row * p + column).to(tl.int64) * modes + k) * 2
    inside = (k < modes) & (row < q) & (column < p)
    tl.store(at, re, mask=inside)
    tl.store(at + 1, im, mask=inside)
