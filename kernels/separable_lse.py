r"""Log-sum-exp against a separable cost, one axis at a time.

A pass over an axis is a matrix product in the semiring of logarithms,

.. math:: \mathrm{out}(p, r, c) = \log_2 \sum_j 2^{a(r, j) + b(p, j, c)},

and the passes over the last, ..., first axis make up the sum over the grid. On the last axis a is
the state, its lines as rows, and b is minus the cost in units of epsilon / log2(e). On an axis
before, a is minus the cost and b is the state: one plane per index of the leading axes, the
trailing axes as columns. Logarithms are to base 2, the base of the hardware's exponential and
logarithm. A program owns TILE x TILE outputs of one problem and loops over j.

Floors, registers and what is not known yet are in README.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

if triton.knobs.runtime.interpret:
    from unot_fast.kernels.interpreter import allow_loop_bounds

    allow_loop_bounds()

LOG2E, LN2 = math.log2(math.e), math.log(2)


def separable_lse(h: Tensor, costs: Sequence[Tensor], epsilon: Tensor) -> Tensor:
    """Log-sum-exp of ``h`` against a sum of per-axis costs, one launch per axis.

    Parameters
    ----------
    h : Tensor, shape (B, m_1, ..., m_d), float32 or float64
        In nats; ``-inf`` stands for no mass. Its dtype is that of the arithmetic.
    costs : sequence of d Tensors, shape (n_k, m_k)
        In any units; ``+inf`` forbids a pair.
    epsilon : Tensor, shape (B,)
        Positive, in the units of the costs.

    Returns
    -------
    Tensor, shape (B, n_1, ..., n_d)
        In nats; ``-inf`` where nothing is summed.
    """
    scale = LOG2E / epsilon.to(h.dtype)
    factors = oriented([c.to(h.dtype) for c in costs])
    with torch.cuda.device_of(h):
        return log_sum(h.contiguous(), factors, scale, in_scale=LOG2E, out_scale=LN2)[0]


def oriented(costs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Costs (n_k, m_k) as the passes take them: contiguous, and (m_k, n_k) on the last axis."""
    *others, last = costs
    return *(c.contiguous() for c in others), last.T.contiguous()


def reaches(costs: Sequence[Tensor]) -> Tensor:
    """Largest entry of each cost, infinite where one is negative; shape (d,), without a sync."""
    extremes = [torch.aminmax(c) for c in costs]
    return torch.stack([torch.where(low < 0, math.inf, high) for low, high in extremes])


