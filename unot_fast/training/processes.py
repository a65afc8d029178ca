"""What the processes of one training share, and random numbers that do not depend on them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_shards(shards: int) -> list[int]:
    """Those of a step's shards that this process works on.

    Raises
    ------
    ValueError
        There are more processes than shards.
    """
    if world() > shards:
        raise ValueError(
            f"shards must be at least the number of processes, {world()}; got {shards}"
        )
    return list(range(rank(), shards, world()))


def sum_gradients(module: nn.Module) -> None:
    """Give every process the sum of all processes' gradients."""
    if world() > 1:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        sizes = [g.numel() for g in gradients]
        for gradient, part in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(part.view_as(gradient))


def from_first(value: float, device: torch.device | str = "cpu") -> float:
    """The first process's value, such as its clock."""
    if world() > 1:
        shared = torch.tensor(value, dtype=torch.float64, device=device)
        dist.broadcast(shared, 0)
        return float(shared)
    return value


def sum_of_processes(value: Tensor) -> Tensor:
    """Give every process the sum of all processes' values, in place."""
    if world() > 1:
        dist.all_reduce(value)
    return value


def random_at(seed: int, *place: int) -> torch.Generator:
    """Random numbers of one place of a training, on the CPU so that all devices agree."""
    for k in place:
        seed = (seed * 1_000_003 + k + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(seed)
