"""What transport networks are made of."""

from __future__ import annotations

from dataclasses import dataclass

from unot_fast.geometry.numbers import check_integer, check_integers, check_number

COSTS = ("sqeuclidean", "euclidean", "geodesic")


@dataclass(frozen=True)
class UNOTConfig:
    """What a `UNOT` is made of.

    Attributes
    ----------
    cost : {"sqeuclidean", "euclidean", "geodesic"}
        :math:`|x - y|^2` or :math:`|x - y|` on square grids, the angle on the sphere.
    epsilon : (float, float)
        Range that it is for, on the unit square or the unit sphere.
    default_epsilon : float
        Where a call does not say.
    cells : (int, int), optional
        The grid of cells that the network works on; by default that of the measures.
    sweeps : int
        Sinkhorn iterations there, whose result the network takes in and corrects.
    final_sweeps : int
        Overrelaxed Sinkhorn iterations there from what the network makes of it, which training
        does without.
    kind : {"mlp", "fourier"}
        `ResidualMLP`, which needs ``cells``, or `FourierNetwork`.
    width, depth : int
        Features and blocks, or channels and layers.
    modes : (int, int)
        Of the Fourier layers.
    hidden : int, optional
        Of the networks on each mode of the Fourier layers.
    coordinates : bool
        Take the points' coordinates in, too.

    Raises
    ------
    ValueError
        A value is out of its range, or two of them do not fit.
    """

    cost: str = "sqeuclidean"
    epsilon: tuple[float, float] = (0.01, 0.01)
    default_epsilon: float = 0.01
    cells: tuple[int, int] | None = (16, 16)
    sweeps: int = 8
    final_sweeps: int = 0
    kind: str = "mlp"
    width: int = 256
    depth: int = 4
    modes: tuple[int, int] = (10, 6)
    hidden: int | None = None
    coordinates: bool = False

    def __post_init__(self):
        check_integers("modes", self.modes, 2)
        if self.cells is not None:
            check_integers("cells", self.cells, 2, least=2)
        for name in ("width", "depth"):
            check_integer(name, getattr(self, name))
        if self.hidden is not None:
            check_integer("hidden", self.hidden)
        for name in ("sweeps", "final_sweeps"):
            check_integer(name, getattr(self, name), least=0)
        if not isinstance(self.coordinates, bool):
            raise ValueError(f"coordinates must be true or false; got {self.coordinates!r}")
        if not isinstance(self.epsilon, (tuple, list)) or len(self.epsilon) != 2:
            raise ValueError(f"epsilon must be a pair of numbers; got {self.epsilon!r}")
        for value in self.epsilon:
            check_number("epsilon", value)
        check_number("default_epsilon", self.default_epsilon)
        for name in ("epsilon", "cells", "modes"):  # lists, where they come from a file
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else tuple(value))
        if self.cost not in COSTS:
            raise ValueError(f"cost must be one of {COSTS}; got {self.cost!r}")
        low, high = self.epsilon
        if not 0 < low <= self.default_epsilon <= high:
            raise ValueError(
                "epsilon must be a range of positive numbers that holds default_epsilon "
                f"{self.default_epsilon}; got {self.epsilon}"
            )
        if self.kind not in ("mlp", "fourier"):
            raise ValueError(f"kind must be 'mlp' or 'fourier'; got {self.kind!r}")
        if self.kind == "mlp" and self.cells is None:
            raise ValueError("cells must be given with kind='mlp', which has one size of grid")


PRESETS = {
    "sqeuclidean": UNOTConfig(epsilon=(0.003, 0.05), final_sweeps=8),
    "tiny": UNOTConfig(epsilon=(0.003, 0.05), width=64, depth=2),
    "euclidean": UNOTConfig(cost="euclidean", epsilon=(0.01, 0.1), sweeps=16, final_sweeps=8),
    "sphere": UNOTConfig(
        cost="geodesic", epsilon=(0.05, 0.5), default_epsilon=0.1, cells=(12, 24), final_sweeps=8
    ),
    "fourier": UNOTConfig(cells=None, sweeps=0, kind="fourier", width=32, modes=(15, 8)),
    "base": UNOTConfig(cells=None, sweeps=0, kind="fourier", width=64, modes=(10, 10), hidden=256),
}
"""Configurations by name.

``"base"`` has the width, depth and frequencies of the published network, of both signs along the
first axis; ``"fourier"`` is a small one of that kind.
"""
