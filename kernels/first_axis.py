"""The transform along the first of two axes, for coefficients of the last."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unot_fast.kernels.products import dot, padded, parts, precision


def to_modes(lines: Tensor, table: Tensor) -> Tensor:
    """Lines (B, C, n, 2, k) to coefficients (B, C, 2, m, k), by a table (m, n, 2)."""
    batch, channels, _, _, columns = lines.shape
    m = table.shape[0]
    c = lines.new_empty(batch, channels, 2, m, columns)
    return _launch(lines, 2 * columns, columns, table, c, columns, m * columns)


def to_lines(c: Tensor, table: Tensor) -> Tensor:
    """Coefficients (B, C, 2, m, k) to lines (B, C, n, 2, k), by a table (n, m, 2)."""
    batch, channels, _, m, columns = c.shape
    lines = c.new_empty(batch, channels, table.shape[0], 2, columns)
    return _launch(c, columns, m * columns, table, lines, 2 * columns, columns)


def _launch(
    x: Tensor, x_row: int, x_part: int, table: Tensor, out: Tensor, out_row: int, out_part: int
) -> Tensor:
    (m, n), columns = table.shape[:2], x.shape[-1]
    images = x.shape[0] * x.shape[1]
    if not out.numel():
        return out
    rows, cols = min(padded(m, 8), 32), min(padded(columns), 32)
    with torch.cuda.device_of(x):
        _first_axis_kernel[(images, triton.cdiv(m, rows), triton.cdiv(columns, cols))](
            x, x_row, x_part, table, out, out_row, out_part, m, n, columns, M=rows,
            DEPTH=min(padded(n, 8), 16), COLS=cols, PRECISION=precision(), num_warps=4,
            num_stages=1,
        )  # fmt: skip
    return out


@triton.jit
def _first_axis_kernel(
    x, x_row, x_part, table, out, out_row, out_part, m, n, columns, M: tl.constexpr,
    DEPTH: tl.constexpr, COLS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    column = (tl.program_id(2) * COLS + tl.arange(0, COLS))[None, :]
    x += image * 2 * n * columns + column
    out += image * 2 * m * columns + column
    acc = tl.zeros((2 * M, COLS), tl.float32)
    for start in range(0, n, DEPTH):
        j, part, _ = parts(DEPTH)
        j += start
        at = x + (j * x_row + part * x_part)[:, None]
        value = tl.load(at, mask=(j < n)[:, None] & (column < columns), other=0.0)
        acc = add_first_axis(
            acc, table, tl.program_id(1) * M, start, m, n, value, M, DEPTH, PRECISION
        )
    k, part, _ = parts(M)
    k += tl.program_id(1) * M
    at = out + (k * out_row + part * out_part)[:, None]
    tl.store(at, acc, mask=(k < m)[:, None] & (column < columns))


@triton.jit
def add_first_axis(
    acc, table, row, start, m, n, value, M: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the product of a table (m, n, 2), from (row, start) on, and complex numbers (2 DEPTH, .).

    Real and imaginary parts alternate along the first axis, and the table stands as the real matrix
    (re, -im; im, re) of each entry.
    """
    k, part, _ = parts(M)
    j, other, _ = parts(DEPTH)
    k, j = (row + k)[:, None], (start + j)[None, :]
    part, other = part[:, None], other[None, :]
    at = table + (k * n + j) * 2 + (part != other)
    entry = tl.load(at, mask=(k < m) & (j < n), other=0.0)
    return dot(tl.where(part < other, -entry, entry), value, acc, PRECISION)
