"""A picture of a map in the plane and of its inverse."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

_ARROWS = 250
_BLUE, _ORANGE = "tab:blue", "tab:orange"


def draw_maps(path: Path, x: Tensor, z: Tensor, moved: Tensor, back: Tensor) -> None:
    """Points of both measures, where the map takes some of them, and both images.

    Parameters
    ----------
    path : Path
    x, z : Tensor, shape (N, 2)
        Points of the source and of the target.
    moved, back : Tensor, shape (N, 2)
        Images of ``x`` under the map and of ``z`` under its inverse.
    """
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    axes = figure.subplots(1, 4, sharex=True, sharey=True)
    for ax, title, points, colour in (
        (axes[0], "source and target", x, _BLUE),
        (axes[1], "map", x, _BLUE),
        (axes[2], "source, moved", moved, _ORANGE),
        (axes[3], "target, moved back", back, _BLUE),
    ):
        ax.set_title(title, fontsize=10)
        ax.set_aspect("equal")
        ax.set_axis_off()
        ax.scatter(*points.T.numpy(), s=1.5, color=colour, alpha=0.4, linewidths=0)
    axes[0].scatter(*z.T.numpy(), s=1.5, color=_ORANGE, alpha=0.4, linewidths=0)
    some, ends = x[:_ARROWS], moved[:_ARROWS]
    axes[1].quiver(
        *some.T.numpy(), *(ends - some).T.numpy(), angles="xy", scale_units="xy", scale=1,
        width=0.002, color="0.3",
    )  # fmt: skip
    figure.savefig(path, dpi=110)
