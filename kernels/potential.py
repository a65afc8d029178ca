r"""The gradient of a potential of input-convex shape, a tile of points at a time.

    p_l = V_l h_(l-1) + (R_l x)^2 + W_l x + b_l,   h_l = softplus(s p_l) / s,
    grad u(x) = sum_l W_l^T delta_l + R_l^T (2 R_l x delta_l) + A^T A x + strong x + c,
    delta_l = softplus'(s p_l) above_l,   above_L = top,   above_l = V_(l+1)^T delta_(l+1)

Arrays of a program are (features, POINTS): a point is a column, so that every product has the
weights on the left, where they are streamed in slices of DEPTH straight from the caller's tensors;
masks take the place of padding. Its right factors, and what one product leaves for the next, lie
in a work area of the program that stays in L2. A barrier stands between a store there and loads by
other threads, and between loads and the stores that overwrite what was loaded.

With R = 2 (n_1 + ... + n_L) + r rows of maps and v entries of V a gradient takes 2 (R d + v)
multiply-adds a point, three times that in tf32, and reads 8 (R d + v) bytes of weights a tile:
at widths (128, 128), d = r = 64, 106 k multiply-adds a point and 426 KB a tile, from L2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from unot_fast.kernels.products import add_product, expect_single, padded, programs

# Matrix products of torch are better with more dimensions.
WIDEST = 256


class Network:
    """The arguments of a potential as the kernels take them, and the shape of their tiles."""

    def __init__(
        self, operator: str, x: Tensor, labels, maps, hidden: Sequence[Tensor], bias, top, linear,
        strong: float, sharpness: float,
    ) -> None:  # fmt: skip
        expect_single(operator, x)
        batch, dim = x.shape
        if dim > WIDEST:
            raise ValueError(
                f"{operator}: backend 'triton' takes up to {WIDEST} dimensions; got {dim}"
            )
        widths = (*(v.shape[1] for v in hidden), len(top))
        self.quadratic, self.total = len(maps) - 2 * sum(widths), sum(widths)
        self.arguments = (
            None if labels is None else labels.contiguous(), maps.contiguous(),
            tuple(v.contiguous() for v in hidden), bias.contiguous(), top.contiguous(),
            linear.contiguous(), len(bias), widths, self.quadratic, dim, strong, sharpness,
        )  # fmt: skip
        # A small batch is spread over the device rather than served from few loads of weights.
        small = dim > 128 or batch <= programs(x, batch, 16)
        points = 16 if small else 32
        d, rows = padded(dim), min(padded(max(widths)), 64)
        warps = 4 if d <= 32 and max(widths) <= 64 else 8
        self.constants = {
            "LAYERS": len(widths), "D": d, "POINTS": points, "ROWS": rows,
            "DEPTH": 32 if d <= 128 else 16, "num_warps": warps, "num_stages": 1,
        }  # fmt: skip
        # As many as registers have room for.
        self.programs = programs(x, triton.cdiv(batch, points), 8 // warps)

    def scratch(self, columns: int, rows: int = 0) -> Tensor:
        """Of every program: arrays of points, other rows, and what `gradient` needs."""
        rows += columns * self.constants["D"] + 3 * self.total + self.quadratic
        like = self.arguments[1]
        return like.new_empty(self.programs, rows * self.constants["POINTS"])


def potential_gradient(x: Tensor, labels: Tensor | None, *weights) -> Tensor:
    """See `unot_fast.ops.potential_gradient` for the contract; float32."""
    network = Network("potential_gradient", x, labels, *weights)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel():
        with torch.cuda.device_of(x):
            _gradient_kernel[(network.programs,)](
                x.contiguous(), out, *network.arguments, network.scratch(1), len(x),
                **network.constants,
            )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["batch"])
def _gradient_kernel(
    x, out, labels, maps, hidden, bias, top, linear, classes, widths, quadratic, d, strong,
    sharpness, scratch, batch, LAYERS: tl.constexpr, D: tl.constexpr, POINTS: tl.constexpr,
    ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    rows = D + work_rows(widths, quadratic, LAYERS)
    scratch += tl.program_id(0).to(tl.int64) * rows * POINTS
    row, tile = tl.arange(0, D)[:, None], tl.arange(0, D)[:, None] * POINTS
    tile += tl.arange(0, POINTS)[None, :]
    for first in range(tl.program_id(0) * POINTS, batch, tl.num_programs(0) * POINTS):
        point = first + tl.arange(0, POINTS)
        label = class_of(labels, point, point < batch, classes)
        at = point.to(tl.int64)[None, :] * d + row
        inside = (point < batch)[None, :] & (row < d)
        tl.store(scratch + tile, tl.load(x + at, mask=inside, other=0.0))
        tl.debug_barrier()
        g = gradient(
            scratch, scratch + D * POINTS, labels, label, maps, hidden, bias, top, widths,
            quadratic, d, strong, sharpness, LAYERS, D, POINTS, ROWS, DEPTH,
        )  # fmt: skip
        g += linear_of(linear, label, d, D)
        tl.store(out + at, g, mask=inside)
        tl.debug_barrier()


@triton.jit
def class_of(labels, point, inside, classes):
    """Of points; -1 if there is no such class, and `gradient` is nan then."""
    if labels is None:
        return point * 0
    else:
        label = tl.load(labels + point, mask=inside, other=0)
        return tl.where((label >= 0) & (label < classes), label, -1).to(tl.int32)


@triton.jit
def linear_of(linear, label, d, D: tl.constexpr):
    """c of every point: (D, POINTS)."""
    row = tl.arange(0, D)[:, None]
    inside = (row < d) & (label >= 0)[None, :]
    return tl.load(linear + label[None, :] * d + row, mask=inside, other=0.0)


@triton.jit
def work_rows(widths, quadratic, LAYERS: tl.constexpr):
    """Rows of the work area: a factor for every row of maps, and h."""
    total = 0
    for q in tl.static_range(LAYERS):
        total += widths[q]
    return 3 * total + quadratic


@triton.jit
def gradient(
    x, work, labels, label, maps, hidden, bias, top, widths, quadratic, d, strong, sharpness,
    LAYERS: tl.constexpr, D: tl.constexpr, POINTS: tl.constexpr, ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """Of u without c . x at an array of points x (D, POINTS) in memory: (D, POINTS)."""
    PRECISION: tl.constexpr = "tf32x3"  # searches go on until rounding ends them
    total = (work_rows(widths, quadratic, LAYERS) - quadratic) // 3
    rows = 2 * total + quadratic  # of maps
    h = work + rows * POINTS
    point, block = tl.arange(0, POINTS)[None, :], tl.arange(0, ROWS)[:, None]
    zero = tl.zeros((ROWS, POINTS), tl.float32)

    # Instead of factors: the slope of the softplus, and 2 R x times it.
    for layer in range(LAYERS):
        width, below, begin, v, _, _ = _layer(layer, widths, maps, hidden, LAYERS)
        w = maps + 2 * begin * d
        for start in range(0, width, ROWS):
            row, left = start + block, width - start
            r = add_product(
                zero, w + (width + start) * d, d, 1, left, d, x, POINTS, 1, POINTS, ROWS, POINTS,
                DEPTH, PRECISION,
            )  # fmt: skip
            if labels is None:
                p = r * r + tl.load(bias + begin + row, mask=row < width, other=0.0)
            else:
                at = bias + label[None, :] * total + begin + row
                known = (row < width) & (label >= 0)[None, :]
                p = r * r + tl.load(at, mask=known, other=float("nan"))
            p = add_product(
                p, w + start * d, d, 1, left, d, x, POINTS, 1, POINTS, ROWS, POINTS, DEPTH,
                PRECISION,
            )  # fmt: skip
            p = add_product(
                p, v + start * below, below, 1, left, below, h + (begin - below) * POINTS, POINTS,
                1, POINTS, ROWS, POINTS, DEPTH, PRECISION,
            )  # fmt: skip
            value, slope = _softplus(sharpness * p)
            at = work + (2 * begin + row) * POINTS + point
            tl.store(h + (begin + row) * POINTS + point, value / sharpness, mask=row < width)
            tl.store(at, slope, mask=row < width)
            tl.store(at + width * POINTS, 2 * r * slope, mask=row < width)
        tl.debug_barrier()

    for start in range(0, quadratic, ROWS):
        row = start + block
        ax = add_product(
            zero, maps + (2 * total + start) * d, d, 1, quadratic - start, d, x, POINTS, 1, POINTS,
            ROWS, POINTS, DEPTH, PRECISION,
        )  # fmt: skip
        tl.store(work + (2 * total + row) * POINTS + point, ax, mask=row < quadratic)

    for back in range(LAYERS):
        layer = LAYERS - 1 - back
        width, _, begin, _, v, over = _layer(layer, widths, maps, hidden, LAYERS)
        for start in range(0, width, ROWS):
            row = start + block
            is_top = (row < width) & (back == 0)
            above = zero + tl.load(top + row, mask=is_top, other=0.0)
            above = add_product(
                above, v + start, 1, width, width - start, over,
                work + 2 * (begin + width) * POINTS, POINTS, 1, POINTS, ROWS, POINTS, DEPTH,
                PRECISION,
            )  # fmt: skip
            at = work + (2 * begin + row) * POINTS + point
            first = above * tl.load(at, mask=row < width, other=0.0)
            second = above * tl.load(at + width * POINTS, mask=row < width, other=0.0)
            tl.debug_barrier()
            tl.store(at, first, mask=row < width)
            tl.store(at + width * POINTS, second, mask=row < width)
        tl.debug_barrier()

    pull = strong * tl.load(x + tl.arange(0, D)[:, None] * POINTS + point)
    return add_product(
        pull, maps, 1, d, d, rows, work, POINTS, 1, POINTS, D, POINTS, DEPTH, PRECISION
    )


@triton.jit
def _layer(layer, widths, maps, hidden, LAYERS: tl.constexpr):
    """Width, width below, widths of all below, V, and V of the next layer and its rows.

    What there is not has no rows. One copy of the code serves all layers, so they are chosen here.
    """
    width, below, begin, v, above, over = widths[0], 0, 0, maps, maps, 0
    sum_below = 0
    for q in tl.static_range(LAYERS):
        mine = layer == q
        if q > 0:
            v = tl.where(mine, hidden[q - 1], v)
            below = tl.where(mine, widths[q - 1], below)
            sum_below += widths[q - 1]
        if q + 1 < LAYERS:
            above = tl.where(mine, hidden[q], above)
            over = tl.where(mine, widths[q + 1], over)
        width = tl.where(mine, widths[q], width)
        begin = tl.where(mine, sum_below, begin)
    return width, below, begin, v, above, over


@triton.jit
def _softplus(p):
    """And its slope."""
    e = tl.exp(-tl.abs(p))
    return tl.maximum(p, 0.0) + tl.log(1.0 + e), tl.where(p > 0, 1.0, e) / (1.0 + e)
