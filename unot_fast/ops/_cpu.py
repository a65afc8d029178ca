"""Calls into the compiled CPU kernels: pointers and sizes, nothing else."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops.backends import cpu_isa, cpu_library

_i64, _int, _double, _pointer = ctypes.c_int64, ctypes.c_int, ctypes.c_double, ctypes.c_void_p
_geometry_types = (_int, _pointer, _pointer, _pointer)
_ARGUMENTS = {
    "separable_lse": (_i64, *_geometry_types, _pointer, _pointer, _int, _pointer),
    "sinkhorn_separable": (
        *(_i64, *_geometry_types, _int, *(_pointer,) * 4),
        *(_double, _int, _int, _double, _int, *(_pointer,) * 9),
    ),
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


def _geometry(costs: Sequence[Tensor]) -> tuple:
    """Arguments that describe the cost."""
    n, m = zip(*(c.shape for c in costs), strict=True)
    return len(costs), _sizes(n), _sizes(m), _pointers(costs)


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


class _Pyramid(ctypes.Structure):
    _fields_ = (
        ("levels", _i64),
        *((name, _pointer) for name in ("shapes", "matrices", "epsilon_floor", "work")),
        ("tol", _double),
        ("max_iter", _i64),
        ("gaussian", _i64),
    )


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
    # The kernel writes into g, so it gets a copy.
    start = g.detach().to(a.dtype, memory_format=torch.contiguous_format, copy=True)
    return _solve(a, b, costs, epsilon, start, None, tol, criterion, max_iter, overrelaxation)[:-1]


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
    tol: float,
    criterion: str,
    max_iter: int,
    overrelaxation: float | None,
) -> tuple[Tensor, ...]:
    levels = len(epsilon_floors)
    (matrices,) = _prepare(matrices)
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
    g = torch.empty(b.shape, dtype=b.dtype)
    return _solve(a, b, costs, epsilon, g, pyramid, tol, criterion, max_iter, overrelaxation)


def _solve(
    a: Tensor,
    b: Tensor,
    costs: Sequence[Tensor],
    epsilon: Tensor,
    g: Tensor,
    pyramid: _Pyramid | None,
    tol: float,
    criterion: str,
    max_iter: int,
    overrelaxation: float | None,
) -> tuple[Tensor, ...]:
    dtype, batch = a.dtype, a.shape[0]
    a, b = _prepare(a, b, dtype=dtype)
    epsilon, *costs = _prepare(epsilon, *costs)
    f = torch.empty_like(a)
    cost, value, error = (torch.empty(batch, dtype=dtype) for _ in range(3))
    n_iters = torch.empty(batch, dtype=torch.int32)
    converged, log_domain = (torch.empty(batch, dtype=torch.bool) for _ in range(2))
    coarse_work = torch.empty(batch, dtype=torch.float64)
    results = f, g, cost, value, error, n_iters, converged, log_domain, coarse_work
    if batch:
        _kernel("sinkhorn_separable")(
            batch,
            *_geometry(costs),
            dtype is torch.float32,
            *(t.data_ptr() for t in (a, b, epsilon)),
            ctypes.byref(pyramid) if pyramid else None,
            tol,
            {"marginal": 0, "cost": 1}[criterion],
            max_iter,
            overrelaxation or 0.0,
            torch.get_num_threads(),
            *(t.data_ptr() for t in results),
        )
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
