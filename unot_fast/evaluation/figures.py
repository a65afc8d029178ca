"""Figures of the published evaluation; they need matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from unot_fast.evaluation.protocol import TARGET, Timing
from unot_fast.evaluation.sweeps import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_LEAST = 1e-6  # of the error axes


def error_by_iteration(curves: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Mean error and 10-90 % band against iterations, a panel per cell.

    Parameters
    ----------
    curves : mapping
        Cell, start, errors of shape (iterations, pairs); NaN is left out.
    """
    figure, panels = _panels(list(curves))
    colours = _colours(curves)
    for ax, (name, starts) in zip(panels, curves.items(), strict=True):
        for start, errors in starts.items():
            errors = errors[:, ~errors.isnan().any(0)].double().cpu()
            if errors.shape[1] == 0:
                continue
            k = range(1, len(errors) + 1)
            ax.plot(k, errors.mean(1).numpy(), color=colours[start], label=start)
            low, high = np.percentile(errors.numpy(), (10, 90), axis=1)
            ax.fill_between(k, low, high, color=colours[start], alpha=0.18, lw=0)
        _as_errors(ax, name)
        ax.set_xlabel("iterations")
        ax.set_xlim(left=1)
    _legend(figure, panels)
    return figure


def error_by_time(timings: Mapping[str, Mapping[str, Sequence[Timing]]]) -> Figure:
    """Mean error against seconds per batch, start included, a panel per cell.

    Parameters
    ----------
    timings : mapping
        Cell, start, timings of several numbers of iterations.
    """
    from matplotlib.ticker import NullFormatter

    figure, panels = _panels(list(timings))
    colours = _colours(timings)
    for ax, (name, starts) in zip(panels, timings.items(), strict=True):
        for start, points in starts.items():
            seconds, errors = zip(*((p.seconds, p.mean_error) for p in points), strict=True)
            ax.plot(seconds, errors, color=colours[start], marker="o", ms=3, label=start)
        _as_errors(ax, name)
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("seconds per batch")
    _legend(figure, panels)
    return figure


def error_by_resolution(sweep: Sweep) -> Figure:
    """One-step error against resolution, a line per cell and a panel per start.

    Of several epsilons the first is drawn.
    """
    figure, panels = _panels(sweep.starts)
    for ax, name, errors in zip(panels, sweep.starts, sweep.errors[..., 0].numpy(), strict=True):
        for cell, line in zip(sweep.cells, errors, strict=True):
            ax.plot(sweep.resolutions, 100 * line, marker="o", ms=3, label=cell)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("n")
        ax.set_ylabel("error after one iteration, %")
        ax.set_ylim(bottom=0)
    _legend(figure, panels)
    return figure


def error_by_epsilon(sweep: Sweep) -> Figure:
    """Heat maps of the one-step error, resolution by epsilon, mean over cells, a panel per start.

    The colours end at 15 %, as published.
    """
    figure, panels = _panels(sweep.starts)
    for ax, name, errors in zip(panels, sweep.starts, sweep.errors.nanmean(1).numpy(), strict=True):
        shown = ax.imshow(errors.T, vmin=0, vmax=0.15, cmap="viridis", aspect="auto",
                          origin="lower")  # fmt: skip
        ax.set_title(name, fontsize=10)
        ax.set_xticks(range(len(sweep.resolutions)), map(str, sweep.resolutions), fontsize=7)
        ax.set_yticks(range(len(sweep.epsilons)), [f"{e:.2g}" for e in sweep.epsilons], fontsize=7)
        ax.set_xlabel("n")
        ax.set_ylabel("epsilon")
        figure.colorbar(shown, ax=ax, extend="max", label="error after one iteration")
    return figure


def _panels(names: Sequence[str]) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = max(min(_COLUMNS, len(names)), 1)
    rows = max(math.ceil(len(names) / columns), 1)
    figure = Figure(figsize=(3.6 * columns, 2.8 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    for ax in axes:
        ax.tick_params(labelsize=8)
    return figure, list(axes[: len(names)])


def _colours(curves: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """One colour per start, in all panels."""
    names = dict.fromkeys(start for starts in curves.values() for start in starts)
    return {name: f"C{k}" for k, name in enumerate(names)}


def _as_errors(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=10)
    ax.set_yscale("log")
    ax.set_ylim(_LEAST, 1)
    ax.axhline(TARGET, color="#333333", lw=0.8, ls=(0, (4, 3)))
    ax.set_ylabel("relative error of the cost")


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels."""
    found = {}
    for ax in panels:
        handles, labels = ax.get_legend_handles_labels()
        found.update(zip(labels, handles, strict=True))
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center",
                      ncols=min(len(found), 6), fontsize=8)  # fmt: skip
