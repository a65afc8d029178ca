"""Sums over latitudes or degrees, order by order, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def legendre_products(x: Tensor, table: Tensor, to_lines: bool) -> Tensor:
    sums = "lmbcp,mil->bcipm" if to_lines else "bcipm,mli->lmbcp"
    return torch.einsum(sums, x.double(), table.double()).to(x.dtype)
