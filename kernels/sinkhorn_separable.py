r"""A whole Sinkhorn solve on a separable cost, for a batch of problems.

Potentials are relative to the marginals: :math:`P(x, y) = a(x)\, b(y)\, e^{(f(x) + g(y) - C(x, y))
/ \varepsilon}`. The kernels hold them in powers of two, as f log2(e) / epsilon. With L the log-sum
over y and M that over x, an iteration is

    L <- passes over g + log b;  judge the iteration before;  f <- relaxed(f, -L)
    M <- passes over f + log a;                               g <- relaxed(g, -M)

for the error of an iteration is known once L of the next one is.

`_solve_kernel` runs all iterations of a problem in one program. Its arrays are a few tens of KB
and stay in L1 and L2. Steps hand them on through global memory: a barrier stands between any two
that share one, and no pass writes what it reads. Problems too large for one multiprocessor take
the same steps as launches of their own, with the passes spread over the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from unot_fast.kernels.separable_lse import (
    LOG2E,
    log_matmul_tile,
    log_sum,
    oriented,
    reaches,
    register_limit,
    tile_size,
)

_LARGEST_PER_PROGRAM = 128 * 128  # points of either side
_POLL = 8  # iterations of a spread-out solve between two looks at the device
_ROW, _COLUMN, _COST, _DONE = (tl.constexpr(i) for i in range(4))  # phases of a solve
_LOG2E = tl.constexpr(LOG2E)
_ARRAYS = tl.constexpr(7)  # of scratch per problem


def sinkhorn_separable(
    a: Tensor,
    b: Tensor,
    costs: Sequence[Tensor],
    epsilon: Tensor,
    g: Tensor,
    tol: float,
    criterion: str,
    max_iter: int,
    overrelaxation: float | None,
) -> tuple[Tensor, ...]:
    """Solve each problem of a batch; see `unot_fast.ops.sinkhorn_separable` for the contract.

    Arithmetic is in the dtype of ``a``, float32 or float64; costs are finite and not negative.
    Grids of up to 128^2 points are solved in one launch, without a synchronisation. On larger
    ones the host launches one iteration after the other; each problem still stops by itself, on
    the device, and every 8 iterations the host waits to see whether any goes on.
    """
    batch = a.shape[0]
    a, b, g, epsilon = (
        a.contiguous(),
        b.contiguous(),
        g.to(a.dtype).contiguous(),
        epsilon.contiguous(),
    )
    costs = [c.to(a.dtype) for c in costs]
    forward, backward = oriented(costs), oriented([c.T for c in costs])
    points = max(math.prod(a.shape[1:]), math.prod(b.shape[1:]))
    solve = _in_one_launch if points <= _LARGEST_PER_PROGRAM or batch == 0 else _spread_out
    with torch.cuda.device_of(a):
        out = solve(a, b, forward, backward, epsilon, g, tol, criterion, max_iter, overrelaxation)
    return *out, torch.ones(batch, dtype=torch.bool, device=a.device)


def _in_one_launch(
    a, b, forward, backward, epsilon, start, tol, criterion, max_iter, overrelaxation
):
    batch, room = a.shape[0], math.prod(max(c.shape) for c in forward)
    scratch = a.new_empty(batch, _ARRAYS.value, room)
    f, g = torch.empty_like(a), torch.empty_like(b)
    cost, value, error = (a.new_empty(batch) for _ in range(3))
    n_iters = torch.empty(batch, dtype=torch.int32, device=a.device)
    converged = torch.empty(batch, dtype=torch.bool, device=a.device)
    tile, warps = tile_size(a.dtype, *a.shape[1:], *b.shape[1:])
    if batch:
        _solve_kernel[(batch,)](
            a, b, forward, backward, epsilon, start, f, g, cost, value, error, n_iters, converged,
            scratch, tuple(a.shape[1:]), tuple(b.shape[1:]),
            a[0].numel(), b[0].numel(), room, tol, overrelaxation or 0.0, max_iter,
            NDIM=len(forward), ADAPTIVE=overrelaxation is None, BY_COST=criterion == "cost",
            TILE=tile, BLOCK=128 * warps, num_warps=warps, num_stages=1, maxnreg=255,
        )  # fmt: skip
    return f, g, cost, value, error, n_iters, converged


def _spread_out(a, b, forward, backward, epsilon, start, tol, criterion, max_iter, overrelaxation):
    batch, by_cost = a.shape[0], criterion == "cost"
    scale, reach = LOG2E / epsilon.to(a.dtype), reaches(forward)
    column = scale.view(-1, *(1,) * len(forward))
    log_a, log_b = a.log2(), b.log2()
    f, g = torch.zeros_like(a), start * column
    weighted_f, weighted_g = torch.empty_like(a), g + log_b
    cost, mass, error, error_g = (a.new_zeros(batch) for _ in range(4))
    control = a.new_empty(batch, 5)
    running = torch.ones(batch, dtype=torch.int32, device=a.device)
    n_iters, converged = torch.zeros_like(running), torch.zeros_like(running, dtype=torch.bool)
    for k in range(max_iter + 1):
        total, mean = log_sum(weighted_g, forward, scale, reach, running, by_cost)
        _row_kernel[(batch,)](
            a, log_a, f, total, mean, weighted_f, scale, reach, cost, mass, error, error_g,
            n_iters, converged, running, control, a[0].numel(), len(forward), tol,
            overrelaxation or 0.0, max_iter, ADAPTIVE=overrelaxation is None, BY_COST=by_cost,
            BLOCK=1024, num_warps=8, maxnreg=register_limit(a.dtype),
        )  # fmt: skip
        if k == max_iter or (k % _POLL == _POLL - 1 and not bool(running.any())):
            break
        total, _ = log_sum(weighted_f, backward, scale, reach, running)
        _column_kernel[(batch,)](
            b, log_b, g, total, weighted_g, error_g, n_iters, running, control, b[0].numel(),
            ADAPTIVE=overrelaxation is None, BLOCK=1024, num_warps=8,
        )  # fmt: skip
    if not by_cost:
        total, mean = log_sum(weighted_g, forward, scale, reach, with_mean=True)
        rows = a * torch.exp2((f + total).clamp_max(990.0 if a.dtype == torch.float64 else 100.0))
        cost = (rows * mean).flatten(1).sum(1) / scale
    shift = (g * b).flatten(1).sum(1).view(column.shape)
    f, g = (f + shift) / column, (g - shift) / column
    value = (f * a).flatten(1).sum(1) + (g * b).flatten(1).sum(1) - (mass - 1) * LOG2E / scale
    return f, g, cost, value, error, n_iters, converged


@triton.jit(do_not_specialize=["max_iter"])
def _solve_kernel(
    a, b, forward, backward, epsilon, start, f, g, cost, value, error, n_iters, converged, scratch,
    shape_n, shape_m, size_n, size_m, room, tol: tl.float64, weight: tl.float64, max_iter,
    NDIM: tl.constexpr, ADAPTIVE: tl.constexpr, BY_COST: tl.constexpr, TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    problem = tl.program_id(0).to(tl.int64)
    dtype = a.dtype.element_ty
    a += problem * size_n
    f += problem * size_n
    b += problem * size_m
    g += problem * size_m
    start += problem * size_m
    log_a = scratch + problem * _ARRAYS * room
    log_b = log_a + room
    h = log_b + room
    spare = h + room
    total = spare + room
    spare_mean = total + room
    mean = spare_mean + room

    scale = (1.4426950408889634 / tl.load(epsilon + problem)).to(dtype)  # log2(e) / epsilon
    reach = ()
    span = scale * 0
    for axis in tl.static_range(NDIM):
        largest = _reach(backward[axis], shape_n[axis] * shape_m[axis], BLOCK)
        reach += (largest,)
        span += largest * scale
    for at in range(0, size_n, BLOCK):
        i = at + tl.arange(0, BLOCK)
        tl.store(log_a + i, tl.log2(tl.load(a + i, mask=i < size_n, other=1.0)), mask=i < size_n)
        tl.store(f + i, tl.zeros((BLOCK,), dtype), mask=i < size_n)
    for at in range(0, size_m, BLOCK):
        i = at + tl.arange(0, BLOCK)
        potential = tl.load(start + i, mask=i < size_m, other=0.0) * scale
        log_mass = tl.log2(tl.load(b + i, mask=i < size_m, other=1.0))
        tl.store(log_b + i, log_mass, mask=i < size_m)
        tl.store(g + i, potential, mask=i < size_m)
        tl.store(h + i, potential + log_mass, mask=i < size_m)

    w, cap, best, anchor = _first_weight(span, weight, ADAPTIVE)
    k = tl.full((), 0, tl.int32)
    solved, steady = k != 0, k != 0
    error_g, all_error, all_mass, all_cost = scale * 0, scale * 0, scale * 0, scale * 0
    # One copy of the passes serves every phase: three would not fit the registers.
    phase = _ROW
    while phase != _DONE:
        _passes(
            h, forward, backward, phase == _COLUMN, (phase == _COST) | (BY_COST & (phase == _ROW)),
            reach, scale, total, spare, mean, spare_mean, shape_m, shape_n, NDIM, TILE,
        )  # fmt: skip
        if phase == _ROW:
            running, solved, steady, all_error, all_mass, all_cost, w, cap, best, anchor = _row(
                a, log_a, f, total, mean, h, size_n, scale, k, error_g, all_cost, steady, w, cap,
                best, anchor, tol, max_iter, ADAPTIVE, BY_COST, BLOCK,
            )  # fmt: skip
            phase = tl.where(running, _COLUMN, _DONE if BY_COST else _COST)
        elif phase == _COLUMN:
            plain = ADAPTIVE & (k == 0)
            error_g = _relax(b, log_b, g, total, h, size_m, tl.where(plain, 1.0, w), BLOCK)
            k += 1
            phase = _ROW
        else:
            _, _, all_cost = _measure(a, f, total, mean, size_n, scale, True, BLOCK)
            phase = _DONE

    tl.debug_barrier()
    shift = tl.zeros((BLOCK,), dtype)
    for at in range(0, size_m, BLOCK):
        i = at + tl.arange(0, BLOCK)
        inside = i < size_m
        shift += tl.load(b + i, mask=inside, other=0.0) * tl.load(g + i, mask=inside, other=0.0)
    constant = tl.sum(shift)
    dual = _fix_constant(a, f, constant, scale, size_n, BLOCK)
    dual += _fix_constant(b, g, -constant, scale, size_m, BLOCK)
    tl.store(cost + problem, all_cost)
    tl.store(value + problem, dual - (all_mass - 1) * _LOG2E / scale)
    tl.store(error + problem, all_error)
    tl.store(n_iters + problem, k)
    tl.store(converged + problem, solved)


@triton.jit(do_not_specialize=["max_iter"])
def _row_kernel(
    a, log_a, f, total, mean, h, scale, reach, cost, mass, error, error_g, n_iters, converged,
    running, control, size, ndim, tol: tl.float64, weight: tl.float64, max_iter,
    ADAPTIVE: tl.constexpr, BY_COST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`_row` for one problem per program, with what it carries in memory."""
    problem = tl.program_id(0).to(tl.int64)
    if tl.load(running + problem) == 0:
        return
    at = problem * size
    control += problem * 5
    s = tl.load(scale + problem)
    k = tl.load(n_iters + problem)
    if k == 0:
        span = s * 0
        for axis in range(ndim):
            span += tl.load(reach + axis) * s
        w, cap, best, anchor = _first_weight(span, weight, ADAPTIVE)
        steady = k != 0
    else:
        w, cap = tl.load(control), tl.load(control + 1)
        best, anchor = tl.load(control + 2), tl.load(control + 3)
        steady = tl.load(control + 4) != 0
    if BY_COST:
        mean += at
    goes_on, solved, steady, all_error, all_mass, all_cost, w, cap, best, anchor = _row(
        a + at, log_a + at, f + at, total + at, mean, h + at, size, s, k,
        tl.load(error_g + problem), tl.load(cost + problem), steady, w, cap, best, anchor, tol,
        max_iter, ADAPTIVE, BY_COST, BLOCK,
    )  # fmt: skip
    tl.debug_barrier()  # all threads have read what one writes here
    tl.store(control, w)
    tl.store(control + 1, cap)
    tl.store(control + 2, best)
    tl.store(control + 3, anchor)
    tl.store(control + 4, steady.to(w.dtype))
    tl.store(cost + problem, all_cost)
    tl.store(mass + problem, all_mass)
    tl.store(error + problem, all_error)
    tl.store(converged + problem, solved)
    tl.store(running + problem, goes_on.to(tl.int32))


