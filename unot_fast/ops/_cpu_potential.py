"""Calls into the compiled CPU kernels of potentials."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from unot_fast.ops._cpu import _addresses, _contiguous, _kernel, _pointers, _sizes

_i64, _int, _double, _pointer = ctypes.c_int64, ctypes.c_int, ctypes.c_double, ctypes.c_void_p


class _Potential(ctypes.Structure):
    _fields_ = (
        *((name, _i64) for name in ("dim", "layers", "rows", "classes")),
        ("widths", _pointer),
        ("single", _int),
        *((name, _double) for name in ("strong", "sharpness")),
        *((name, _pointer) for name in ("maps", "bias", "top", "linear", "hidden")),
    )


class _Values(ctypes.Structure):
    _fields_ = (
        ("batch", _i64),
        ("potential", _Potential),
        *((name, _pointer) for name in ("x", "weight", "labels")),
        ("threads", _int),
        *((name, _pointer) for name in ("value", "dx", "dmaps", "dbias", "dtop", "dlinear")),
        ("dhidden", _pointer),
    )


class _CTransform(ctypes.Structure):
    _fields_ = (
        ("batch", _i64),
        ("potential", _Potential),
        *((name, _pointer) for name in ("z", "start", "tolerance", "preconditioner", "labels")),
        *((name, _i64) for name in ("memory", "max_iter")),
        ("threads", _int),
        *((name, _pointer) for name in ("y", "residual", "n_iters", "converged")),
    )


class _Weights:
    """The arguments of a potential; keeps alive what its addresses point to."""

    def __init__(self, x: Tensor, maps, hidden, bias, top, linear, strong, sharpness) -> None:
        *tensors, self.top = _contiguous(maps, bias, linear, *hidden, top)
        self.maps, self.bias, self.linear, *self.hidden = tensors
        self.widths = _sizes([*(v.shape[1] for v in hidden), len(top)])
        self.addresses = _pointers(self.hidden)
        self.arguments = _Potential(
            x.shape[1],
            len(self.widths),
            len(maps),
            len(bias),
            ctypes.addressof(self.widths),
            x.dtype is torch.float32,
            strong,
            sharpness,
            *_addresses(self.maps, self.bias, self.top, self.linear),
            ctypes.addressof(self.addresses),
        )


def potential(x: Tensor, labels: Tensor | None, *weights) -> Tensor:
    value = x.new_empty(len(x))
    _run(x, labels, weights, value=value)
    return value


def potential_gradient(x: Tensor, labels: Tensor | None, *weights) -> Tensor:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    _run(x, labels, weights, weight=x.new_ones(len(x)), dx=dx)
    return dx


def potential_vjp(grad: Tensor, x: Tensor, labels: Tensor | None, *weights) -> list[Tensor]:
    maps, hidden, bias, top, linear, *_ = weights
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    sums = [
        torch.zeros(t.shape, dtype=t.dtype, device="cpu")
        for t in (maps, bias, top, linear, *hidden)
    ]
    _run(x, labels, weights, weight=grad.contiguous(), dx=dx, sums=sums)
    return [dx, *sums]


def _run(x, labels, weights, *, value=None, weight=None, dx=None, sums=(None,) * 4) -> None:
    own = _Weights(x, *weights)
    x, labels = _contiguous(x, labels)
    _check_labels(labels, own)
    gradients, dhidden = sums[:4], _pointers(sums[4:])
    arguments = _Values(
        len(x),
        own.arguments,
        *_addresses(x, weight, labels),
        torch.get_num_threads(),
        *_addresses(value, dx, *gradients),
        ctypes.addressof(dhidden),
    )
    if len(x):
        _kernel("potential")(ctypes.byref(arguments))


def c_transform(
    z, labels, start, tolerance, maps, hidden, bias, top, linear, preconditioner, strong,
    sharpness, memory, max_iter,
) -> tuple[Tensor, ...]:  # fmt: skip
    own = _Weights(z, maps, hidden, bias, top, linear, strong, sharpness)
    inputs = _contiguous(z, start, tolerance, preconditioner, labels)
    _check_labels(inputs[-1], own)
    y = torch.empty_like(z, memory_format=torch.contiguous_format)
    batch = len(z)
    residual = z.new_empty(batch)
    n_iters = torch.empty(batch, dtype=torch.int32, device="cpu")
    converged = torch.empty(batch, dtype=torch.bool, device="cpu")
    arguments = _CTransform(
        batch,
        own.arguments,
        *_addresses(*inputs),
        memory,
        max_iter,
        torch.get_num_threads(),
        *_addresses(y, residual, n_iters, converged),
    )
    if batch:
        _kernel("c_transform")(ctypes.byref(arguments))
    return y, residual, n_iters, converged


def _check_labels(labels: Tensor | None, own: _Weights) -> None:
    """Kernels read the tables at them."""
    if labels is not None and labels.numel():
        low, high = map(int, labels.aminmax())
        if low < 0 or high >= len(own.bias):
            raise ValueError(f"labels must be in 0..{len(own.bias) - 1}; got {low} to {high}")
