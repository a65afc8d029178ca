"""Masses scaled to total 1 in one pass (CPU only, no gradient)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unot_fast.ops import _cpu
from unot_fast.ops.backends import cpu_library


def normalise(x: Tensor, d: int) -> tuple[Tensor, Tensor] | None:
    """Scale the masses of every problem to total 1.

    Parameters
    ----------
    x : Tensor, shape (*batch, n_1, ..., n_d)
    d : int

    Returns
    -------
    masses : Tensor, shape and dtype of x
    totals : Tensor, shape (*batch), float64
        Or None where the compiled kernel does not apply (device, dtype, gradient, empty batch) or
        does not find all masses plainly valid: a negative or NaN mass, a total beyond 1e+-30.
    """
    lead = x.shape[: x.ndim - d]
    batch = math.prod(lead)
    plain = type(x) is Tensor and x.device.type == "cpu" and not x.requires_grad and batch
    if not plain or x.dtype not in (torch.float64, torch.float32) or cpu_library() is None:
        return None
    masses, totals, valid = _cpu.normalise(x, batch)
    return (masses, totals.view(lead)) if valid else None
