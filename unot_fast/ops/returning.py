"""What the gradients of an operator are of, and what may be returned of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from torch import Tensor


def asked_for(
    arguments: Sequence[Tensor | None], data: Collection[int], weights: bool
) -> list[Tensor | None]:
    """Arguments that have a gradient: those at ``data``, and all others if ``weights`` have one."""
    return [x if weights or k in data else None for k, x in enumerate(arguments)]


def separate(found: Iterable[Tensor], arguments: Iterable[Tensor | None]) -> tuple[Tensor, ...]:
    """Gradients of the arguments that are there, contiguous, and empty ones of those that are not.

    No tensor twice, not even an empty one, as operators have to return them.
    """
    return tuple(
        d.contiguous() if x is not None and x.numel() else d.new_empty(0 if x is None else x.shape)
        for d, x in zip(found, arguments, strict=True)
    )
