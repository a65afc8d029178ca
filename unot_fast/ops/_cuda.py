"""Calls into the compiled CUDA kernels: pointers, sizes and a stream, nothing else."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from unot_fast.ops import spread_out
from unot_fast.ops.backends import cuda_library

_i64, _int, _double, _pointer = ctypes.c_int64, ctypes.c_int, ctypes.c_double, ctypes.c_void_p
Pair = tuple[Tensor, Tensor]
_MOST_LEVELS = 8
_TOO_LARGE = -1
_CLUSTER = 0  # blocks per problem; 0: the launcher chooses
_PRECISION = {torch.float64: 0, torch.float32: 1}


_RESULTS = (
    *("f", "g", "cost", "value", "marginal_error"),
    *("n_iters", "converged", "log_domain", "coarse_work"),
)


class _Level(ctypes.Structure):
    _fields_ = (
        ("n", _int * 2),
        ("m", _int * 2),
        *((name, _pointer * 2) for name in ("cost", "prolongation", "pool_n", "pool_m")),
        *((name, _double) for name in ("smallest_epsilon", "blur", "blur_between", "work")),
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
        *((name, _pointer) for name in _RESULTS),
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


class _Axis(ctypes.Structure):
    _fields_ = (
        *((name, _i64) for name in ("batch", "outer", "inner")),
        *((name, _int) for name in ("length_in", "length", "single_in", "single")),
        *((name, _pointer) for name in ("cost", "x", "epsilon", "out")),
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


def sinkhorn_separable(
    a: Tensor, b: Tensor, costs: Sequence[Tensor], epsilon: Tensor, g: Tensor, *options
) -> tuple[Tensor, ...]:
    costs = _doubles(costs, a.device)
    geometry = _shape(a), _shape(b), _addresses(costs)
    return _solve("sinkhorn_separable", _separable, geometry, a, b, epsilon, g, options)[:-1]


def sinkhorn_multiscale(
    a: Tensor,
    b: Tensor,
    costs: Sequence[Tensor],
    epsilon: Tensor,
    matrices: Tensor,
    level_shapes: Sequence[int],
    level_epsilons: Sequence[float],
    level_work: Sequence[float],
    gaussian: bool,
    level_tol: float,
    level_max_iter: int,
    *options,
) -> tuple[Tensor, ...]:
    costs, (matrices,) = _doubles(costs, a.device), _doubles([matrices], a.device)
    levels = tuple(level_shapes), tuple(level_epsilons), tuple(level_work)
    settings = gaussian, level_tol, level_max_iter
    geometry = (_shape(a), _shape(b), _addresses(costs), matrices.data_ptr(), *levels, *settings)
    return _solve("sinkhorn_separable", _multiscale, geometry, a, b, epsilon, None, options)


def sinkhorn_stationary(
    a: Tensor, b: Tensor, table: Tensor, row_class: Tensor, epsilon: Tensor, g: Tensor, *options
) -> tuple[Tensor, ...]:
    """In one launch, or as log-sum-exps where the grids are too large for that."""
    (table,) = _doubles([table], a.device)
    row_class = row_class.to(a.device, torch.int32).contiguous()
    if not _takes_lines(_shape(a), _shape(b), tuple(table.shape), a.device):
        return spread_out.sinkhorn_stationary(
            a, b, table, row_class, epsilon.to(a.device), g, *options, backend="cuda"
        )
    geometry = _shape(a), _shape(b), table.data_ptr(), row_class.data_ptr(), *table.shape
    return _solve("sinkhorn_stationary", _stationary, geometry, a, b, epsilon, g, options)[:-1]


@functools.cache
def supports(shape: tuple[int, ...], target_shape: tuple[int, ...], device: torch.device) -> bool:
    """Whether `sinkhorn_separable` takes grids of these shapes."""
    if len(shape) > 2:
        return False
    geometry = shape, target_shape, (None,) * len(shape)
    return _fits("sinkhorn_separable", _separable, geometry, device)


@functools.cache
def _takes_lines(
    shape: tuple[int, ...],
    target_shape: tuple[int, ...],
    table: tuple[int, int],
    device: torch.device,
) -> bool:
    geometry = shape, target_shape, None, None, *table
    return _fits("sinkhorn_stationary", _stationary, geometry, device)


def _fits(name: str, describe: Callable, geometry: tuple, device: torch.device) -> bool:
    """Whether a problem is solved in one launch."""
    code = _planned(name, describe, geometry, 1, 0, device, _CLUSTER)[0]
    if code != _TOO_LARGE:
        _check(code)
    return code != _TOO_LARGE


def separable_lse(h: Tensor, costs: Sequence[Tensor], epsilon: Tensor) -> Tensor:
    dtype, device = h.dtype, h.device
    real = torch.float32 if dtype is torch.float32 else torch.float64
    x = h.detach().to(real).contiguous()
    epsilon, *costs = _doubles([epsilon, *costs], device)
    shape = list(x.shape)
    for axis in range(len(costs), 0, -1):  # the last first; between axes in float64
        (shape[axis], length_in), last = costs[axis - 1].shape, axis == 1
        out = torch.empty(shape, dtype=real if last else torch.float64, device=device)
        if out.numel():
            arguments = _Axis(
                shape[0], math.prod(shape[1:axis]), math.prod(shape[axis + 1 :]),
                length_in, shape[axis], x.dtype is torch.float32, out.dtype is torch.float32,
                *_addresses((costs[axis - 1], x, epsilon, out)),
            )  # fmt: skip
            run = _function("separable_lse_run")
            _check(run(ctypes.byref(arguments), device.index or 0, _stream(device)))
        x = out
    return x.to(dtype)


def stationary_lse(
    h: Tensor, table: Tensor, row_class: Tensor, step: int, shape: Sequence[int], epsilon: Tensor
) -> Tensor:
    dtype, device = h.dtype, h.device
    h = h.detach().to(torch.float32 if dtype is torch.float32 else torch.float64).contiguous()
    epsilon, table = _doubles([epsilon, table], device)
    row_class = row_class.to(device, torch.int32).contiguous()
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


def _doubles(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    return [t.detach().to(device, torch.float64).contiguous() for t in tensors]


def _addresses(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(t.data_ptr() for t in tensors)


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape[1:])


def _stream(device: torch.device) -> int | None:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None


def _separable(
    shape: tuple[int, ...], target_shape: tuple[int, ...], costs: tuple[int | None, ...]
) -> tuple[_Arguments, bool]:
    """Arguments that describe a geometry, and whether one matrix serves both of its axes."""
    arguments = _Arguments(start=0)
    _set_shape(arguments.level[0], shape, target_shape)
    _set_pointers(arguments.level[0].cost, costs)
    return arguments, len(costs) == 2 and costs[0] == costs[1] is not None


def _multiscale(
    shape, target_shape, costs, matrices, level_shapes, epsilons, work, gaussian, tol, max_iter
) -> tuple[_Arguments, bool]:
    d, levels = len(shape), len(work)
    if levels > _MOST_LEVELS:
        raise ValueError(f"the CUDA kernels take at most {_MOST_LEVELS} coarser levels")
    arguments, same_axes = _separable(shape, target_shape, costs)
    arguments.levels, arguments.start = levels, 2 if gaussian else 1
    arguments.level_tol, arguments.level_max_iter = tol, max_iter
    position = matrices

    def take(rows: Sequence[int], columns: Sequence[int]) -> Iterator[int]:
        nonlocal position
        for count in (r * c for r, c in zip(rows, columns, strict=True)):
            yield position
            position += 8 * count

    for i in range(levels):
        n, m = (level_shapes[(2 * i + side) * d :][:d] for side in (0, 1))
        level = arguments.level[i + 1]
        _set_shape(level, n, m)
        _set_pointers(level.cost, take(n, m))
        _set_pointers(level.prolongation, take(target_shape, n))
        _set_pointers(level.pool_n, take(n, shape))
        _set_pointers(level.pool_m, take(m, target_shape))
        level.smallest_epsilon, level.blur, level.blur_between = epsilons[3 * i : 3 * i + 3]
        level.work = work[i]
        same_axes = same_axes and len(set(n)) == len(set(m)) == 1
        shape, target_shape = n, m
    ones = (1,) * d
    _set_pointers(arguments.x, take(shape, ones))
    _set_pointers(arguments.y, take(target_shape, ones))
    return arguments, same_axes


def _stationary(
    shape, target_shape, table: int, row_class: int, classes: int, length: int
) -> tuple[_Arguments, bool]:
    arguments = _Arguments(start=0)
    rows = ((math.prod(n[:-1]), n[-1]) for n in (shape, target_shape))
    _set_shape(arguments.level[0], *rows)
    arguments.lines = _Lines(table, row_class, classes, length)
    return arguments, False


def _set_shape(level: _Level, shape: Sequence[int], target_shape: Sequence[int]) -> None:
    if len(shape) > 2:
        raise ValueError(
            f"the CUDA kernels take separable costs on one or two axes; got {len(shape)}: "
            "backend='triton' takes more"
        )
    level.n[:] = (1, *shape)[-2:]
    level.m[:] = (1, *target_shape)[-2:]


def _set_pointers(field: ctypes.Array, pointers: Iterable[int | None]) -> None:
    field[:] = (None, *pointers)[-2:]


@functools.lru_cache(maxsize=256)
def _planned(
    name: str,
    describe: Callable[..., tuple[_Arguments, bool]],
    geometry: tuple,
    batch: int,
    precision: int,
    device: torch.device,
    cluster: int,
) -> tuple[int, bytes, _Plan]:
    """How a call is launched, and its arguments but for tensors and options of the solve."""
    arguments, same_axes = describe(*geometry)
    arguments.batch, arguments.precision = batch, precision
    plan = _Plan()
    code = _function(f"{name}_plan")(
        ctypes.byref(arguments), device.index or 0, same_axes, cluster, ctypes.byref(plan)
    )
    return code, bytes(arguments), plan


def _solve(
    name: str,
    describe: Callable[..., tuple[_Arguments, bool]],
    geometry: tuple,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    start: Tensor | None,
    options: tuple[float, str, int, float | None],
) -> tuple[Tensor, ...]:
    """Launch on the current stream; the tensors of ``geometry`` must live until this returns."""
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
    # A small relative change of the cost would be noise in tf32.
    precision = 0 if criterion == "cost" else _PRECISION[dtype]
    code, prepared, plan = _planned(name, describe, geometry, batch, precision, device, _CLUSTER)
    if code == _TOO_LARGE:
        raise ValueError(
            f"grids of {tuple(a.shape[1:])} and {tuple(b.shape[1:])} are too large for the "
            "one-launch CUDA kernel; backend='triton' takes them"
        )
    _check(code)
    arguments = _Arguments.from_buffer_copy(prepared)
    arguments.single = dtype is torch.float32
    arguments.a, arguments.b, arguments.epsilon = _addresses((a, b, epsilon))
    arguments.tol, arguments.criterion = tol, {"marginal": 0, "cost": 1}[criterion]
    arguments.max_iter, arguments.overrelaxation = max_iter, overrelaxation or 0.0
    for field, result in zip(_RESULTS, results, strict=True):
        setattr(arguments, field, result.data_ptr())
    scratch = torch.empty(plan.scratch_bytes, dtype=torch.uint8, device=device)
    references = ctypes.byref(arguments), ctypes.byref(plan)
    launch = _function(f"{name}_launch")
    _check(launch(*references, device.index or 0, scratch.data_ptr(), _stream(device)))
    return results


@functools.cache
def _function(name: str):
    function = cuda_library()[name]
    function.argtypes = {
        "plan": (_pointer, _int, _int, _int, _pointer),
        "launch": (_pointer, _pointer, _int, _pointer, _pointer),
        "run": (_pointer, _int, _pointer),
    }[name.rpartition("_")[2]]
    return function


def _check(code: int) -> None:
    if code:
        raise RuntimeError(f"CUDA: {cuda_library().unot_fast_error(code).decode()}")
