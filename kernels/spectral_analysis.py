"""A few modes of many images, each image read once.

A program owns one image and some of its modes: blocks of rows go to modes along the last axis, and
from there into the sums over the first. Nothing between the axes is written to memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from unot_fast.kernels.first_axis import add_first_axis
from unot_fast.kernels.products import dot, expect_single, padded, parts, precision


def spectral_analysis(x: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """See `unot_fast.ops.spectral_analysis`; one or two axes, float32."""
    expect_single("spectral_analysis", x)
    x, tables = x.contiguous(), [t.contiguous() for t in tables]
    d, modes = len(tables), [t.shape[0] for t in tables]
    c = x.new_empty(*x.shape[: x.ndim - d], 2, *modes)
    if not c.numel():
        return c
    with torch.cuda.device_of(x):
        if d == 1:
            _launch_rows(x, tables[0], c)
        else:
            _launch_images(x, *tables, c)
    return c


def _launch_rows(x: Tensor, table: Tensor, c: Tensor) -> None:
    (m, n), rows = table.shape[:2], x.numel() // x.shape[-1]
    tile = min(padded(m, 8), 32)
    _lines_kernel[(triton.cdiv(rows, 64), triton.cdiv(m, tile))](
        x, table, c, rows, n, m, ROWS=64, COLS=min(padded(n), 64), MODES=tile,
        PRECISION=precision(), num_warps=4, num_stages=1,
    )  # fmt: skip


def _launch_images(x: Tensor, first: Tensor, last: Tensor, c: Tensor) -> None:
    (m1, n1), (m2, n2) = first.shape[:2], last.shape[:2]
    tile1, tile2 = min(padded(m1, 8), 32), min(padded(m2), 32)
    grid = (x.numel() // (n1 * n2), triton.cdiv(m1, tile1), triton.cdiv(m2, tile2))
    _image_kernel[grid](
        x, first, last, c, n1, n2, m1, m2, ROWS=min(padded(n1), 32), COLS=min(padded(n2), 64),
        M1=tile1, M2=tile2, PRECISION=precision(), num_warps=4, num_stages=1,
    )  # fmt: skip


@triton.jit
def _lines_kernel(
    x, table, c, rows, n, m, ROWS: tl.constexpr, COLS: tl.constexpr, MODES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    begin = tl.program_id(1) * MODES
    value = _along_rows(x, table, row, begin, rows, n, m, ROWS, COLS, MODES, PRECISION)
    k, part, _ = parts(MODES)
    k += begin
    at = c + row[:, None] * 2 * m + (part * m + k)[None, :]
    tl.store(at, value, mask=(row < rows)[:, None] & (k < m)[None, :])


@triton.jit
def _image_kernel(
    x, first, last, c, n1, n2, m1, m2, ROWS: tl.constexpr, COLS: tl.constexpr, M1: tl.constexpr,
    M2: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    begin1, begin2 = tl.program_id(1) * M1, tl.program_id(2) * M2
    x += image * n1 * n2
    acc = tl.zeros((2 * M1, M2), tl.float32)
    for start in range(0, n1, ROWS):
        row = start + tl.arange(0, ROWS)
        value = _along_rows(x, last, row, begin2, n1, n2, m2, ROWS, COLS, M2, PRECISION)
        # Parts go from the last axis to the first.
        value = tl.permute(tl.reshape(value, (ROWS, M2, 2)), (0, 2, 1))
        value = tl.reshape(value, (2 * ROWS, M2))
        acc = add_first_axis(acc, first, begin1, start, m1, n1, value, M1, ROWS, PRECISION)
    k1, part, _ = parts(M1)
    k1, k2 = (begin1 + k1)[:, None], (begin2 + tl.arange(0, M2))[None, :]
    at = c + ((image * 2 + part[:, None]) * m1 + k1) * m2 + k2
    tl.store(at, acc, mask=(k1 < m1) & (k2 < m2))


@triton.jit
def _along_rows(
    x, table, row, begin, rows, n, m, ROWS: tl.constexpr, COLS: tl.constexpr,
    MODES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Coefficients of rows of x (rows, n) by a table (m, n, 2): (ROWS, 2 MODES), parts in turns."""
    k, part, _ = parts(MODES)
    k, part = (begin + k)[None, :], part[None, :]
    acc = tl.zeros((ROWS, 2 * MODES), tl.float32)
    for start in range(0, n, COLS):
        j = start + tl.arange(0, COLS)
        inside = (row < rows)[:, None] & (j < n)[None, :]
        value = tl.load(x + row[:, None] * n + j[None, :], mask=inside, other=0.0)
        at = table + (k * n + j[:, None]) * 2 + part
        entry = tl.load(at, mask=(k < m) & (j < n)[:, None], other=0.0)
        acc = dot(value, entry, acc, PRECISION)
    return acc
