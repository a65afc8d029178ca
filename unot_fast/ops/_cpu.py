"""Calls into the compiled CPU kernels: pointers and sizes, nothing else."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops.backends import cpu_isa, cpu_library

_i64, _int, _double, _pointer = ctypes.c_int64, ctypes.c_int, ctypes.c_double, ctypes.c_void_p
_side = (_int, _pointer, _pointer)
_ARGUMENTS = {
    "separable_lse": (_i64, *_side, _pointer, _pointer, _pointer, _int, _pointer),
    "stationary_lse": (_i64, *_side, _i64, _i64, *(_pointer,) * 4, _int, _pointer),
    "sinkhorn_separable": (_pointer, *_side, _pointer, _pointer),
    "sinkhorn_stationary": (_pointer, *_side, _i64, _pointer, _pointer),
    "normalise": (*(_i64,) * 4, _int, _pointer, _pointer, _int, *(_pointer,) * 5),
}


@functools.cache
def _function(name: str, isa: str):
    function = cpu_library()[f"{name}_{isa}"]
    function.argtypes = _ARGUMENTS[name]
    return function


def _kernel(name: str):
    """A function of the library, for the instruction set in use."""
    return _function(name, cpu_isa())


def _sizes(shape: Sequence[int]) -> ctypes.Array:
    return (_i64 * len(shape))(*shape)


def _prepare(*tensors: Tensor, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [
        t
        if t.dtype is dtype and t.is_contiguous() and not t.requires_grad
        else t.detach().to(dtype).contiguous()
        for t in tensors
    ]


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array:
    """Addresses of tensors that the caller keeps alive during the call."""
    return (_pointer * len(tensors))(*(t.data_ptr() for t in tensors))


def _shapes(n: Sequence[int], m: Sequence[int]) -> tuple:
    return len(n), _sizes(n), _sizes(m)


def _geometry(costs: Sequence[Tensor]) -> tuple:
    """Arguments that describe a separable cost."""
    return *_shapes(*zip(*(c.shape for c in costs), strict=True)), _pointers(costs)


def separable_lse(h: Tensor, costs: Sequence[Tensor], epsilon: Tensor) -> Tensor:
    dtype = h.dtype
    h, epsilon, *costs = _prepare(h, epsilon, *costs)
    out = h.new_empty((h.shape[0], *(c.shape[0] for c in costs)))
    if out.numel():
        _kernel("separable_lse")(
            h.shape[0],
            *_geometry(costs),
            h.data_ptr(),
            epsilon.data_ptr(),
            torch.get_num_threads(),
            out.data_ptr(),
        )
    return out.to(dtype)


def stationary_lse(
    h: Tensor, table: Tensor, row_class: Tensor, step: int, shape: Sequence[int], epsilon: Tensor
) -> Tensor:
    dtype = h.dtype
    h, table, epsilon = _prepare(h, table, epsilon)
    (row_class,) = _prepare(row_class, dtype=torch.int32)
    out = h.new_empty((h.shape[0], *shape))
    if out.numel():
        _kernel("stationary_lse")(
            h.shape[0],
            *_shapes(shape, h.shape[1:]),
            table.shape[0],
            step,
            *(t.data_ptr() for t in (table, row_class, h, epsilon)),
            torch.get_num_threads(),
            out.data_ptr(),
        )
    return out.to(dtype)


class _Pyramid(ctypes.Structure):
    _fields_ = (
        ("levels", _i64),
        *((name, _pointer) for name in ("shapes", "matrices", "epsilon_floor", "work")),
        ("tol", _double),
        ("max_iter", _i64),
        ("gaussian", _i64),
    )


class _Solve(ctypes.Structure):
    _fields_ = (
        ("batch", _i64),
        ("single", _int),
        *((name, _pointer) for name in ("a", "b", "epsilon")),
        ("tol", _double),
        ("criterion", _int),
        ("max_iter", _int),
        ("overrelaxation", _double),
        ("threads", _int),
        *((name, _pointer) for name in ("f", "g", "cost", "value", "marginal_error")),
        *((name, _pointer) for name in ("n_iters", "converged", "log_domain", "coarse_work")),
    )


def sinkhorn_separable(
    a: Tensor,
    b: Tensor,
    costs: Sequence[Tensor],
    epsilon: Tensor,
    g: Tensor,
    *options,
) -> tuple[Tensor, ...]:
    costs = _prepare(*costs)
    results = _solve("sinkhorn_separable", a, b, epsilon, g, options, *_geometry(costs), None)
    return results[:-1]


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
    levels = len(epsilon_floors)
    matrices, *costs = _prepare(matrices, *costs)
    shapes = _sizes(level_shapes)
    floors, work = (_double * levels)(*epsilon_floors), (_double * levels)(*level_work)
    pyramid = _Pyramid(
        levels,
        ctypes.addressof(shapes),
        matrices.data_ptr(),
        ctypes.addressof(floors),
        ctypes.addressof(work),
        level_tol,
        level_max_iter,
        gaussian,
    )
    cost = *_geometry(costs), ctypes.byref(pyramid)
    return _solve("sinkhorn_separable", a, b, epsilon, None, options, *cost)


def sinkhorn_stationary(
    a: Tensor,
    b: Tensor,
    table: Tensor,
    row_class: Tensor,
    epsilon: Tensor,
    g: Tensor,
    *options,
) -> tuple[Tensor, ...]:
    (table,), (row_class,) = _prepare(table), _prepare(row_class, dtype=torch.int32)
    shapes = _shapes(a.shape[1:], b.shape[1:])
    cost = *shapes, table.shape[0], table.data_ptr(), row_class.data_ptr()
    return _solve("sinkhorn_stationary", a, b, epsilon, g, options, *cost)[:-1]


def _solve(
    name: str,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    start: Tensor | None,
    options: tuple[float, str, int, float | None],
    *cost,
) -> tuple[Tensor, ...]:
    tol, criterion, max_iter, overrelaxation = options
    dtype, batch = a.dtype, a.shape[0]
    a, b = _prepare(a, b, dtype=dtype)
    (epsilon,) = _prepare(epsilon)
    f, g = torch.empty_like(a), torch.empty_like(b)
    if start is not None:  # the kernel writes into it
        g.copy_(start.detach())
    reals = [torch.empty(batch, dtype=dtype) for _ in range(3)]
    n_iters = torch.empty(batch, dtype=torch.int32)
    flags = [torch.empty(batch, dtype=torch.bool) for _ in range(2)]
    coarse_work = torch.empty(batch, dtype=torch.float64)
    results = f, g, *reals, n_iters, *flags, coarse_work
    if batch:
        arguments = _Solve(
            batch,
            dtype is torch.float32,
            *(t.data_ptr() for t in (a, b, epsilon)),
            tol,
            {"marginal": 0, "cost": 1}[criterion],
            max_iter,
            overrelaxation or 0.0,
            torch.get_num_threads(),
            *(t.data_ptr() for t in results),
        )
        _kernel(name)(ctypes.byref(arguments), *cost)
    return results


def normalise(
    a: Tensor, b: Tensor, batch: tuple[int, int]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], float | None]:
    a, b = a.contiguous(), b.contiguous()
    masses = torch.empty(a.shape, dtype=a.dtype), torch.empty(b.shape, dtype=b.dtype)
    totals = tuple(torch.empty(size, dtype=torch.float64) for size in batch)
    gap = _double()
    valid = _kernel("normalise")(
        *(size for x, n in zip((a, b), batch, strict=True) for size in (n, x.numel() // n)),
        a.dtype is torch.float32,
        a.data_ptr(),
        b.data_ptr(),
        torch.get_num_threads(),
        *(t.data_ptr() for t in (*masses, *totals)),
        ctypes.byref(gap),
    )
    return masses, totals, gap.value if valid else None
