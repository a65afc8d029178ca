"""The figure of ``unot-fast demo``."""

from __future__ import annotations

import io

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter
from PIL import Image

from unot_fast import Grid, sinkhorn
from unot_fast.cli.frames import displacement_frames
from unot_fast.cli.images import fit
from unot_fast.cli.samples import sample

# File, whether dark is mass, and top, left and side of the square at the ends of the strips.
_STRIPS = (
    (("horse.png", True, 0, 0, 400), ("coins.png", False, 10, 300, 80)),
    (("retina.jpg", False, 0, 0, 1411), ("chelsea.png", False, 0, 100, 300)),
    (("rocket.jpg", False, 0, 160, 420), ("coffee.png", False, 0, 100, 400)),
)
_PIXELS, _STEPS, _STRIP_EPSILON = 64, 7, 0.002
_COLOURS = {"zeros": "#808080", "gaussian": "#e08a1e", "multiscale": "#1f5fa8"}
_LABELS = {"zeros": (8, True), "gaussian": (2, False), "multiscale": (2, False)}  # x, above
_INK = "#333333"
_DPI = 165


def demo_figure(
    curves: dict[str, np.ndarray], coarse_work: dict[str, float], target: float
) -> Image.Image:
    """Displacement strips beside cost errors.

    Parameters
    ----------
    curves : dict of ndarray, shape (iterations, pairs)
        Relative cost error after 1, 2, ... iterations, per start.
    coarse_work : dict of float
        Mean work of each start, in iterations on the grid.
    target : float
        Error that is marked.

    Returns
    -------
    Image
        With a palette, so that the file is small.
    """
    figure = Figure(figsize=(10, 3.1), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    left, right = figure.subfigures(1, 2, width_ratios=(1.9, 1))
    _draw_strips(left)
    _draw_curves(right.subplots(), curves, coarse_work, target)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=_DPI)
    image = Image.open(drawn).convert("RGB")
    colours = image.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    return image.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)


def _draw_strips(figure: SubFigure) -> None:
    axes = figure.subplots(len(_STRIPS), _STEPS)
    for row, ends in zip(axes, _STRIPS, strict=True):
        for ax, frame in zip(row, _strip(*ends), strict=True):
            shown = frame[0] if len(frame) == 1 else frame.transpose(1, 2, 0)
            ax.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
            ax.set_axis_off()
    for ax, t in zip(axes[0], np.linspace(0, 1, _STEPS), strict=True):
        ax.set_title(f"$t = {t:g}$" if t in (0, 1) else f"{t:.2f}", fontsize=9, color=_INK)


def _strip(first: tuple, last: tuple) -> np.ndarray:
    ends = [_square(*first), _square(*last)]
    channels = max(map(len, ends))
    ends = [np.repeat(x, channels // len(x), axis=0) for x in ends]
    a, b = (torch.from_numpy(x / x.sum((1, 2), keepdims=True)) for x in ends)
    result = sinkhorn(a, b, Grid((_PIXELS, _PIXELS)), _STRIP_EPSILON)
    return displacement_frames(result, *ends, _STEPS)


def _square(name: str, invert: bool, top: int, left: int, side: int) -> np.ndarray:
    mass = sample(name, invert).mass[:, top : top + side, left : left + side]
    return fit(mass, (_PIXELS, _PIXELS))


def _draw_curves(
    ax: Axes, curves: dict[str, np.ndarray], coarse_work: dict[str, float], target: float
) -> None:
    for start, curve in curves.items():
        iterations = np.arange(1, len(curve) + 1)
        low, high = np.percentile(curve, (10, 90), axis=1)
        ax.plot(iterations, curve.mean(1), color=_COLOURS[start], lw=2)
        ax.fill_between(iterations, low, high, color=_COLOURS[start], alpha=0.18, lw=0)
        label, at, above = start, *_LABELS[start]
        if coarse_work[start] > 0:
            label += f"\n(start: {coarse_work[start]:.1f} iterations' work)"
        near = slice(max(at - 2, 0), at + 6)  # iterations that the label stands over or under
        y = 1.4 * high[near].max() if above else low[near].min() / 1.5
        ax.text(at, y, label, color=_COLOURS[start], fontsize=9, va="bottom" if above else "top")
    shown = min(map(len, curves.values()))
    ax.set_xlim(1, shown)
    ax.set_xticks([1, *range(5, shown + 1, 5)])
    ax.set_yscale("log")
    ax.set_ylim(1e-6, 1)
    ax.minorticks_off()
    ax.axhline(target, color=_INK, lw=0.8, ls=(0, (4, 3)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    ax.set_xlabel("iterations on the grid", fontsize=9, color=_INK)
    pairs = next(iter(curves.values())).shape[1]
    ax.set_title(f"cost error: mean of {pairs} pairs, 10-90 % band", fontsize=9, color=_INK)
    ax.tick_params(labelsize=8, colors=_INK)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
