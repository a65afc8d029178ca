"""Where the searches of an array's rows begin: where their last ones ended."""

from __future__ import annotations

from torch import Tensor

from unot_fast.neural_ot.maps import Maps
from unot_fast.neural_ot.samples import Draw


class WarmStarts:
    """The last target and the last result of every row, moved along with the target's noise.

    Every shard of a batch has its own, so that it does not matter which process works on it.

    Parameters
    ----------
    maps : Maps
    rows : Draw
        All rows, in the units of the potential.
    shards : int
    """

    def __init__(self, maps: Maps, rows: Draw, shards: int) -> None:
        self.maps = maps
        self.z = rows.x.repeat(shards, 1, 1)
        self.y = maps.start(rows.x, rows.labels).repeat(shards, 1, 1)

    def start(self, shard: int, rows: Tensor, z: Tensor) -> Tensor:
        moved = z - self.z[shard, rows]
        return self.y[shard, rows] + moved @ self.maps.linear.inverse_slope

    def learn(self, shard: int, rows: Tensor, z: Tensor, y: Tensor) -> None:
        self.z[shard, rows], self.y[shard, rows] = z, y

    def state_dict(self) -> dict[str, Tensor]:
        return {"z": self.z, "y": self.y}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.z.copy_(state["z"])
        self.y.copy_(state["y"])
