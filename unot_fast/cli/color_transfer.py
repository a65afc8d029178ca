"""``unot-fast color-transfer``: give a picture the colours of another."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unot_fast.cli.images import load
from unot_fast.cli.options import Duration, library_errors
from unot_fast.neural_ot import NeuralOT, sliced_w2

_BINS = 16  # of each channel
_LEVELS = 255

_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_picture = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("a", type=_file)
@click.argument("b", type=_file)
@click.option("-o", "--output", type=_picture, required=True, help="A with the colours of B.")
@click.option("--back", type=_picture, help="Also write B with the colours of A.")
@click.option(
    "--budget",
    type=Duration(positive=True),
    default="20s",
    show_default=True,
    help="E.g. 90s or 5m.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@library_errors()
def command(a: Path, b: Path, output: Path, back: Path | None, budget: float, seed: int) -> None:
    """Give the picture A the colours of the picture B.

    Pixels are points in RGB, and the optimal map of quadratic cost between both sets is learned:
    colours change as little as they can, and equal ones stay equal. Tells the sliced Wasserstein-2
    distance between the colours (1 is white) and the common part of their histograms (16 bins for
    each channel), before and after.
    """
    for path in (output, back):
        if path is not None:
            _expect_writable(path)
    first, second = (_colours(path) for path in (a, b))
    ot = NeuralOT(3, seed=seed)
    ot.fit(_dithered(first), _dithered(second), budget=budget, progress=True)
    moved = ot.transport(_flat(first)).clamp(0, 1)
    _write(output, first, moved)
    _tell("colours", _flat(first), moved, _flat(second))
    if back is not None:
        returned = ot.inverse(_flat(second), tol=1e-3).clamp(0, 1)
        _write(back, second, returned)
        _tell("back", _flat(second), returned, _flat(first))


def _expect_writable(path: Path) -> None:
    """Raise before the fit what writing would raise after it; make the folder."""
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise click.UsageError(f"{path}: {path.suffix or 'no extension'!r} is no kind of picture")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{path.parent} is no folder to write to: {error}") from error


def _colours(path: Path) -> np.ndarray:
    """(3, H, W), in [0, 1]."""
    mass = load(path).mass
    return np.broadcast_to(mass, (3, *mass.shape[1:]))


def _flat(colours: np.ndarray) -> Tensor:
    return torch.from_numpy(colours.reshape(3, -1).T.astype(np.float32))


def _dithered(colours: np.ndarray):
    """Random pixels, each moved within its own level: the colours then have a density."""
    pixels = _flat(colours)

    def sample(n: int, generator: torch.Generator) -> Tensor:
        x = pixels[torch.randint(len(pixels), (n,), generator=generator)]
        return x + (torch.rand(x.shape, generator=generator) - 0.5) / _LEVELS

    return sample


def _write(path: Path, like: np.ndarray, colours: Tensor) -> None:
    values = colours.numpy().reshape(*like.shape[1:], 3)
    Image.fromarray(np.uint8(np.rint(_LEVELS * values))).save(path)


def _tell(name: str, before: Tensor, after: Tensor, aim: Tensor) -> None:
    distances = [
        float(sliced_w2(x, aim, generator=torch.Generator().manual_seed(0)))
        for x in (before, after)
    ]
    common = [_intersection(x, aim) for x in (before, after)]
    click.echo(
        f"{name}: sliced W2 {distances[0]:.4f} -> {distances[1]:.4f}, "
        f"common histogram {common[0]:.1%} -> {common[1]:.1%}"
    )


def _intersection(x: Tensor, y: Tensor) -> float:
    shares = [np.histogramdd(p.numpy(), bins=_BINS, range=[(0, 1)] * 3)[0] / len(p) for p in (x, y)]
    return float(np.minimum(*shares).sum())
