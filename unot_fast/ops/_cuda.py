"""Calls into the compiled CUDA kernels: pointers, sizes and a stream, nothing else."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from unot_fast.ops.backends import cuda_library

_i64, _int, _double, _pointer = ctypes.c_int64, ctypes.c_int, ctypes.c_double, ctypes.c_void_p
Pair = tuple[Tensor, Tensor]
_MOST_LEVELS = 8
_TOO_LARGE = -1
_CLUSTER = 0  # blocks per problem; 0: the launcher chooses
_PRECISION = {torch.float64: 0, torch.float32: 1}


class _Level(ctypes.Structure):
    _fields_ = (
        ("n", _int * 2),
        ("m", _int * 2),
        *((name, _pointer * 2) for name in ("cost", "prolongation", "pool_n", "pool_m")),
        ("epsilon_floor", _double),
        ("work", _double),
    )


class _Lines(ctypes.Structure):
    _fields_ = (("table", _pointer), ("class_of", _pointer), ("classes", _int), ("length", _int))


class _Room(ctypes.Structure):
    _fields_ = (("offsets", _i64 * 8), ("in_scratch", ctypes.c_uint))


class _Arguments(ctypes.Structure):
    _fields_ = (
        ("batch", _i64),
        ("single", _int),
        ("precision", _int),
        *((name, _pointer) for name in ("a", "b", "epsilon")),
        ("tol", _double),
        ("criterion", _int),
        ("max_iter", _int),
        ("overrelaxation", _double),
        *((name, _pointer) for name in ("f", "g", "cost", "value", "marginal_error")),
        *((name, _pointer) for name in ("n_iters", "converged", "log_domain", "coarse_work")),
        ("levels", _int),
        ("level", _Level * (_MOST_LEVELS + 1)),
        ("lines", _Lines),
        ("x", _pointer * 2),
        ("y", _pointer * 2),
        ("start", _int),
        ("level_tol", _double),
        ("level_max_iter", _int),
        ("together", _int),
        ("room", _Room * 2),
        ("scratch", _pointer),
        *((name, _i64) for name in ("per_block", "at_f", "at_g", "at_masses", "at_mean")),
        ("next_problem", _pointer),
    )


class _Lse(ctypes.Structure):
    _fields_ = (
        ("batch", _i64),
        *((name, _int) for name in ("rows", "length", "rows_in", "length_in", "single")),
        *((name, _int) for name in ("classes", "table_length", "step")),
        *((name, _pointer) for name in ("table", "class_of", "h", "epsilon", "out")),
    )


class _Normalise(ctypes.Structure):
    _fields_ = (
        ("count", _i64 * 2),
        ("points", _i64 * 2),
        ("single", _int),
        *((name, _pointer * 2) for name in ("masses", "scaled", "totals", "smallest")),
    )


class _Plan(ctypes.Structure):
    _fields_ = (
        ("clusters", _int),
        ("cluster", _int),
        ("threads", _int),
        ("shared_bytes", _i64),
        ("scratch_bytes", _i64),
    )


@functools.cache
def supports(shape: tuple[int, ...], target_shape: tuple[int, ...], device: torch.device) -> bool:
    """Whether the one-launch kernel takes grids of these shapes."""
    if len(shape) > 2:
        return False
    arguments = _Arguments(batch=1)
    _set_shape(arguments.level[0], shape, target_shape)
    code = _plan("sinkhorn_separable", arguments, device, False)[0]
    if code != _TOO_LARGE:
        _check(code)
    return code != _TOO_LARGE


def _plan(
    name: str, arguments: _Arguments, device: torch.device, same_axes: bool
) -> tuple[int, _Plan]:
    plan = _Plan()
    code = _function(f"{name}_plan")(
        ctypes.byref(arguments), device.index or 0, same_axes, _CLUSTER, ctypes.byref(plan)
    )
    return code, plan


@functools.cache
def _function(name: str):
    function = cuda_library()[name]
    function.argtypes = {
        "plan": (_pointer, _int, _int, _int, _pointer),
        "launch": (_pointer, _pointer, _int, _pointer, _pointer),
        "run": (_pointer, _int, _pointer),
    }[name.rpartition("_")[2]]
    return function


def sinkhorn_separable(
    a: Tensor, b: Tensor, costs: Sequence[Tensor], epsilon: Tensor, g: Tensor, *options
) -> tuple[Tensor, ...]:
    arguments = _Arguments(start=0)
    costs = [c.to(a.device, torch.float64).contiguous() for c in costs]
    _set_shape(arguments.level[0], a.shape[1:], b.shape[1:])
    _set_pointers(arguments.level[0].cost, (c.data_ptr() for c in costs))
    results = _solve(
        "sinkhorn_separable", arguments, a, b, epsilon, g, _same_axes(costs), options, costs
    )
    return results[:-1]


def sinkhorn_stationary(
    a: Tensor,
    b: Tensor,
    table: Tensor,
    row_class: Tensor,
    epsilon: Tensor,
    g: Tensor,
    *options,
) -> tuple[Tensor, ...]:
    arguments = _Arguments(start=0)
    table, row_class = _lines(table, row_class, a.device)
    rows = (math.prod(x.shape[1:-1]) for x in (a, b))
    shapes = [(n, x.shape[-1]) for n, x in zip(rows, (a, b), strict=True)]
    _set_shape(arguments.level[0], *shapes)
    arguments.lines = _Lines(table.data_ptr(), row_class.data_ptr(), *table.shape)
    keep = table, row_class
    return _solve("sinkhorn_stationary", arguments, a, b, epsilon, g, False, options, keep)[:-1]


def stationary_lse(
    h: Tensor, table: Tensor, row_class: Tensor, step: int, shape: Sequence[int], epsilon: Tensor
) -> Tensor:
    dtype, device = h.dtype, h.device
    h = h.detach().to(torch.float32 if dtype is torch.float32 else torch.float64).contiguous()
    epsilon = epsilon.detach().to(device, torch.float64).contiguous()
    table, row_class = _lines(table, row_class, device)
    out = h.new_empty((h.shape[0], *shape))
    if out.numel():
        arguments = _Lse(
            h.shape[0],
            *(row_class.shape[0], shape[-1], row_class.shape[1], h.shape[-1]),
            h.dtype is torch.float32,
            *(*table.shape, step),
            *(t.data_ptr() for t in (table, row_class, h, epsilon, out)),
        )
        run = _function("stationary_lse_run")
        _check(run(ctypes.byref(arguments), device.index or 0, _stream(device)))
    return out.to(dtype)


def normalise(a: Tensor, b: Tensor, batch: tuple[int, int]) -> tuple[Pair, Pair, Pair]:
    """Masses of total 1, their totals before, and the smallest of each measure, NaN if one is."""
    a, b = a.contiguous(), b.contiguous()
    device = a.device
    scaled = torch.empty_like(a), torch.empty_like(b)
    totals, smallest = (
        tuple(torch.empty(n, dtype=torch.float64, device=device) for n in batch) for _ in range(2)
    )
    arguments = _Normalise(
        batch, tuple(x.numel() // n for x, n in zip((a, b), batch, strict=True)),
        a.dtype is torch.float32,
        *(tuple(t.data_ptr() for t in pair) for pair in ((a, b), scaled, totals, smallest)),
    )  # fmt: skip
    run = _function("normalise_run")
    _check(run(ctypes.byref(arguments), device.index or 0, _stream(device)))
    return scaled, totals, smallest


def _lines(table: Tensor, row_class: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    table = table.detach().to(device, torch.float64).contiguous()
    return table, row_class.to(device, torch.int32).contiguous()


def _stream(device: torch.device) -> int | None:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None


def sinkhorn_multiscale(
    a: Tensor,
    b: Tensor,
    costs: Sequence[Tensor],
    epsilon: Tensor,
    matrices: Tensor,
    level_shapes: Sequence[int],
    epsilon_floors: Sequence[float],
    level_work: Sequence[float],
    gaussian: bool,
    level_tol: float,
    level_max_iter: int,
    *options,
) -> tuple[Tensor, ...]:
    d, levels = a.ndim - 1, len(epsilon_floors)
    if levels > _MOST_LEVELS:
        raise ValueError(f"the CUDA kernels take at most {_MOST_LEVELS} coarser levels")
    arguments = _Arguments(
        levels=levels,
        start=2 if gaussian else 1,
        level_tol=level_tol,
        level_max_iter=level_max_iter,
    )
    costs = [c.to(a.device, torch.float64).contiguous() for c in costs]
    matrices = matrices.to(a.device, torch.float64).contiguous()
    position = matrices.data_ptr()

    def take(rows: Sequence[int], columns: Sequence[int]) -> Iterator[int]:
        nonlocal position
        for count in (r * c for r, c in zip(rows, columns, strict=True)):
            yield position
            position += 8 * count

    fine_n, fine_m = tuple(a.shape[1:]), tuple(b.shape[1:])
    _set_shape(arguments.level[0], fine_n, fine_m)
    _set_pointers(arguments.level[0].cost, (c.data_ptr() for c in costs))
    same_axes = _same_axes(costs)
    for i in range(levels):
        n, m = (tuple(level_shapes[(2 * i + side) * d :][:d]) for side in (0, 1))
        level = arguments.level[i + 1]
        _set_shape(level, n, m)
        _set_pointers(level.cost, take(n, m))
        _set_pointers(level.prolongation, take(fine_m, n))
        _set_pointers(level.pool_n, take(n, fine_n))
        _set_pointers(level.pool_m, take(m, fine_m))
        level.epsilon_floor, level.work = epsilon_floors[i], level_work[i]
        same_axes = same_axes and len({*n}) == len({*m}) == 1
        fine_n, fine_m = n, m
    ones = (1,) * d
    _set_pointers(arguments.x, take(fine_n, ones))
    _set_pointers(arguments.y, take(fine_m, ones))
    keep = costs, matrices
    return _solve("sinkhorn_separable", arguments, a, b, epsilon, None, same_axes, options, keep)


def _same_axes(costs: Sequence[Tensor]) -> bool:
    """Whether both axes are one: then one matrix in shared memory serves them."""
    return len(costs) == 2 and costs[0].data_ptr() == costs[1].data_ptr()


def _set_shape(level: _Level, shape: Sequence[int], target_shape: Sequence[int]) -> None:
    level.n[:] = (1, *shape)[-2:]
    level.m[:] = (1, *target_shape)[-2:]


def _set_pointers(field: ctypes.Array, pointers: Sequence[int] | Iterator[int]) -> None:
    field[:] = (None, *pointers)[-2:]


def _solve(
    name: str,
    arguments: _Arguments,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    start: Tensor | None,
    same_axes: bool,
    options: tuple[float, str, int, float | None],
    keep: object,
) -> tuple[Tensor, ...]:
    """Fill in the rest and launch on the current stream; ``keep`` lives until then."""
    tol, criterion, max_iter, overrelaxation = options
    dtype, device, batch = a.dtype, a.device, a.shape[0]
    a, b = a.detach().contiguous(), b.detach().to(dtype).contiguous()
    epsilon = epsilon.detach().to(device, torch.float64).contiguous()
    f, g = torch.empty_like(a), torch.empty_like(b)
    if start is not None:  # the kernel reads it from where it writes g
        g.copy_(start.detach())
    reals = [torch.empty(batch, dtype=dtype, device=device) for _ in range(3)]
    n_iters = torch.empty(batch, dtype=torch.int32, device=device)
    flags = [torch.empty(batch, dtype=torch.bool, device=device) for _ in range(2)]
    coarse_work = torch.empty(batch, dtype=torch.float64, device=device)
    results = f, g, *reals, n_iters, *flags, coarse_work
    if batch == 0:
        return results
    arguments.batch = batch
    arguments.single = dtype is torch.float32
    # A small relative change of the cost would be noise in tf32.
    arguments.precision = 0 if criterion == "cost" else _PRECISION[dtype]
    arguments.a, arguments.b, arguments.epsilon = (t.data_ptr() for t in (a, b, epsilon))
    arguments.tol, arguments.criterion = tol, {"marginal": 0, "cost": 1}[criterion]
    arguments.max_iter, arguments.overrelaxation = max_iter, overrelaxation or 0.0
    for (field, _), result in zip(_Arguments._fields_[10:19], results, strict=True):
        setattr(arguments, field, result.data_ptr())

    code, plan = _plan(name, arguments, device, same_axes)
    if code == _TOO_LARGE:
        raise ValueError(
            f"grids of {tuple(a.shape[1:])} and {tuple(b.shape[1:])} are too large for the "
            "one-launch CUDA kernel; backend='triton' takes them"
        )
    _check(code)
    scratch = torch.empty(plan.scratch_bytes, dtype=torch.uint8, device=device)
    references = ctypes.byref(arguments), ctypes.byref(plan)
    launch = _function(f"{name}_launch")
    _check(launch(*references, device.index or 0, scratch.data_ptr(), _stream(device)))
    return results


def _check(code: int) -> None:
    if code:
        raise RuntimeError(f"CUDA: {cuda_library().unot_fast_error(code).decode()}")
