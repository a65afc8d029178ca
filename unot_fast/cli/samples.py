"""Pictures that come with scikit-image, read from the installed files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click
import numpy as np

from unot_fast.cli.images import Picture, fit, load

# In the wheel since 0.18; the functions of skimage.data would download what is not.
_FILES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)


def sample(name: str, invert: bool = False) -> Picture:
    """One picture, by its file name.

    Raises
    ------
    click.ClickException
        scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None:
        raise click.ClickException("scikit-image is not installed: pip install 'unot-fast[demo]'")
    return load(Path(spec.origin).parent / "data" / name, invert)


def random_pairs(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Luminances of random square crops, each pair from two different pictures.

    Returns
    -------
    a, b : ndarray, shape (count, size, size), float64
        In [0, 1].
    """
    rng = np.random.default_rng(seed)
    pictures = [sample(name).grey().mass for name in _FILES]
    pairs = [rng.choice(len(pictures), 2, replace=False) for _ in range(count)]
    crops = [[_crop(pictures[k], size, rng) for k in pair] for pair in pairs]
    a, b = np.array(crops).swapaxes(0, 1)
    return a, b


def _crop(mass: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    height, width = mass.shape[1:]
    side = round(min(height, width) * rng.uniform(0.5, 1))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return fit(mass[:, top : top + side, left : left + side], (size, size))[0]
