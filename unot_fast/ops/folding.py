"""How torch.vmap meets operators that have a batch dimension anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor


def folding(info, *dims: int | None) -> Callable:
    """How vmap folds its dimension of some tensors into their batch."""

    def fold(*tensors):
        moved = (
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(tensors, dims, strict=True)
        )
        return [x.flatten(0, 1) for x in moved]

    return fold


def is_transformed(x: Tensor) -> bool:
    """Whether a tensor stands for others inside torch.vmap or another transform, run eagerly."""
    return not torch.compiler.is_compiling() and is_functorch_wrapped_tensor(x)


def all_values(x: Tensor) -> Tensor:
    """What a tensor inside torch.vmap stands for, of all indices at once: values can be read."""
    while is_transformed(x):
        x = get_unwrapped(x)
    return x


def register_vmap(operator: str, *batched: int) -> None:
    """Let torch.vmap run an operator whose arguments at ``batched`` have a batch dimension.

    Where vmap's dimension is in no others it joins the batch; else there is a call for each index.
    Lists of tensors are shared.
    """
    call = getattr(torch.ops.unot_fast, operator)

    def rule(info, in_dims, *arguments):
        check_shared(operator, in_dims)
        arguments, mapped = list(arguments), {k for k, d in enumerate(in_dims) if type(d) is int}
        if mapped <= set(batched):
            present = [k for k in batched if arguments[k] is not None]
            fold = folding(info, *(in_dims[k] for k in present))
            for k, x in zip(present, fold(*(arguments[k] for k in present)), strict=True):
                arguments[k] = x
            return _unfolded(call(*arguments), info.batch_size)
        for k in mapped:
            arguments[k] = arguments[k].unbind(in_dims[k])
        results = [
            call(*(x[i] if k in mapped else x for k, x in enumerate(arguments)))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], torch.Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])

    torch.library.register_vmap(f"unot_fast::{operator}", rule)


def _unfolded(results: Tensor | Sequence[Tensor], size: int) -> tuple:
    """With vmap's dimension again, and where it is; what else there is goes on as it is."""
    if isinstance(results, Tensor):
        return results.unflatten(0, (size, -1)), 0
    first, *others = results
    return (first.unflatten(0, (size, -1)), *others), (0, *(None for _ in others))


def check_shared(operator: str, in_dims: Sequence) -> None:
    """Raise ValueError if vmap maps over a list of tensors."""
    if any(d is not None for dims in in_dims if isinstance(dims, list | tuple) for d in dims):
        raise ValueError(f"{operator}: the tables are shared and cannot be vmapped over")
