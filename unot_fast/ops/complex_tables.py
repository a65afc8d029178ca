"""Complex matrices as real tensors (rows, columns, 2)."""

from __future__ import annotations

import torch
from torch import Tensor


def adjoint(table: Tensor) -> Tensor:
    """The conjugate transpose, shape (columns, rows, 2)."""
    re, im = table.unbind(-1)
    return torch.stack((re.T, -im.T), -1)
