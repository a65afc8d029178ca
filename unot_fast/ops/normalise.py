"""Masses scaled to total 1 in one pass (no gradient)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unot_fast.ops import _cpu, _cuda
from unot_fast.ops.backends import available, cpu_library
from unot_fast.ops.folding import is_transformed


class Normalised(NamedTuple):
    """Measures of total 1 and what their masses summed to, of source and target."""

    masses: tuple[Tensor, Tensor]
    totals: tuple[Tensor, Tensor]  # float64
    gap: float | None  # largest relative difference of the totals of a pair, where it is known


def normalise(a: Tensor, b: Tensor, d: int, validate: bool) -> Normalised | None:
    """Scale the masses of every measure to total 1.

    Parameters
    ----------
    a, b : Tensor, shapes (*batch_a, n_1, ..., n_d) and (*batch_b, m_1, ..., m_d)
        Of one dtype.
    d : int
    validate : bool
        Look at the masses too.

    Returns
    -------
    Normalised or None
        None where no compiled kernel applies (device, dtype, gradient, transform, empty batch) or
        it does not find all masses plainly valid: a negative or NaN mass, a total beyond 1e+-30.
    """
    lead_a, lead_b = a.shape[: a.ndim - d], b.shape[: b.ndim - d]
    batch = math.prod(lead_a), math.prod(lead_b)
    if not (all(batch) and _plain(a) and _plain(b)):
        return None
    gap = None
    if a.device.type == "cuda":
        masses, totals, smallest = _cuda.normalise(a, b, batch)
        if validate and not _valid(torch.cat(totals), torch.cat(smallest)):
            return None
    elif validate and cpu_library() is not None:
        masses, totals, gap = _cpu.normalise(a, b, batch)
        if gap is None:
            return None
    else:
        return None
    totals = totals[0].view(lead_a), totals[1].view(lead_b)
    return Normalised(masses, totals, gap if lead_a == lead_b else None)


def _plain(x: Tensor) -> bool:
    real = x.dtype is torch.float32 or x.dtype is torch.float64
    if not real or x.requires_grad or type(x) is not Tensor:
        return False
    if is_transformed(x):
        return False
    if x.device.type == "cuda":
        return not torch.compiler.is_compiling() and available("cuda")
    return x.device.type == "cpu"


def _valid(totals: Tensor, smallest: Tensor) -> bool:
    fine = (smallest >= 0) & (totals > 1e-30) & (totals < 1e30)
    return bool(fine.all())
