"""A small call of each spectral operator, without its backend."""

import torch

from tests.ops.agreement import normal

OPS = torch.ops.unot_fast
TABLES = [normal(4, 3, 2), normal(5, 2, 2)]
MIXING = (normal(2, 3, 2, 3, 2), normal(3, 3, 3, 2, 2), normal(3, 3, 2, 2))
SYNTHESIS = (
    normal(2, 3, 2, 3, 2), TABLES, normal(2, 3, 4, 5), normal(3, 3), normal(3), normal(4, 3),
    normal(4), normal(3, 4), normal(3), normal(3),
)  # fmt: skip
MLP = (
    normal(2, 3, 4, 5), normal(6, 3), normal(6), normal(3, 6), normal(3), normal(2, 3, 4, 5),
    normal(3),
)  # fmt: skip
GRID, MODES = normal(2, 3, 4, 5), normal(2, 3, 2, 3, 2)
NOTHING = GRID.new_empty(0)  # kept
CALLS = {
    "spectral_analysis": (GRID, [t.transpose(0, 1).contiguous() for t in TABLES]),
    "legendre_products": (normal(2, 3, 4, 2, 5), normal(5, 6, 4), False),
    "spectral_mixing": (*MIXING, True, False),
    "spectral_mixing_vjp": (MODES, *MIXING, True, NOTHING, True),
    "spectral_synthesis": (*SYNTHESIS, True, False),
    "spectral_synthesis_vjp": (GRID, *SYNTHESIS, True, NOTHING, True),
    "channel_mlp": (*MLP, True),
    "channel_mlp_vjp": (GRID, *MLP, True, True),
}
BACKENDS = ["cpu", "torch", "reference"]


def converted(arguments, dtype):
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.to(dtype), arguments)
