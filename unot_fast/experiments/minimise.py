"""Training of the small networks around an experiment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn


def minimise(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    rows: int,
    *,
    budget: float | None = None,
    steps: int | None = None,
    batch: int = 64,
    rate: float = 4e-3,
    seed: int = 0,
) -> None:
    """Minimise a mean over rows by Adam; the learning rate falls like a cosine.

    Parameters
    ----------
    module : nn.Module
        Trained in place; left in evaluation mode.
    loss : callable
        Of the indices of a batch of rows.
    rows : int
    budget : float, optional
        Seconds; at least one step is taken.
    steps : int, optional
        In place of a budget.
    """
    if steps is None and not budget > 0:
        raise ValueError(f"budget must be positive; got {budget}")
    optimiser = torch.optim.Adam(module.parameters(), lr=rate)
    random = torch.Generator().manual_seed(seed)
    module.train()
    start, taken = time.perf_counter(), 0
    order = torch.randperm(rows, generator=random)

    def progress() -> float:
        return taken / steps if steps is not None else (time.perf_counter() - start) / budget

    while (done := progress()) < 1 or not taken:
        optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        if len(order) < min(batch, rows):
            order = torch.randperm(rows, generator=random)
        chosen, order = order[:batch], order[batch:]
        optimiser.zero_grad(set_to_none=True)
        loss(chosen).backward()
        optimiser.step()
        taken += 1
    module.eval().requires_grad_(False)
