"""``unot-fast solve``: transport one picture onto another."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from unot_fast import Grid, OTResult, __version__
from unot_fast.cli.frames import displacement_frames
from unot_fast.cli.images import CHANNELS, Picture, fit, grid_shape, load, measures
from unot_fast.cli.options import NOT_CONVERGED, SolverOptions, solver_options, warn

_SHOWN = 256  # pixels of a frame's longest side
_GAP = 4
_FRAME_MS, _END_MS = 90, 700
_SCALARS = ("cost", "value", "n_iters", "coarse_work", "marginal_error")

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("a", type=_file)
@click.argument("b", type=_file)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option(
    "--steps",
    type=click.IntRange(min=2),
    default=9,
    show_default=True,
    help="Times of the interpolation, both ends included.",
)
@click.option("--grey", is_flag=True, help="Transport the luminance of colour pictures.")
@solver_options
@click.pass_context
def command(
    ctx: click.Context,
    a: Path,
    b: Path,
    output: Path,
    steps: int,
    grey: bool,
    options: SolverOptions,
) -> None:
    """Transport the picture A onto the picture B.

    Intensity is mass: bright pixels are heavy, transparent ones empty. The grid has the aspect
    ratio of A and its longest side is 64 pixels (fewer for a smaller picture; see --size). Both
    pictures are averaged down to fit in it, undistorted and centred; its longest side has length
    1. The three channels of a colour picture are three problems, the luminance of a grey one is
    one.

    Writes strip.png and interpolation.gif (displacement interpolation), potentials.png,
    potentials.npz and result.json. Exit code 3: not converged.
    """
    pictures = [load(path, options.invert) for path in (a, b)]
    pictures = _same_channels(*(p.grey() if grey else p for p in pictures))
    grid = options.grid(grid_shape(pictures[0].shape, options.size))
    source, target = (measures(p, grid.shape, options.dust) for p in pictures)

    start = time.perf_counter()
    result = options.solve(source, target, grid)
    seconds = time.perf_counter() - start

    names = CHANNELS if pictures[0].is_colour else ("grey",)
    click.echo(f"{pictures[0]} -> {pictures[1]}")
    click.echo(f"grid {grid.shape[0]}x{grid.shape[1]}, epsilon {options.epsilon:g}\n")
    click.echo(_table(result, names))
    click.echo(f"\n{seconds:.3f} s, backend {result.backend}")

    output.mkdir(parents=True, exist_ok=True)
    first, last = (fit(p.mass, grid.shape) for p in pictures)
    frames = displacement_frames(result, first, last, steps)
    images = [_to_image(1 - x if options.invert else x) for x in frames]
    _strip(images).save(output / "strip.png")
    _save_gif(images, output / "interpolation.gif")
    _potentials_figure(result, names).savefig(output / "potentials.png", dpi=150)
    np.savez(
        output / "potentials.npz",
        f=result.f.cpu().numpy(),
        g=result.g.cpu().numpy(),
        epsilon=options.epsilon,
        extent=_extent(grid),
    )
    report = _report(result, names, pictures, seconds, options)
    (output / "result.json").write_text(json.dumps(report, indent=2) + "\n")
    click.echo(f"written to {output}")

    if not bool(result.converged.all()):
        failed = [n for n, ok in zip(names, result.converged.tolist(), strict=True) if not ok]
        warn(
            f"not converged ({', '.join(failed)}): marginal error "
            f"{float(result.marginal_error.max()):.1e} above --tol {options.tol:g} after "
            f"{int(result.n_iters.max())} iterations"
        )
        ctx.exit(NOT_CONVERGED)


def _same_channels(a: Picture, b: Picture) -> tuple[Picture, Picture]:
    """Both grey or both in colour: a grey picture has three equal channels."""
    if a.is_colour == b.is_colour:
        return a, b
    return tuple(
        p if p.is_colour else Picture(p.path, np.repeat(p.mass, 3, axis=0)) for p in (a, b)
    )


def _table(result: OTResult, names: tuple[str, ...]) -> str:
    columns = [*names, "mean"] if len(names) > 1 else [""]
    lines = [" " * 16 + "".join(f"{c:>12}" for c in columns)] if len(names) > 1 else []
    for scalar in _SCALARS:
        values = getattr(result, scalar).double()
        cells = values.tolist() + ([float(values.mean())] if len(names) > 1 else [])
        label = {"n_iters": "iterations"}.get(scalar, scalar.replace("_", " "))
        lines.append(f"{label:<16}" + "".join(f"{c:>12.6g}" for c in cells))
    converged = "".join(f"{'yes' if ok else 'NO':>12}" for ok in result.converged.tolist())
    return "\n".join([*lines, f"{'converged':<16}{converged}"])


def _to_image(frame: np.ndarray) -> Image.Image:
    levels = np.round(255 * frame).astype(np.uint8)
    image = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    scale = max(1, _SHOWN // max(image.size))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _strip(images: list[Image.Image]) -> Image.Image:
    width, height = images[0].size
    strip = Image.new(images[0].mode, (len(images) * (width + _GAP) - _GAP, height), "white")
    for k, image in enumerate(images):
        strip.paste(image, (k * (width + _GAP), 0))
    return strip


def _save_gif(images: list[Image.Image], path: Path) -> None:
    """There and back, resting at both ends."""
    there_and_back = images + images[-2:0:-1]
    durations = [_FRAME_MS] * len(there_and_back)
    durations[0] = durations[len(images) - 1] = _END_MS
    there_and_back[0].save(
        path, save_all=True, append_images=there_and_back[1:], duration=durations, loop=0
    )


def _potentials_figure(result: OTResult, names: tuple[str, ...]) -> Figure:
    height, width = _extent(result.geom)
    half = 0.5 / max(max(result.geom.shape) - 1, 1)  # points are centres of pixels
    area = (-half, width + half, height + half, -half)
    aspect = min(max((height + 2 * half) / (width + 2 * half), 0.3), 2.0)
    figure = Figure(figsize=(3.4 * len(names), 2 * (2.6 * aspect + 0.6)), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False)
    for row, label in zip(axes, ("f", "g"), strict=True):
        for ax, name, potential in zip(
            row, names, getattr(result, label).cpu().numpy(), strict=True
        ):
            shown = ax.imshow(potential, cmap="viridis", extent=area)
            ax.set_title(label if name == "grey" else f"{label}, {name}", fontsize=11)
            ax.tick_params(labelsize=8)
            figure.colorbar(shown, ax=ax, fraction=0.046 * aspect).ax.tick_params(labelsize=8)
    return figure


def _extent(grid: Grid) -> list[float]:
    """Length of each axis, from the first point to the last."""
    return [float(x[-1]) for x in grid.coordinates]


def _report(
    result: OTResult,
    names: tuple[str, ...],
    pictures: tuple[Picture, Picture],
    seconds: float,
    options: SolverOptions,
) -> dict:
    columns = {s: getattr(result, s).tolist() for s in (*_SCALARS, "converged", "log_domain")}
    channels = {name: {s: v[k] for s, v in columns.items()} for k, name in enumerate(names)}
    return {
        "version": __version__,
        "pictures": [{"path": str(p.path), "shape": p.shape} for p in pictures],
        "grid": {"shape": result.geom.shape, "extent": _extent(result.geom)},
        "parameters": options.parameters(),
        "backend": result.backend,
        "seconds": seconds,
        "channels": channels,
        "mean": {s: float(np.mean(columns[s])) for s in _SCALARS},
        "converged": all(columns["converged"]),
    }
