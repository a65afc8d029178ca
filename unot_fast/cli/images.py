"""Pictures as measures on a grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageOps

DEFAULT_LONGEST = 64
CHANNELS = ("red", "green", "blue")
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class Picture:
    """Masses of a picture.

    Attributes
    ----------
    path : Path
    mass : ndarray, shape (1 or 3, H, W), float64
        In [0, 1]; 1 is white, or black for an inverted picture. Transparent pixels hold none.
    """

    path: Path
    mass: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.mass.shape[1:]

    @property
    def is_colour(self) -> bool:
        return self.mass.shape[0] == 3

    def grey(self) -> Picture:
        """The luminance."""
        if not self.is_colour:
            return self
        return Picture(self.path, np.tensordot(_LUMINANCE, self.mass, 1)[None])

    def __str__(self) -> str:
        kind = "colour" if self.is_colour else "grey"
        return f"{self.path.name} ({self.shape[0]}x{self.shape[1]}, {kind})"


def load(path: Path, invert: bool = False) -> Picture:
    """Read the first frame of an image file.

    A picture whose three channels are equal is grey.

    Raises
    ------
    click.ClickException
        The file is not an image, or holds NaN, infinite or negative values.
    """
    try:
        with Image.open(path) as image:
            value, alpha = _decode(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise click.ClickException(f"{path}: cannot be read as an image: {error}") from error
    mass = alpha * (1 - value if invert else value)
    if mass.shape[0] == 3 and (mass[0] == mass[1]).all() and (mass[0] == mass[2]).all():
        mass = mass[:1]
    return Picture(path, mass)


def _decode(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Values (1 or 3, H, W) and opacity (1, H, W), in [0, 1]."""
    opaque = image.mode in ("1", "L") and "transparency" not in image.info
    if opaque or image.mode in ("F", "I") or image.mode.startswith("I;16"):
        value = normalised(np.asarray(image))[None]
        return value, np.ones_like(value)
    channels = normalised(np.asarray(image.convert("RGBA"))).transpose(2, 0, 1)
    return channels[:3], channels[3:]


def normalised(values: np.ndarray) -> np.ndarray:
    """Pixel values with white at 1, in float64.

    White is the largest value of an integer type; of floats it is 1, or their maximum beyond it.

    Raises
    ------
    ValueError
        A value is negative, infinite or NaN, or there is none.
    """
    if values.size == 0:
        raise ValueError("there are no pixels")
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("there are negative, infinite or NaN pixels")
    if values.dtype == bool:
        white = 1
    elif values.dtype.kind == "u":
        white = np.iinfo(values.dtype).max
    elif values.dtype.kind == "i":  # 16-bit pictures may arrive in wider integers
        white = 65535 if values.max() <= 65535 else np.iinfo(values.dtype).max
    else:
        white = max(1.0, values.max())
    return values.astype(np.float64) / white


def grid_shape(shape: tuple[int, int], size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Pixels of the grid for a first picture of this shape.

    Its aspect ratio, with the longest side ``size``; by default 64, or its own where that is
    less. A pair of numbers is taken as it is.
    """
    if isinstance(size, tuple):
        return size
    longest = size or min(DEFAULT_LONGEST, max(shape))
    return tuple(max(1, round(n * longest / max(shape))) for n in shape)


def fit(mass: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scale to the grid with the aspect ratio kept, centred, empty pixels around.

    Averages over the area of each new pixel.

    Parameters
    ----------
    mass : ndarray, shape (C, H, W)
    shape : (int, int)

    Returns
    -------
    ndarray, shape (C, \\*shape), float64
    """
    height, width = mass.shape[1:]
    choices = [
        (shape[0], max(1, round(width * shape[0] / height))),
        (max(1, round(height * shape[1] / width)), shape[1]),
    ]
    # Rounding lets both sides of a picture of the grid's own aspect ratio fill it.
    h, w = max((c for c in choices if c[0] <= shape[0] and c[1] <= shape[1]), key=np.prod)
    top, left = (shape[0] - h) // 2, (shape[1] - w) // 2
    out = np.zeros((len(mass), *shape))
    for channel, target in zip(mass, out, strict=True):
        image = Image.fromarray(channel.astype(np.float32))
        target[top : top + h, left : left + w] = image.resize((w, h), Image.Resampling.BOX)
    return out


def measures(picture: Picture, shape: tuple[int, int], dust: float) -> np.ndarray:
    """The channels of a picture on a grid, each of total mass 1.

    Parameters
    ----------
    picture : Picture
    shape : (int, int)
    dust : float
        Added to every pixel of a measure of total 1, which is then scaled to 1 again.

    Returns
    -------
    ndarray, shape (C, \\*shape), float64

    Raises
    ------
    click.ClickException
        A channel has no mass.
    """
    mass = fit(picture.mass, shape)
    totals = mass.sum((1, 2), keepdims=True)
    for k, total in enumerate(totals.ravel()):
        if total == 0:
            what = f"the {CHANNELS[k]} channel" if picture.is_colour else "the picture"
            raise click.ClickException(
                f"{picture.path}: {what} has no mass: every pixel is black, white under --invert, "
                "or transparent" + ("; --grey takes the luminance" if picture.is_colour else "")
            )
    mass = mass / totals + dust
    return mass / mass.sum((1, 2), keepdims=True)