@triton.jit
def _column_kernel(
    b, log_b, g, total, h, error_g, n_iters, running, control, size, ADAPTIVE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The update of g, for one problem per program; it completes an iteration."""
    problem = tl.program_id(0).to(tl.int64)
    if tl.load(running + problem) == 0:
        return
    at = problem * size
    k = tl.load(n_iters + problem)
    w = tl.where(ADAPTIVE & (k == 0), 1.0, tl.load(control + problem * 5))
    error = _relax(b + at, log_b + at, g + at, total + at, h + at, size, w, BLOCK)
    tl.debug_barrier()  # all threads have read what one writes here
    tl.store(error_g + problem, error)
    tl.store(n_iters + problem, k + 1)


@triton.jit
def _passes(
    x, forward, backward, transpose, with_mean, reach, scale, out, spare, mean, spare_mean,
    shape_m, shape_n, NDIM: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Passes over all axes of one problem, the last first; they alternate and end in ``out``.

    From the shape m to n with the costs ``forward``; with ``transpose`` from n to m with
    ``backward``.
    """
    source, before = x, mean
    lead, trail = 1, 1
    for q in tl.static_range(NDIM):
        lead *= tl.where(transpose, shape_n[q], shape_m[q])
    for step in range(NDIM):
        axis = NDIM - 1 - step
        cost, cost_t, largest, m, n = forward[0], backward[0], reach[0], shape_m[0], shape_n[0]
        for q in tl.static_range(1, NDIM):
            if axis == q:
                cost, cost_t, largest = forward[q], backward[q], reach[q]
                m, n = shape_m[q], shape_n[q]
        cost = tl.where(transpose, cost_t, cost)
        m, n = tl.where(transpose, n, m), tl.where(transpose, m, n)
        lead = lead // m
        last = step == 0
        planes, rows = tl.where(last, 1, lead), tl.where(last, lead, n)
        cols = tl.where(last, n, trail)
        a, b = tl.where(last, source, cost), tl.where(last, cost, source)
        target = tl.where(axis % 2 == 0, out, spare)
        target_mean = tl.where(axis % 2 == 0, mean, spare_mean)
        tl.debug_barrier()
        for tile in range(planes * tl.cdiv(rows, TILE) * tl.cdiv(cols, TILE)):
            log_matmul_tile(
                tile, a, b, before, scale, last, with_mean, largest * scale, target, target_mean,
                rows, m, cols, TILE,
            )  # fmt: skip
        source, before = target, target_mean
        trail *= n
    tl.debug_barrier()


@triton.jit
def _row(
    a, log_a, f, total, mean, h, size, scale, k, error_g, last_cost, steady, w, cap, best,
    anchor, tol, max_iter, ADAPTIVE: tl.constexpr, BY_COST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Judge iteration ``k`` by its log-sum; if another is to follow, update f for it."""
    error, mass, cost = _measure(a, f, total, mean, size, scale, BY_COST, BLOCK)
    error += error_g
    if BY_COST:
        before = steady
        steady = (k > 1) & (tl.abs(cost - last_cost) < tol * tl.abs(cost))
        solved = before & steady  # twice: a cost that turns stands still once
    else:
        solved = (k > 0) & (error < tol)
    running = (k < max_iter) & (solved == 0)
    if running:
        if ADAPTIVE:  # noqa: SIM102, decided at compile time
            if k > 1:
                w, cap, best, anchor = _adapted(k, error, w, cap, best, anchor)
        # The first update of f has no predecessor to go beyond.
        _relax(a, log_a, f, total, h, size, tl.where(k == 0, 1.0, w), BLOCK)
    else:
        _complete(a, f, total, size, BLOCK)
    return running, solved, steady, error, mass, cost, w, cap, best, anchor


@triton.jit
def _complete(mass, potential, total, size, BLOCK: tl.constexpr):
    """Where there is no mass, the half-step from where the other side is now.

    No update of the other side sees the potential there, and none may have followed it.
    """
    for at in range(0, size, BLOCK):
        i = at + tl.arange(0, BLOCK)
        empty = (i < size) & (tl.load(mass + i, mask=i < size, other=1.0) == 0)
        tl.store(potential + i, -tl.load(total + i, mask=empty, other=0.0), mask=empty)


@triton.jit
def _measure(a, f, total, mean, size, scale, MEAN: tl.constexpr, BLOCK: tl.constexpr):
    """Error of the source marginal, mass of the plan and, with MEAN, its cost."""
    dtype = a.dtype.element_ty
    error = tl.zeros((BLOCK,), dtype)
    mass = tl.zeros((BLOCK,), dtype)
    cost = tl.zeros((BLOCK,), dtype)
    for at in range(0, size, BLOCK):
        i = at + tl.arange(0, BLOCK)
        inside = i < size
        m = tl.load(a + i, mask=inside, other=0.0)
        log_ratio = tl.load(f + i, mask=inside, other=0.0)
        log_ratio += tl.load(total + i, mask=inside, other=0.0)
        ratio = _bounded_exp2(log_ratio)
        error += m * tl.abs(ratio - 1)
        mass += m * ratio
        if MEAN:
            cost += m * ratio * tl.load(mean + i, mask=inside, other=0.0)
    return tl.sum(error), tl.sum(mass), tl.sum(cost) / scale


@triton.jit
def _relax(mass, log_mass, potential, total, h, size, w, BLOCK: tl.constexpr):
    """Update a potential, overrelaxed by ``w``, and h = potential + log mass.

    The step beyond the plain update, taken where there is mass, saturates at log(w / (2 - w)).
    Returns the error that it leaves in its own marginal, which is none for w = 1.
    """
    dtype = mass.dtype.element_ty
    w = w.to(dtype)
    error = tl.zeros((BLOCK,), dtype)
    for at in range(0, size, BLOCK):
        i = at + tl.arange(0, BLOCK)
        inside = i < size
        plain = -tl.load(total + i, mask=inside, other=0.0)
        step = plain - tl.load(potential + i, mask=inside, other=0.0)
        tail = tl.exp2(-tl.abs(step))
        beyond = tl.log2(w + (2 - w) * tail) - tl.log2(2 - w + w * tail)
        m = tl.load(mass + i, mask=inside, other=0.0)
        beyond = tl.where(m == 0, 0.0, tl.where(step > 0, beyond, -beyond))
        new = plain + beyond
        tl.store(potential + i, new, mask=inside)
        tl.store(h + i, new + tl.load(log_mass + i, mask=inside, other=0.0), mask=inside)
        error += m * tl.abs(tl.exp2(beyond) - 1)
    return tl.sum(error)


@triton.jit
def _fix_constant(mass, potential, constant, scale, size, BLOCK: tl.constexpr):
    """Add a constant to a potential, bring it to units of cost, return its mean under ``mass``."""
    dual = tl.zeros((BLOCK,), mass.dtype.element_ty)
    for at in range(0, size, BLOCK):
        i = at + tl.arange(0, BLOCK)
        inside = i < size
        x = (tl.load(potential + i, mask=inside, other=0.0) + constant) / scale
        tl.store(potential + i, x, mask=inside)
        dual += tl.load(mass + i, mask=inside, other=0.0) * x
    return tl.sum(dual)


@triton.jit
def _first_weight(span, weight, ADAPTIVE: tl.constexpr):
    """The weight and what adapts it: its cap, the best error, the error four iterations ago.

    An adapted weight is that of the second iteration; the first one is plain.
    """
    dtype = span.dtype
    if ADAPTIVE:
        nats = span / _LOG2E
        rate = nats / (nats + 25)
        w = 2 / (1 + tl.sqrt(1 - rate))
        w = tl.where(w < 1.7, w, 1.7)
    else:
        w = tl.full((), weight, dtype)
    infinite = tl.full((), float("inf"), dtype)
    return w, tl.full((), 1.95, dtype), infinite, infinite


@triton.jit
def _adapted(k, error, w, cap, best, anchor):
    """Follow the theory of successive overrelaxation.

    The error's rate over four iterations gives the rate of the plain iteration, and that the best
    weight. An error that grows fourfold over its best resets the weight to 1.
    """
    best = tl.minimum(best, error)
    over = (w > 1) & (error > 4 * best)
    cap = tl.where(over, 1 + 0.8 * (w - 1), cap)
    w = tl.where(over, 1.0, w)
    best = tl.where(over, error, best)
    if k % 4 == 2:
        if k > 2:
            rho = tl.sqrt(tl.sqrt(error / anchor))
            r = tl.where(rho < 1e-6, 1e-6, rho)
            plain = (r + w - 1) * (r + w - 1) / (r * w * w)
            plain = tl.where(plain < 0.9999, plain, 0.9999)
            young = (w + 2 / (1 + tl.sqrt(1 - plain))) / 2
            # Past the optimum the error falls as (w - 1)^k; one that hardly falls says nothing.
            past = 1 + 0.8 * (w - 1)
            w = tl.where(rho <= 1.05 * (w - 1), past, tl.where(rho < 0.9999, young, w))
            w = tl.minimum(w, cap)
        anchor = error
    return w, cap, best, anchor


@triton.jit
def _reach(cost, size, BLOCK: tl.constexpr):
    """Largest entry of a cost, infinite where one is negative."""
    dtype = cost.dtype.element_ty
    low = tl.zeros((BLOCK,), dtype)
    high = tl.zeros((BLOCK,), dtype)
    for at in range(0, size, BLOCK):
        i = at + tl.arange(0, BLOCK)
        c = tl.load(cost + i, mask=i < size, other=0.0)
        low = tl.minimum(low, c)
        high = tl.maximum(high, c)
    return tl.where(tl.min(low) < 0, float("inf"), tl.max(high))


@triton.jit
def _bounded_exp2(x):
    """2^x, bounded so that sums of it stay finite."""
    return tl.exp2(tl.minimum(x, 990.0 if x.dtype == tl.float64 else 100.0))
