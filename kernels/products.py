"""Matrix products of tiles in a chosen precision, and what tiles are made of."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

if triton.knobs.runtime.interpret:
    from unot_fast.kernels.interpreter import allow_loop_bounds, multiply_bfloat16

    allow_loop_bounds()
    multiply_bfloat16()

_PRECISIONS = {"highest": "tf32x3", "high": "tf32", "medium": "bf16"}


def precision() -> str:
    """How float32 tiles are multiplied, after ``torch.set_float32_matmul_precision``.

    By three tf32 products (``highest``, the default; rounding errors as in float32), by one
    (``high``; factors are rounded to 11 bits) or as bfloat16 (``medium``; 8 bits). Sums are float32
    always.
    """
    try:
        return _PRECISIONS[torch.get_float32_matmul_precision()]
    except RuntimeError:  # it was set by torch's newer switches
        return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


def padded(n: int, least: int = 16) -> int:
    """Length of a tile that holds ``n`` entries."""
    return max(least, triton.next_power_of_2(n))


def programs(x: Tensor, work: int, per_multiprocessor: int) -> int:
    """How many programs share ``work`` items, each a stretch of them."""
    units = 2  # in the interpreter, whose programs run one after the other
    if x.is_cuda:
        units = torch.cuda.get_device_properties(x.device).multi_processor_count
    return max(1, min(work, units * per_multiprocessor))


def expect_single(operator: str, x: Tensor) -> None:
    if x.dtype is not torch.float32:
        raise TypeError(f"{operator}: backend 'triton' computes in float32; got {x.dtype}")


@triton.jit
def parts(columns: tl.constexpr):
    """Of so many complex numbers side by side: index, part (0 real, 1 imaginary), and its sign."""
    place = tl.arange(0, 2 * columns)
    return place // 2, place % 2, (1 - 2 * (place % 2)).to(tl.float32)


@triton.jit
def _rounded_to_tf32(x):
    nearest = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
    return tl.where(x == x, nearest.to(tl.float32, bitcast=True), x)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b, for tiles in registers."""
    if PRECISION == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)
    elif PRECISION == "tf32":  # whose multipliers cut off what they do not hold
        return tl.dot(_rounded_to_tf32(a), _rounded_to_tf32(b), acc, input_precision="tf32")
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def add_product(
    acc, a, a_row, a_column, rows, depth, b, b_row, b_column, columns, M: tl.constexpr,
    N: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc + a b, for a (rows, depth) and b (depth, columns) in memory with these strides."""
    row, column, step = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, DEPTH)
    for start in range(0, depth, DEPTH):
        k = start + step
        at = a + row * a_row + k[None, :] * a_column
        u = tl.load(at, mask=(row < rows) & (k < depth)[None, :], other=0.0)
        at = b + k[:, None] * b_row + column * b_column
        v = tl.load(at, mask=(k < depth)[:, None] & (column < columns), other=0.0)
        acc = dot(u, v, acc, PRECISION)
    return acc
