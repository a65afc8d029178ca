"""The points where u(y) - z . y is least, for a batch of z, in one launch.

Every point has a search of its own: limited memory, and a line search on slopes. A program holds
POINTS of them, one per column of its arrays, and takes one gradient for all at a time. A column
whose search is over writes its result and takes the next point of the batch from a counter, so
that no program waits for the slowest of a tile, and the host for none.

    trial = y + length step;  g = grad u(trial) - z
    taken where it is the start, solves, or g . step <= slope / 2; else length shrinks, to where a
    line through both slopes is zero
    (trial - y, g - f) joins the memory, taken or not;  y, f = trial, g where taken
    step = -H f by the two loops of L-BFGS, for columns that have moved

Arrays are in a scratch area of the program that stays in L2: six of points, 2 m of pairs, and the
work area of the gradient; at d = 64, widths (128, 128), m = 6 and 32 points 255 KB. Of HBM a call
needs 4 (3 d + 4) bytes a point and the weights once. A gradient costs what `potential.py` says, the
rest of an iteration 8 m d multiply-adds a point (and 2 d^2 with a preconditioner): 3 % of it, but
in 4 m sums over the rows of a tile that wait for each other.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unot_fast.kernels.potential import Network, class_of, gradient, linear_of, work_rows
from unot_fast.kernels.products import add_product

_COLUMNS = tl.constexpr(6)  # arrays of points beside the pairs


def c_transform(
    z: Tensor, labels, start, tolerance, maps, hidden, bias, top, linear, preconditioner,
    strong: float, sharpness: float, memory: int, max_iter: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """See `unot_fast.ops.c_transform` for the contract; float32.

    A label that is none gives a residual that is not a number.
    """
    network = Network(
        "c_transform", z, labels, maps, hidden, bias, top, linear, strong, sharpness
    )  # fmt: skip
    y, residual = torch.empty_like(z, memory_format=torch.contiguous_format), z.new_empty(len(z))
    n_iters = torch.empty(len(z), dtype=torch.int32, device=z.device)
    converged = torch.empty(len(z), dtype=torch.bool, device=z.device)
    if z.numel():
        following = torch.zeros(1, dtype=torch.int32, device=z.device)
        scratch = network.scratch(_COLUMNS.value + 2 * memory, 2 * memory)
        with torch.cuda.device_of(z):
            _search_kernel[(network.programs,)](
                z.contiguous(), start.contiguous(), tolerance.contiguous(),
                None if preconditioner is None else preconditioner.contiguous(),
                y, residual, n_iters, converged, *network.arguments, scratch, following, len(z),
                memory, max_iter, **network.constants,
            )  # fmt: skip
    return y, residual, n_iters, converged


@triton.jit(do_not_specialize=["batch", "memory", "max_iter"])
def _search_kernel(
    z, start, tolerance, preconditioner, y, residual, n_iters, converged, labels, maps, hidden,
    bias, top, linear, classes, widths, quadratic, d, strong, sharpness, scratch, following, batch,
    memory, max_iter, LAYERS: tl.constexpr, D: tl.constexpr, POINTS: tl.constexpr,
    ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    SIZE: tl.constexpr = D * POINTS
    size = (_COLUMNS + 2 * memory) * SIZE
    rows = 2 * memory + work_rows(widths, quadratic, LAYERS)
    target = scratch + tl.program_id(0).to(tl.int64) * (size + rows * POINTS)
    here, f_here, step_here = target + SIZE, target + 2 * SIZE, target + 3 * SIZE
    trial_here, spare = target + 4 * SIZE, target + 5 * SIZE
    pairs = target + _COLUMNS * SIZE  # step, and change of the gradient
    inverses = target + size  # 1 / (step . change), or 0
    weights = inverses + memory * POINTS
    work = weights + memory * POINTS
    column, row = tl.arange(0, POINTS), tl.arange(0, D)[:, None]
    tile = row * POINTS + column[None, :]

    # All columns begin as if a search before theirs were over, and `batch` is no point.
    done, solved, moved = column >= 0, column < 0, column < 0
    point, iters = column * 0 + batch, column * 0
    zero = tl.zeros((POINTS,), tl.float32)
    scale, length, slope = zero, zero, zero
    count, slot = 0, 0  # pairs there are, and where the next one goes
    running = True
    while running:
        if tl.max(done.to(tl.int32), 0) > 0:
            tl.debug_barrier()
            ended = done & (point < batch)
            inside = ended[None, :] & (row < d)
            end = tl.load(here + tile, mask=inside, other=0.0)
            f = tl.load(f_here + tile, mask=inside, other=0.0)
            tl.store(y + point.to(tl.int64)[None, :] * d + row, end, mask=inside)
            tl.store(residual + point, tl.sqrt(tl.sum(f * f, 0)), mask=ended)
            tl.store(n_iters + point, iters, mask=ended)
            tl.store(converged + point, solved, mask=ended)

            asking = done.to(tl.int32)
            first = tl.atomic_add(following, tl.sum(asking, 0))
            point = tl.where(done, tl.minimum(first + tl.cumsum(asking, 0) - 1, batch), point)
            inside = (done & (point < batch))[None, :] & (row < d)
            at = point.to(tl.int64)[None, :] * d + row
            label = class_of(labels, point, point < batch, classes)
            begin = tl.load(start + at, mask=inside, other=0.0)
            aim = tl.load(z + at, mask=inside, other=0.0) - linear_of(linear, label, d, D)
            tl.debug_barrier()
            anew = tl.broadcast_to(done[None, :], (D, POINTS))
            tl.store(target + tile, aim, mask=anew)
            tl.store(here + tile, begin, mask=anew)
            tl.store(f_here + tile, tl.zeros((D, POINTS), tl.float32), mask=anew)
            tl.store(step_here + tile, tl.zeros((D, POINTS), tl.float32), mask=anew)
            for k in range(memory):
                tl.store(inverses + k * POINTS + column, zero, mask=done)
            scale, length = tl.where(done, 1.0, scale), tl.where(done, 0.0, length)
            iters, moved = tl.where(done, 0, iters), moved & (done == 0)
        active = point < batch
        running = tl.max(active.to(tl.int32), 0) > 0
        if running:
            tl.debug_barrier()
            q = _downhill(
                f_here, pairs, inverses, weights, spare, preconditioner, scale, d, memory, count,
                slot, D, POINTS, DEPTH,
            )  # fmt: skip
            f = tl.load(f_here + tile)
            along = tl.sum(q * f, 0)
            descends = (along > 0) & (along < float("inf"))
            q = -tl.where(descends[None, :], q, scale[None, :] * f)
            step = tl.where(moved[None, :], q, tl.load(step_here + tile))
            slope = tl.where(moved, tl.where(descends, along, scale * tl.sum(f * f, 0)), slope)
            length = tl.where(moved, 1.0, length)
            trial = tl.load(here + tile) + length[None, :] * step
            tl.debug_barrier()
            tl.store(step_here + tile, step)
            tl.store(trial_here + tile, trial)
            tl.debug_barrier()

            label = class_of(labels, point, active, classes)
            g = gradient(
                trial_here, work, labels, label, maps, hidden, bias, top, widths, quadratic, d,
                strong, sharpness, LAYERS, D, POINTS, ROWS, DEPTH,
            )  # fmt: skip
            g -= tl.load(target + tile)
            f = tl.load(f_here + tile)
            change = g - f
            turned = tl.sum(
                change * _precondition(change, spare, preconditioner, d, D, POINTS, DEPTH), 0
            )
            ahead, size_g = tl.sum(g * tl.load(step_here + tile), 0), tl.sum(g * g, 0)
            trial, before = tl.load(trial_here + tile), tl.load(here + tile)
            moved_by = trial - before
            both, apart = tl.sum(moved_by * change, 0), tl.sum(moved_by * moved_by, 0)

            fresh = iters == 0
            known = (fresh == 0) & (both > 1e-12 * apart) & (both > 0) & (both < float("inf"))
            known &= (turned > 0) & (turned < float("inf"))
            scale = tl.where(known, both / turned, scale)
            iters += active.to(tl.int32)
            limit = tl.load(tolerance + point, mask=active, other=0.0)
            solved = size_g <= limit * limit
            moved = fresh | solved | (ahead <= 0.5 * slope)
            shrink = slope / (slope + ahead)
            shrink = tl.where(shrink > 0.05, tl.minimum(shrink, 0.7), 0.05)
            length = tl.where(moved, length, length * shrink)
            lost = moved & ((size_g < float("inf")) == 0)
            done = active & (solved | lost | (iters >= max_iter))
            tl.debug_barrier()
            pair = pairs + 2 * slot * SIZE + tile
            tl.store(pair, tl.where(known[None, :], moved_by, 0.0))
            tl.store(pair + SIZE, tl.where(known[None, :], change, 0.0))
            tl.store(inverses + slot * POINTS + column, tl.where(known, 1.0 / both, 0.0))
            tl.store(here + tile, tl.where(moved[None, :], trial, before))
            tl.store(f_here + tile, tl.where(moved[None, :], g, f))
            count, slot = tl.minimum(count + 1, memory), (slot + 1) % memory


@triton.jit
def _downhill(
    f_here, pairs, inverses, weights, spare, preconditioner, scale, d, memory, count, slot,
    D: tl.constexpr, POINTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """H f by the two loops, over pairs from the newest to the oldest and back."""
    column = tl.arange(0, POINTS)
    tile = tl.arange(0, D)[:, None] * POINTS + column[None, :]
    q = tl.load(f_here + tile)
    for k in range(count):
        at = (slot + memory - 1 - k) % memory
        pair = pairs + 2 * at * (D * POINTS) + tile
        weight = tl.load(inverses + at * POINTS + column) * tl.sum(tl.load(pair) * q, 0)
        tl.store(weights + at * POINTS + column, weight)
        q -= weight[None, :] * tl.load(pair + D * POINTS)
    q = scale[None, :] * _precondition(q, spare, preconditioner, d, D, POINTS, DEPTH)
    tl.debug_barrier()
    for k in range(count):
        at = (slot + memory - count + k) % memory
        pair = pairs + 2 * at * (D * POINTS) + tile
        product = tl.sum(tl.load(pair + D * POINTS) * q, 0)
        weight = tl.load(weights + at * POINTS + column)
        weight -= tl.load(inverses + at * POINTS + column) * product
        q += weight[None, :] * tl.load(pair)
    return q


@triton.jit
def _precondition(
    x, spare, preconditioner, d, D: tl.constexpr, POINTS: tl.constexpr, DEPTH: tl.constexpr
):
    if preconditioner is None:
        return x
    else:
        tile = tl.arange(0, D)[:, None] * POINTS + tl.arange(0, POINTS)[None, :]
        tl.debug_barrier()
        tl.store(spare + tile, x)
        tl.debug_barrier()
        return add_product(
            tl.zeros((D, POINTS), tl.float32), preconditioner, d, 1, d, d, spare, POINTS, 1,
            POINTS, D, POINTS, DEPTH, "tf32x3",
        )  # fmt: skip
