"""What operators may return."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def separate(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Contiguous, and no tensor twice, not even an empty one."""
    return tuple(t.contiguous() if t.numel() else t.new_empty(t.shape) for t in tensors)
