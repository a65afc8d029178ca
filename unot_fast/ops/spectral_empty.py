"""Which backend has the empty cases of spectral operators, that kernels leave out."""

from __future__ import annotations

from torch import Tensor


def unless_empty(backend: str, *tensors: Tensor | None) -> str:
    """``backend``, or the reference where a tensor has no entries: no channels, modes or batch."""
    return "reference" if any(t is not None and not t.numel() for t in tensors) else backend
