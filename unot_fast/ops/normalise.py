"""Masses scaled to total 1 in one pass (CPU only, no gradient)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unot_fast.ops import _cpu
from unot_fast.ops.backends import cpu_library


class Normalised(NamedTuple):
    """Measures of total 1 and what their masses summed to, of source and target."""

    masses: tuple[Tensor, Tensor]
    totals: tuple[Tensor, Tensor]  # float64
    gap: float | None  # largest relative difference of the totals of a pair, where it is known


def normalise(a: Tensor, b: Tensor, d: int) -> Normalised | None:
    """Scale the masses of every measure to total 1.

    Parameters
    ----------
    a, b : Tensor, shapes (*batch_a, n_1, ..., n_d) and (*batch_b, m_1, ..., m_d)
        Of one dtype.
    d : int

    Returns
    -------
    Normalised or None
        None where the compiled kernel does not apply (device, dtype, gradient, empty batch) or
        does not find all masses plainly valid: a negative or NaN mass, a total beyond 1e+-30.
    """
    lead_a, lead_b = a.shape[: a.ndim - d], b.shape[: b.ndim - d]
    batch = math.prod(lead_a), math.prod(lead_b)
    if not (_plain(a) and _plain(b) and all(batch)) or cpu_library() is None:
        return None
    masses, (total_a, total_b), gap = _cpu.normalise(a, b, batch)
    if gap is None:
        return None
    totals = total_a.view(lead_a), total_b.view(lead_b)
    return Normalised(masses, totals, gap if lead_a == lead_b else None)


def _plain(x: Tensor) -> bool:
    real = x.dtype is torch.float32 or x.dtype is torch.float64
    return real and type(x) is Tensor and x.device.type == "cpu" and not x.requires_grad
