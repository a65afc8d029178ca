"""Calls into the compiled CPU kernels: pointers and sizes, nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops.backends import cpu_isa, cpu_library

_i64, _int, _double, _pointer = ctypes.c_int64, ctypes.c_int, ctypes.c_double, ctypes.c_void_p


def _sizes(shape: Sequence[int]) -> ctypes.Array:
    return (_i64 * len(shape))(*shape)


def _prepare(*tensors: Tensor) -> list[Tensor]:
    return [
        t
        if t.dtype is torch.float64 and t.is_contiguous() and not t.requires_grad
        else t.detach().to(torch.float64).contiguous()
        for t in tensors
    ]


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array:
    """Addresses of tensors that the caller keeps alive during the call."""
    return (_pointer * len(tensors))(*(t.data_ptr() for t in tensors))


def _geometry(costs: Sequence[Tensor]) -> tuple:
    """Arguments that describe the cost."""
    return (
        _int(len(costs)),
        _sizes([c.shape[0] for c in costs]),
        _sizes([c.shape[1] for c in costs]),
        _pointers(costs),
    )


def separable_lse(h: Tensor, costs: Sequence[Tensor], epsilon: Tensor) -> Tensor:
    dtype = h.dtype
    h, epsilon, *costs = _prepare(h, epsilon, *costs)
    out = h.new_empty((h.shape[0], *(c.shape[0] for c in costs)))
    if out.numel():
        getattr(cpu_library(), f"separable_lse_{cpu_isa()}")(
            _i64(h.shape[0]),
            *_geometry(costs),
            _pointer(h.data_ptr()),
            _pointer(epsilon.data_ptr()),
            _int(torch.get_num_threads()),
            _pointer(out.data_ptr()),
        )
    return out.to(dtype)


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
    dtype = a.dtype
    start = g
    a, b, epsilon, g, *costs = _prepare(a, b, epsilon, g, *costs)
    if g.data_ptr() == start.data_ptr():  # the kernel writes into it
        g = g.clone()
    batch = a.shape[0]
    f = torch.empty_like(a)
    cost, value, error = (a.new_empty(batch) for _ in range(3))
    n_iters = torch.empty(batch, dtype=torch.int32)
    converged, log_domain = (torch.empty(batch, dtype=torch.bool) for _ in range(2))
    if batch:
        getattr(cpu_library(), f"sinkhorn_separable_{cpu_isa()}")(
            _i64(batch),
            *_geometry(costs),
            *(_pointer(t.data_ptr()) for t in (a, b, epsilon)),
            _double(tol),
            _int({"marginal": 0, "cost": 1}[criterion]),
            _int(max_iter),
            _double(overrelaxation or 0.0),
            _int(torch.get_num_threads()),
            *(_pointer(t.data_ptr()) for t in (f, g, cost, value, error, n_iters)),
            *(_pointer(t.data_ptr()) for t in (converged, log_domain)),
        )
    return *(t.to(dtype) for t in (f, g, cost, value, error)), n_iters, converged, log_domain


def multiscale_start(
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    costs: Sequence[Tensor],
    prolongations: Sequence[Tensor],
    pools_source: Sequence[Tensor],
    pools_target: Sequence[Tensor],
    coordinates: Sequence[Tensor],
    epsilon_floors: Sequence[float],
    work: Sequence[float],
    gaussian: bool,
    tol: float,
    max_iter: int,
) -> tuple[Tensor, Tensor]:
    dtype = b.dtype
    a, b, epsilon = _prepare(a, b, epsilon)
    lists = [_prepare(*x) for x in (costs, prolongations, pools_source, pools_target, coordinates)]
    costs, coordinates = lists[0], lists[-1]
    d, levels = a.ndim - 1, len(epsilon_floors)
    g, done = torch.empty_like(b), torch.empty_like(epsilon)
    if a.shape[0]:
        getattr(cpu_library(), f"multiscale_start_{cpu_isa()}")(
            _i64(a.shape[0]),
            _int(d),
            _int(levels),
            _sizes([*a.shape[1:], *(c.shape[0] for c in costs)]),
            _sizes([*b.shape[1:], *(c.shape[1] for c in costs)]),
            *(_pointers(x) for x in lists[:-1]),
            _pointers(coordinates[:d]),
            _pointers(coordinates[d:]),
            (_double * levels)(*epsilon_floors),
            (_double * levels)(*work),
            _int(gaussian),
            _double(tol),
            _int(max_iter),
            *(_pointer(t.data_ptr()) for t in (a, b, epsilon)),
            _int(torch.get_num_threads()),
            *(_pointer(t.data_ptr()) for t in (g, done)),
        )
    return g.to(dtype), done
