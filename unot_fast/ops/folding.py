"""How torch.vmap meets operators that have a batch dimension anyway."""

from __future__ import annotations

from collections.abc import Callable


def folding(info, *dims: int | None) -> Callable:
    """How vmap folds its dimension of some tensors into their batch."""

    def fold(*tensors):
        moved = (
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(tensors, dims, strict=True)
        )
        return [x.flatten(0, 1) for x in moved]

    return fold
