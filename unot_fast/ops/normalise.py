"""Masses scaled to total 1 in one pass (CPU only, no gradient)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unot_fast.ops import _cpu
from unot_fast.ops.backends import cpu_library


def normalise(a: Tensor, b: Tensor, d: int) -> tuple[tuple[Tensor, Tensor], ...] | None:
    """Scale the masses of every measure to total 1.

    Parameters
    ----------
    a, b : Tensor, shapes (*batch_a, n_1, ..., n_d) and (*batch_b, m_1, ..., m_d)
        Of one dtype.
    d : int

    Returns
    -------
    masses : pair of Tensors, shapes and dtype of a and b
    totals : pair of Tensors, shapes (*batch_a) and (*batch_b), float64
        Or None where the compiled kernel does not apply (device, dtype, gradient, empty batch) or
        does not find all masses plainly valid: a negative or NaN mass, a total beyond 1e+-30.
    """
    lead = [x.shape[: x.ndim - d] for x in (a, b)]
    batch = math.prod(lead[0]), math.prod(lead[1])
    if not (_plain(a) and _plain(b) and all(batch)) or cpu_library() is None:
        return None
    masses, totals, valid = _cpu.normalise(a, b, batch)
    return (masses, tuple(t.view(s) for t, s in zip(totals, lead, strict=True))) if valid else None


def _plain(x: Tensor) -> bool:
    real = x.dtype is torch.float32 or x.dtype is torch.float64
    return real and type(x) is Tensor and x.device.type == "cpu" and not x.requires_grad
