"""``unot-fast pairwise``: distances between all pairs of a set of pictures."""

from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from unot_fast import Grid, OTResult
from unot_fast.cli.checkpoint import Checkpoint, replacing
from unot_fast.cli.images import Picture, grid_shape, load, measures, normalised
from unot_fast.cli.options import NOT_CONVERGED, SolverOptions, solver_options, warn

_FLUSH_SECONDS = 5
_NAMED = 40  # most measures whose names fit on the heat map


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--divergence",
    is_flag=True,
    help="Sinkhorn divergence of the values instead of the transport cost.",
)
@solver_options
@click.pass_context
def command(
    ctx: click.Context,
    source: Path,
    output: Path,
    batch: int,
    divergence: bool,
    options: SolverOptions,
) -> None:
    """Distances between all pairs of pictures.

    INPUT is a folder of pictures, or a .npy array of shape (N, H, W). Intensity is mass, as in
    `unot-fast solve`; of a colour picture the luminance. Pictures are fitted into the grid of the
    first one (by name), an array keeps its own grid unless --size is given.

    The distance is the transport cost <C, P>; with --divergence it is
    OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2 of the entropic values.

    Writes distances.npy, distances.csv and distances.png. The same command continues a run that
    was interrupted, and returns at once when it is complete; NaN marks what is missing. Exit code
    3: a pair did not converge (marginal_error.npy says which).
    """
    pictures = _read(source, options.invert)
    size = options.size
    if source.is_file() and size is None:
        size = pictures[0].shape
    grid = options.grid(grid_shape(pictures[0].shape, size))
    stack = np.concatenate([measures(p, grid.shape, options.dust) for p in pictures])
    names = [p.path.name for p in pictures]
    parameters = {**options.parameters(), "grid": grid.shape, "divergence": divergence}
    checkpoint = Checkpoint(output, names, stack, parameters)

    total = len(names) * (len(names) + 1) // 2
    todo = sum(1 for _ in checkpoint.missing())
    click.echo(f"{len(names)} measures on {grid.shape[0]}x{grid.shape[1]}, {total} pairs")
    if todo < total:
        click.echo(f"{total - todo} of them were done before")
    seconds = _run(checkpoint, stack, grid, batch, divergence, options, total - todo)
    if todo:
        click.echo(f"{todo} pairs in {seconds:.2f} s: {todo / seconds:.1f} pairs/s")

    if todo or not (output / "distances.csv").exists():
        with replacing(output / "distances.csv") as path:
            _write_csv(path, names, checkpoint.distances)
    if todo or not (output / "distances.png").exists():
        title = "Sinkhorn divergence" if divergence else r"transport cost $\langle C, P \rangle$"
        with replacing(output / "distances.png") as path:
            figure = _figure(names, checkpoint.distances, title)
            figure.savefig(path, dpi=150, format="png")
    unconverged = checkpoint.unconverged(options.tol)
    click.echo(f"{unconverged} of {total} pairs did not converge; written to {output}")
    if unconverged:
        worst = float(np.max(checkpoint.marginal_error))
        warn(
            f"{unconverged} pairs did not converge: marginal error up to {worst:.1e}, above --tol "
            f"{options.tol:g} after --max-iter {options.max_iter}"
        )
        ctx.exit(NOT_CONVERGED)


def _run(
    checkpoint: Checkpoint,
    stack: np.ndarray,
    grid: Grid,
    batch: int,
    divergence: bool,
    options: SolverOptions,
    done: int,
) -> float:
    """Solve the missing pairs; returns the seconds it took."""
    start = last_flush = time.perf_counter()
    total = len(stack) * (len(stack) + 1) // 2
    unconverged = checkpoint.unconverged(options.tol)
    with tqdm(total=total, initial=done, unit="pair", disable=None) as progress:
        try:
            for i, j in _batches(checkpoint.missing(), batch):
                result = options.solve(stack[i], stack[j], grid)
                _store(checkpoint, i, j, result, divergence)
                unconverged += int((~result.converged).sum())
                progress.update(len(i))
                progress.set_postfix(unconverged=unconverged)
                if time.perf_counter() - last_flush > _FLUSH_SECONDS:
                    checkpoint.flush()
                    last_flush = time.perf_counter()
        finally:
            checkpoint.flush()
    return time.perf_counter() - start


def _read(source: Path, invert: bool) -> list[Picture]:
    """One grey picture per measure, by name."""
    if source.is_dir():
        known = Image.registered_extensions()
        paths = sorted(p for p in source.iterdir() if p.is_file() and p.suffix.lower() in known)
        pictures = [load(path, invert).grey() for path in paths]
    else:
        stack = _read_stack(source)
        stack = 1 - stack if invert else stack
        pictures = [
            Picture(source.with_name(f"{source.name}[{k}]"), x[None]) for k, x in enumerate(stack)
        ]
    if len(pictures) < 2:
        raise click.ClickException(f"{source}: needs at least 2 pictures, has {len(pictures)}")
    return pictures


def _read_stack(path: Path) -> np.ndarray:
    try:
        stack = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path}: cannot be read as a .npy array: {error}") from error
    if not isinstance(stack, np.ndarray) or stack.ndim != 3 or stack.dtype.kind not in "buif":
        got = f"{stack.shape}, {stack.dtype}" if isinstance(stack, np.ndarray) else "an archive"
        raise click.ClickException(f"{path}: needs a real array of shape (N, H, W); got {got}")
    try:
        return normalised(stack)
    except ValueError as error:
        raise click.ClickException(f"{path}: {error}") from error


def _batches(
    pairs: Iterator[tuple[int, int]], size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while chunk := list(itertools.islice(pairs, size)):
        i, j = np.array(chunk).T
        yield i, j


def _store(
    checkpoint: Checkpoint, i: np.ndarray, j: np.ndarray, result: OTResult, divergence: bool
) -> None:
    distance = result.cost.cpu().numpy()
    if divergence:
        value = result.value.cpu().numpy()
        onto_itself = i == j  # these come first
        checkpoint.self_value[i[onto_itself]] = value[onto_itself]
        distance = value - (checkpoint.self_value[i] + checkpoint.self_value[j]) / 2
    checkpoint.store(i, j, distance, result.marginal_error.cpu().numpy())


def _write_csv(path: Path, names: list[str], distances: np.ndarray) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *names])
        for name, row in zip(names, distances.tolist(), strict=True):
            writer.writerow([name, *row])


def _figure(names: list[str], distances: np.ndarray, title: str) -> Figure:
    figure = Figure(figsize=(7.2, 6), layout="constrained")
    ax = figure.subplots()
    shown = ax.imshow(distances, cmap="magma", interpolation="nearest")
    ax.set_title(title, fontsize=12)
    if len(names) <= _NAMED:
        ticks, size = range(len(names)), max(4, 10 - len(names) // 6)
        ax.set_xticks(ticks, names, rotation=90, fontsize=size)
        ax.set_yticks(ticks, names, fontsize=size)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    figure.colorbar(shown, ax=ax, shrink=0.8).outline.set_visible(False)
    return figure
