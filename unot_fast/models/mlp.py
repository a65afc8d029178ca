"""A residual network on all values at once, for grids of one size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ResidualMLP(nn.Module):
    """Linear map to a few hundred features, residual blocks, linear map back.

    Every value sees every other in the first layer, which suits potentials of transport: they
    depend on the measures as a whole.

    Parameters
    ----------
    c_in, c_out : int
        Functions that come in and out.
    shape : sequence of int
        Of the grid.
    width : int
        Features between.
    depth : int
        Blocks.
    scalars : int
        Numbers per sample that come in beside the functions.

    Examples
    --------
    >>> import torch
    >>> from unot_fast.models import ResidualMLP
    >>> ResidualMLP(2, 1, (16, 16), width=64)(torch.rand(4, 2, 16, 16)).shape
    torch.Size([4, 1, 16, 16])
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        shape: Sequence[int],
        width: int = 256,
        depth: int = 4,
        *,
        scalars: int = 0,
    ):
        super().__init__()
        self.shape = tuple(shape)
        points = math.prod(self.shape)
        self.lifting = nn.Linear(c_in * points + scalars, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
            )
            for _ in range(depth)
        )
        self.projection = nn.Linear(width, c_out * points)
        for block in self.blocks:  # each block starts as the identity
            nn.init.zeros_(block[-1].weight)
            nn.init.zeros_(block[-1].bias)

    def forward(self, x: Tensor, scalars: Tensor | None = None) -> Tensor:
        """From (B, c_in, \\*shape), and numbers (B, scalars), to (B, c_out, \\*shape)."""
        x = x.flatten(1)
        x = self.lifting(x if scalars is None else torch.cat([x, scalars], 1))
        for block in self.blocks:
            x = x + block(x)
        return self.projection(x).unflatten(1, (-1, *self.shape))