def tile_size(dtype: torch.dtype, *lengths: int) -> tuple[int, int]:
    """Width of a tile and warps per program for axes of these lengths."""
    widest = 64 if dtype == torch.float32 else 32
    tile = min(max(triton.next_power_of_2(max(lengths)), 16), widest)
    return tile, max(tile // 8, 4) if dtype == torch.float32 else 8


def register_limit(dtype: torch.dtype) -> int | None:
    """Registers per thread to allow; in float64 the assembler spills to stay below 80 otherwise."""
    return 255 if dtype == torch.float64 else None


def log_sum(
    x: Tensor,
    costs: Sequence[Tensor],
    scale: Tensor,
    reach: Tensor | None = None,
    running: Tensor | None = None,
    with_mean: bool = False,
    in_scale: float = 1.0,
    out_scale: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """All passes over a batch, with one launch each.

    Parameters
    ----------
    x : Tensor, shape (B, m_1, ..., m_d)
        To base 2 after multiplication by ``in_scale``.
    costs : sequence of d Tensors
        `oriented`.
    scale : Tensor, shape (B,)
        log2(e) / epsilon.
    reach : Tensor, shape (d,), optional
        `reaches` of the costs, where they are at hand.
    running : Tensor of int32, shape (B,), optional
        Problems that are 0 here are skipped, and their results undefined.
    with_mean : bool
        Return the mean of ``scale * C`` under the weights of each sum too.
    in_scale, out_scale : float
        Factors of the input and of the logarithms that come out.

    Returns
    -------
    Tensor, Tensor or None : shape (B, n_1, ..., n_d)
    """
    reach = reaches(costs) if reach is None else reach
    mean = None
    for k in reversed(range(len(costs))):
        last = k == len(costs) - 1
        batch, lead, trail = x.shape[0], math.prod(x.shape[1 : k + 1]), math.prod(x.shape[k + 2 :])
        m, n = costs[k].shape if last else costs[k].shape[::-1]
        planes, rows, cols = (1, lead, n) if last else (lead, n, trail)
        tile, warps = tile_size(x.dtype, m, n)
        tiles = planes * triton.cdiv(rows, tile) * triton.cdiv(cols, tile)
        out = x.new_empty(*x.shape[: k + 1], n, *x.shape[k + 2 :])
        mean_out = torch.empty_like(out) if with_mean else None
        if batch:
            _pass_kernel[(batch * tiles,)](
                *((x, costs[k]) if last else (costs[k], x)), mean, scale, reach[k:], running, out,
                mean_out, planes, rows, m, cols, tiles, COST_IS_B=last, MEAN=with_mean, TILE=tile,
                IN_SCALE=in_scale if last else 1.0, OUT_SCALE=out_scale if k == 0 else 1.0,
                num_warps=warps, num_stages=1, maxnreg=register_limit(x.dtype),
            )  # fmt: skip
        x, mean = out, mean_out
    return x, mean


@triton.jit(do_not_specialize=["planes", "tiles"], do_not_specialize_on_alignment=["reach"])
def _pass_kernel(
    a, b, mean, scale, reach, running, out, mean_out, planes, rows, depth, cols, tiles,
    COST_IS_B: tl.constexpr, MEAN: tl.constexpr, TILE: tl.constexpr, IN_SCALE: tl.constexpr,
    OUT_SCALE: tl.constexpr,
):  # fmt: skip
    problem = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    if running is not None:  # noqa: SIM102, decided at compile time
        if tl.load(running + problem) == 0:
            return
    if COST_IS_B:
        a += problem * planes * rows * depth
    else:
        b += problem * planes * depth * cols
    if MEAN:
        if not COST_IS_B:
            mean += problem * planes * depth * cols
        mean_out += problem * planes * rows * cols
    out += problem * planes * rows * cols
    s = tl.load(scale + problem)
    log_matmul_tile(
        tile, a, b, mean_out if COST_IS_B else mean, s, COST_IS_B, MEAN, tl.load(reach) * s, out,
        mean_out, rows, depth, cols, TILE, IN_SCALE, OUT_SCALE,
    )  # fmt: skip


@triton.jit
def log_matmul_tile(
    tile, a, b, mean, scale, cost_is_b, with_mean, reach, out, mean_out, rows, depth, cols,
    TILE: tl.constexpr, IN_SCALE: tl.constexpr = 1.0, OUT_SCALE: tl.constexpr = 1.0,
):  # fmt: skip
    """One tile of out(p, r, c) = log2 sum_j 2^(a(r, j) + b(p, j, c)), all row-major.

    One of a and b is the state x, times IN_SCALE, and the other the cost, times -scale; ``reach``
    bounds scale * cost. ``with_mean``: also the mean of scale * C over all axes done so far, under
    the weights of the sum: ``mean`` is that of the passes before, next to b, and is not read
    where b is the cost, on the last axis, which comes first.
    """
    row_tiles, col_tiles = tl.cdiv(rows, TILE), tl.cdiv(cols, TILE)
    plane = tile // (row_tiles * col_tiles)
    row = (tile // col_tiles % row_tiles) * TILE + tl.arange(0, TILE)[:, None]
    col = (tile % col_tiles) * TILE + tl.arange(0, TILE)[None, :]
    a_at, b_at = row * depth, plane * depth * cols + col
    out_at = (plane * rows + row) * cols + col
    inside = (row < rows) & (col < cols)
    scale_a = tl.where(cost_is_b, scale * 0 + IN_SCALE, -scale)
    scale_b = tl.where(cost_is_b, -scale, scale * 0 + IN_SCALE)
    if reach <= (900.0 if a.dtype.element_ty == tl.float64 else 147.0):
        log_sum, average = _by_product(
            a, b, mean, scale_a, scale_b, cost_is_b, with_mean, a_at, b_at, row < rows,
            col < cols, depth, cols, TILE,
        )  # fmt: skip
    else:
        log_sum, average = _by_terms(
            a, b, mean, scale_a, scale_b, cost_is_b, with_mean, a_at, b_at, row < rows,
            col < cols, depth, cols, TILE,
        )  # fmt: skip
    tl.store(out + out_at, log_sum * OUT_SCALE, mask=inside)
    if with_mean:
        tl.store(mean_out + out_at, average, mask=inside)


@triton.jit
def _by_terms(
    a, b, mean, scale_a, scale_b, cost_is_b, with_mean, a_at, b_at, a_in, b_in, depth, cols,
    TILE: tl.constexpr,
):  # fmt: skip
    """Every sum shifted by its own largest term: exact for any cost."""
    dtype = a.dtype.element_ty
    # The floor is finite, so that an empty sum is -inf and not NaN.
    top = tl.full((TILE, TILE), -1e30, dtype)
    for j in tl.range(depth, loop_unroll_factor=4):
        u = tl.load(a + a_at + j, mask=a_in, other=0.0) * scale_a
        v = tl.load(b + b_at + j * cols, mask=b_in, other=0.0) * scale_b
        top = tl.maximum(top, u + v)
    total = tl.zeros((TILE, TILE), dtype)
    for j in tl.range(depth, loop_unroll_factor=4):
        u = tl.load(a + a_at + j, mask=a_in, other=0.0) * scale_a
        v = tl.load(b + b_at + j * cols, mask=b_in, other=0.0) * scale_b
        total += tl.exp2(u + v - top)
    average = tl.zeros((TILE, TILE), dtype)
    if with_mean:
        for j in range(depth):
            u = tl.load(a + a_at + j, mask=a_in, other=0.0) * scale_a
            v = tl.load(b + b_at + j * cols, mask=b_in, other=0.0) * scale_b
            before = tl.load(mean + b_at + j * cols, mask=b_in & (cost_is_b == 0), other=0.0)
            part = tl.where(cost_is_b, 0.0, -u) + tl.where(cost_is_b, -v, before)
            average += tl.exp2(u + v - top) * part
        average /= tl.where(total > 0, total, 1.0)
    return top + tl.log2(total), average


@triton.jit
def _by_product(
    a, b, mean, scale_a, scale_b, cost_is_b, with_mean, a_at, b_at, a_in, b_in, depth, cols,
    TILE: tl.constexpr,
):  # fmt: skip
    """A matrix product of powers of two, each line of either factor shifted by its maximum.

    The state is lifted by 64 powers of two and the cost by 40. A sum is then at least
    2^(104 - reach), so in range, and at most depth * 2^104. Whatever a factor or a term loses to
    underflow is below the sum's rounding, and the cost's factors keep 12 bits above the smallest
    normal number, so that their low tf32 parts are normal too.
    """
    dtype = a.dtype.element_ty
    LIFT_X: tl.constexpr = 400.0 if dtype == tl.float64 else 64.0
    LIFT_C: tl.constexpr = 400.0 if dtype == tl.float64 else 40.0
    # More terms at a time would not fit the registers.
    STEP: tl.constexpr = 32 if TILE == 32 and dtype == tl.float32 else 16
    steps = tl.arange(0, STEP)
    a_j, b_j = steps[None, :], steps[:, None]
    nothing = -float("inf")

    peak_a = tl.full((TILE, 1), -1e30, dtype)  # finite, as above
    peak_b = tl.full((1, TILE), -1e30, dtype)
    for j in range(0, depth, STEP):
        in_a, in_b = a_in & (j + a_j < depth), b_in & (j + b_j < depth)
        u = tl.load(a + a_at + (j + a_j), mask=in_a, other=0.0) * scale_a
        v = tl.load(b + b_at + (j + b_j) * cols, mask=in_b, other=0.0) * scale_b
        peak_a = tl.maximum(peak_a, tl.max(tl.where(in_a, u, nothing), 1, keep_dims=True))
        peak_b = tl.maximum(peak_b, tl.max(tl.where(in_b, v, nothing), 0, keep_dims=True))
    base_a = peak_a - tl.where(cost_is_b, LIFT_X, LIFT_C)
    base_b = peak_b - tl.where(cost_is_b, LIFT_C, LIFT_X)

    total = tl.zeros((TILE, TILE), dtype)
    total = _add_products(
        total, a, b, mean, scale_a, scale_b, base_a, base_b, cost_is_b, a_at, b_at, a_in, b_in,
        depth, cols, 0, STEP,
    )  # fmt: skip
    average = tl.zeros((TILE, TILE), dtype)
    if with_mean:
        average = _add_products(
            average, a, b, mean, scale_a, scale_b, base_a, base_b, cost_is_b, a_at, b_at, a_in,
            b_in, depth, cols, 1, STEP,
        )  # fmt: skip
        average = _add_products(
            average, a, b, mean, scale_a, scale_b, base_a, base_b, cost_is_b, a_at, b_at, a_in,
            b_in, depth, cols, 2, STEP,
        )  # fmt: skip
        average /= tl.where(total > 0, total, 1.0)
    return tl.log2(total) + base_a + base_b, average


@triton.jit
def _add_products(
    acc, a, b, mean, scale_a, scale_b, base_a, base_b, cost_is_b, a_at, b_at, a_in, b_in,
    depth, cols, WEIGHT: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """acc + sum_j 2^(a - base_a) 2^(b - base_b), times a's (1) or b's (2) part of the mean."""
    PRECISION: tl.constexpr = "ieee" if acc.dtype == tl.float64 else "tf32x3"
    steps = tl.arange(0, STEP)
    a_j, b_j = steps[None, :], steps[:, None]
    for j in range(0, depth, STEP):
        in_a, in_b = a_in & (j + a_j < depth), b_in & (j + b_j < depth)
        u = tl.load(a + a_at + (j + a_j), mask=in_a, other=0.0) * scale_a
        v = tl.load(b + b_at + (j + b_j) * cols, mask=in_b, other=0.0) * scale_b
        power_a = tl.where(in_a, tl.exp2(u - base_a), 0.0)
        power_b = tl.where(in_b, tl.exp2(v - base_b), 0.0)
        if WEIGHT == 1:
            power_a *= tl.where(cost_is_b, 0.0, -u)
        if WEIGHT == 2:
            before = tl.load(
                mean + b_at + (j + b_j) * cols, mask=in_b & (cost_is_b == 0), other=0.0
            )
            power_b *= tl.where(cost_is_b, -v, before)
        acc = tl.dot(power_a, power_b, acc, input_precision=PRECISION, out_dtype=acc.dtype)
    return acc
