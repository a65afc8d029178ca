"""Coefficients by complex sums, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def spectral_analysis(x: Tensor, tables: Sequence[Tensor]) -> Tensor:
    c = x.to(torch.complex128)
    for axis, table in enumerate(tables, x.ndim - len(tables)):
        matrix = torch.view_as_complex(table.double().contiguous())
        c = torch.tensordot(c, matrix, dims=([axis], [1])).movedim(-1, axis)
    return torch.stack((c.real, c.imag), x.ndim - len(tables)).to(x.dtype)
