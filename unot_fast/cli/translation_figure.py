"""A picture of images and what they are translated to."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor


def draw_translations(
    path: Path, ahead: tuple[Tensor, Tensor], back: tuple[Tensor, Tensor], columns: int
) -> None:
    """Draw images above their translations, both ways.

    Parameters
    ----------
    path : Path
    ahead, back : tuple of Tensor, shapes (rows * columns, h, w)
        Images and their translations, row by row; a column is a class.
    columns : int
    """
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    for ax, title, pair in zip(
        figure.subplots(1, 2), ("translated", "translated back"), (ahead, back), strict=True
    ):
        ax.set_title(f"images, {title} below each", fontsize=10)
        ax.set_axis_off()
        ax.imshow(_sheet(*pair, columns).numpy(), cmap="gray_r", vmin=0, vmax=1)
    figure.savefig(path, dpi=130)


def _sheet(images: Tensor, translated: Tensor, columns: int, gap: int = 3) -> Tensor:
    """All in one image, with a gap after every pair of rows."""
    rows = []
    for first in range(0, len(images), columns):
        chosen = slice(first, first + columns)
        for row in (images[chosen], translated[chosen]):
            rows.append(torch.cat([torch.nn.functional.pad(x, (1, 1, 1, 1)) for x in row], 1))
        rows.append(torch.zeros(gap, rows[-1].shape[1]))
    return torch.cat(rows[:-1])
