"""Calls into the compiled CPU kernels: pointers and sizes, nothing else."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops.backends import ROUNDINGS, cpu_isa, cpu_library, cpu_rounding
from unot_fast.ops.complex_tables import adjoint
from unot_fast.ops.pages import empty

_i64, _int, _double, _pointer = ctypes.c_int64, ctypes.c_int, ctypes.c_double, ctypes.c_void_p
_side = (_int, _pointer, _pointer)
_ARGUMENTS = {
    "separable_lse": (_i64, *_side, _pointer, _pointer, _pointer, _int, _pointer),
    "stationary_lse": (_i64, *_side, _i64, _i64, *(_pointer,) * 4, _int, _pointer),
    "sinkhorn_separable": (_pointer, *_side, _pointer, _pointer),
    "sinkhorn_stationary": (_pointer, *_side, _i64, _pointer, _pointer),
    "normalise": (*(_i64,) * 4, _int, _pointer, _pointer, _int, *(_pointer,) * 5),
    "spectral_analysis": (_i64, _pointer, _int, _int, *(_pointer,) * 3, _int, _pointer),
    **dict.fromkeys(("spectral_mixing", "spectral_synthesis", "channel_mlp"), (_pointer, _int)),
    **dict.fromkeys(("legendre_products", "potential", "c_transform"), (_pointer,)),
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
    if any(t.device.type != "cpu" for t in tensors):
        raise RuntimeError("backend 'cpu' takes tensors on the CPU; some are elsewhere")
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
        *((name, _pointer) for name in ("shapes", "matrices", "epsilons", "work")),
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
    level_epsilons: Sequence[float],
    level_work: Sequence[float],
    gaussian: bool,
    level_tol: float,
    level_max_iter: int,
    *options,
) -> tuple[Tensor, ...]:
    levels = len(level_work)
    matrices, *costs = _prepare(matrices, *costs)
    shapes = _sizes(level_shapes)
    epsilons, work = (_double * (3 * levels))(*level_epsilons), (_double * levels)(*level_work)
    pyramid = _Pyramid(
        levels,
        ctypes.addressof(shapes),
        matrices.data_ptr(),
        ctypes.addressof(epsilons),
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
    reals = [torch.empty(batch, dtype=dtype, device="cpu") for _ in range(3)]
    n_iters = torch.empty(batch, dtype=torch.int32, device="cpu")
    flags = [torch.empty(batch, dtype=torch.bool, device="cpu") for _ in range(2)]
    coarse_work = torch.empty(batch, dtype=torch.float64, device="cpu")
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
    masses = (
        torch.empty(a.shape, dtype=a.dtype, device="cpu"),
        torch.empty(b.shape, dtype=b.dtype, device="cpu"),
    )
    totals = tuple(torch.empty(size, dtype=torch.float64, device="cpu") for size in batch)
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


class _Transform(ctypes.Structure):
    _fields_ = tuple((name, _i64) for name in ("n0", "n1", "m0", "m1"))


class _Mixing(ctypes.Structure):
    _fields_ = (
        *((name, _i64) for name in ("batch", "inputs", "outputs", "modes")),
        *((name, _int) for name in ("single", "rounded", "gelu")),
        *((name, _pointer) for name in ("x", "weight", "bias")),
        ("threads", _int),
        *((name, _pointer) for name in ("y", "kept", "dy", "dx", "dweight", "dbias")),
    )


class _Mlp(ctypes.Structure):
    _fields_ = (
        *((name, _i64) for name in ("inputs", "hidden", "outputs")),
        *((name, _pointer) for name in ("w1", "b1", "w2", "b2", "gate")),
        *((name, _pointer) for name in ("dw1", "db1", "dw2", "db2", "dgate")),
    )


class _Synthesis(ctypes.Structure):
    _fields_ = (
        *((name, _i64) for name in ("batch", "inputs", "outputs")),
        ("shape", _Transform),
        *((name, _int) for name in ("single", "rounded", "gelu")),
        *((name, _pointer) for name in ("c", "first", "last", "x", "skip", "bias")),
        ("mlp", _Mlp),
        ("threads", _int),
        *((name, _pointer) for name in ("y", "kept", "dy", "adjoint_first", "adjoint_last")),
        *((name, _pointer) for name in ("dc", "dx", "dskip", "dbias")),
    )


class _ChannelMlp(ctypes.Structure):
    _fields_ = (
        ("batch", _i64),
        ("pixels", _i64),
        *((name, _int) for name in ("single", "rounded", "gelu")),
        ("mlp", _Mlp),
        *((name, _pointer) for name in ("x", "residual")),
        ("threads", _int),
        *((name, _pointer) for name in ("y", "dy", "dx", "dresidual")),
    )


def spectral_analysis(x: Tensor, tables: Sequence[Tensor]) -> Tensor:
    d = len(tables)
    x, *tables = _contiguous(x, *tables)
    out = empty((*x.shape[:-d], 2, *(t.shape[0] for t in tables)), x.dtype)
    # Without a table for the first axis there are lines only.
    first, last = tables if d == 2 else (None, tables[0])
    n0, m0 = (1, 1) if first is None else (first.shape[1], first.shape[0])
    shape = _Transform(n0, last.shape[1], m0, last.shape[0])
    if out.numel():
        _kernel("spectral_analysis")(
            x.shape[:-d].numel(),
            ctypes.byref(shape),
            *_precision(x),
            *_addresses(x, first, last),
            torch.get_num_threads(),
            out.data_ptr(),
        )
    return out


class _Legendre(ctypes.Structure):
    _fields_ = (
        *((name, _i64) for name in ("batch", "channels", "points", "degrees", "orders")),
        ("single", _int),
        ("to_lines", _int),
        ("x", _pointer),
        ("table", _pointer),
        ("threads", _int),
        ("out", _pointer),
    )


def legendre_products(x: Tensor, table: Tensor, to_lines: bool) -> Tensor:
    x, table = _contiguous(x, table)
    orders, rows, columns = table.shape
    samples = x.shape[2:4] if to_lines else x.shape[:2]
    shape = (*samples, rows, 2, orders) if to_lines else (rows, orders, *samples, 2)
    if not (x.numel() and rows):
        return x.new_zeros(shape)
    out = empty(shape, x.dtype)
    arguments = _Legendre(
        *samples,
        *((rows, columns) if to_lines else (columns, rows)),
        orders,
        x.dtype is torch.float32,
        to_lines,
        *_addresses(x, table),
        torch.get_num_threads(),
        out.data_ptr(),
    )
    _kernel("legendre_products")(ctypes.byref(arguments))
    return out


def spectral_mixing(
    c: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool, kept: Tensor | None = None
) -> Tensor:
    out = empty((c.shape[0], weight.shape[1], *c.shape[2:]), c.dtype)
    _mix(c, weight, bias, gelu, (out, kept, None, None, None, None))
    return out


def spectral_mixing_vjp(
    grad: Tensor,
    c: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gelu: bool,
    weights: bool,
    kept: Tensor | None = None,
) -> tuple[Tensor, ...]:
    inputs = (c, weight, bias) if weights else (c, None, None)
    found = [None if t is None else empty(t.shape, c.dtype) for t in inputs]
    _mix(c, weight, bias, gelu, (None, kept, grad.contiguous(), *found))
    return tuple(c.new_empty(0) if t is None else t for t in found)


def _mix(c, weight, bias, gelu, results) -> None:
    c, weight, bias = _contiguous(c, weight, bias)
    arguments = _Mixing(
        c.shape[0],
        *weight.shape[:2],
        weight.shape[2:-1].numel(),
        *_precision(c),
        gelu,
        *_addresses(c, weight, bias),
        torch.get_num_threads(),
        *_addresses(*results),
    )
    _kernel("spectral_mixing")(ctypes.byref(arguments), results[0] is None)


def spectral_synthesis(
    c: Tensor, tables: Sequence[Tensor], *inputs, kept: Tensor | None = None
) -> Tensor:
    *inputs, gelu = inputs
    w2, d = inputs[5], len(tables)
    channels = c.shape[1] if w2 is None else w2.shape[0]
    points = *c.shape[2 : -d - 1], *(t.shape[0] for t in tables)
    out = empty((c.shape[0], channels, *points), c.dtype)
    _synthesise(c, tables, inputs, gelu, out, kept, None, [None] * 9)
    return out


def spectral_synthesis_vjp(
    grad: Tensor, c: Tensor, tables: Sequence[Tensor], *inputs, kept: Tensor | None = None
) -> tuple[Tensor, ...]:
    x, *others, gelu, weights = inputs
    dx = None if x is None else empty(x.shape, c.dtype)
    dc, *sums = _zeros_like((c, *(t if weights else None for t in others)), c.dtype)
    _synthesise(c, tables, (x, *others), gelu, None, kept, grad.contiguous(), (dc, dx, *sums))
    return tuple(c.new_empty(0) if t is None else t for t in (dc, dx, *sums))


def _synthesise(c, tables, inputs, gelu, out, kept, grad, results) -> None:
    c, x, skip, bias, *mlp = _contiguous(c, *inputs)
    tables = _contiguous(*tables)
    *points, n1 = (out if grad is None else grad).shape[2:]
    # Without a table for the first axis there are lines in its place.
    first, last = tables if len(tables) == 2 else (None, tables[0])
    n0 = points[0] if points else 1
    adjoint_first, adjoint_last = (
        None if t is None or grad is None else adjoint(t).contiguous() for t in (first, last)
    )
    dc, dx, dskip, dbias, *dmlp = results
    arguments = _Synthesis(
        c.shape[0],
        0 if x is None else x.shape[1],
        c.shape[1],
        _Transform(n0, n1, n0 if first is None else c.shape[-2], c.shape[-1]),
        *_precision(c),
        gelu,
        *_addresses(c, first, last, x, skip, bias),
        _mlp(mlp, dmlp),
        torch.get_num_threads(),
        *_addresses(out, kept, grad, adjoint_first, adjoint_last, dc, dx, dskip, dbias),
    )
    if c.shape[0]:
        _kernel("spectral_synthesis")(ctypes.byref(arguments), out is None)


def channel_mlp(x: Tensor, *inputs) -> Tensor:
    *weights, residual, gate, gelu = inputs
    out = empty((x.shape[0], weights[2].shape[0], *x.shape[2:]), x.dtype)
    _run_mlp(x, residual, (*weights, gate), gelu, (out, None, None, None), [None] * 5)
    return out


def channel_mlp_vjp(grad: Tensor, x: Tensor, *inputs) -> tuple[Tensor, ...]:
    *layers, residual, gate, gelu, weights = inputs
    dx, dr = (None if t is None else empty(t.shape, x.dtype) for t in (x, residual))
    layers.append(gate)
    *sums, dgate = _zeros_like([t if weights else None for t in layers], x.dtype)
    _run_mlp(x, residual, layers, gelu, (None, grad.contiguous(), dx, dr), (*sums, dgate))
    return tuple(x.new_empty(0) if t is None else t for t in (dx, *sums, dr, dgate))


def _run_mlp(x, residual, weights, gelu, results, gradients) -> None:
    x, residual, *weights = _contiguous(x, residual, *weights)
    arguments = _ChannelMlp(
        x.shape[0],
        x.shape[2:].numel(),
        *_precision(x),
        gelu,
        _mlp(weights, gradients),
        *_addresses(x, residual),
        torch.get_num_threads(),
        *_addresses(*results),
    )
    if x.numel():
        _kernel("channel_mlp")(ctypes.byref(arguments), results[0] is None)


def _mlp(weights: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> _Mlp:
    w1, _, w2, *_ = weights
    sizes = (0, 0, 0) if w1 is None else (w1.shape[1], w1.shape[0], w2.shape[0])
    return _Mlp(*sizes, *_addresses(*weights, *gradients))


def _precision(x: Tensor) -> tuple[bool, int]:
    """Whether products are in single precision, and how their factors are rounded."""
    single = x.dtype is torch.float32
    return single, ROUNDINGS.index(cpu_rounding()) if single else 0


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    """For operators that have found the first, which is there, and all others alike."""
    if tensors[0].device.type != "cpu":
        raise RuntimeError("backend 'cpu' takes tensors on the CPU; these are elsewhere")
    return [None if t is None else t.contiguous() for t in tensors]


def _zeros_like(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    return [None if t is None else torch.zeros(t.shape, dtype=dtype, device="cpu") for t in tensors]


def _addresses(*tensors: Tensor | None) -> tuple[int | None, ...]:
    return tuple(None if t is None else t.data_ptr() for t in tensors)
