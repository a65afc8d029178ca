"""Pairs of measures from the image sets of the published evaluation."""

from __future__ import annotations

import fnmatch
import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unot_fast.evaluation.images import is_readable, load_images
from unot_fast.geometry import Geometry, Grid, Sphere

DATA_VARIABLE = "UNOT_FAST_DATA"
PUBLISHED_DUST = 1e-4
_LIMIT = 5000  # images of a set that are read
_SETS = {
    "mnist": ("mnist*", "train-images*idx3-ubyte*"),
    "cifar": ("cifar*",),
    "lfw": ("lfw*",),
    "bears": ("bear*", "full_numpy_bitmap_bear*", "full%2fnumpy_bitmap%2fbear*"),
    "sphere_mnist": ("sphere_mnist*",),
    "sphere_earth": ("sphere_earth*",),
}
"""Names of the files or folders of a set, in either case."""


@dataclass(frozen=True)
class Cell:
    """Pairs of two image sets: mu from the one, nu from the other.

    Attributes
    ----------
    name : str
    source, target : str
        Sets of mu and nu.
    n : int
        Resolution: n x n points, on the sphere n circles of 2 n points.
    spherical : bool
    epsilon_unit : float
        What one unit of the published epsilon is in units of the cost here. On the sphere 10, for
        the published cost there is the angle divided by 10.
    cost : {"sqeuclidean", "euclidean"}
        In the plane; that of the publication is |x - y|^2.
    """

    name: str
    source: str
    target: str
    n: int
    spherical: bool = False
    epsilon_unit: float = 1.0
    cost: str = "sqeuclidean"

    def geometry(self, n: int | None = None) -> Geometry:
        """The unit square with the cell's cost, or the sphere with the angle between points."""
        n = n or self.n
        return Sphere(n, 2 * n) if self.spherical else Grid((n, n), self.cost)


CELLS = {
    cell.name: cell
    for cell in (
        Cell("MNIST", "mnist", "mnist", 28),
        Cell("CIFAR", "cifar", "cifar", 28),
        Cell("MNIST-CIFAR", "mnist", "cifar", 28),
        Cell("LFW", "lfw", "lfw", 64),
        Cell("Bears", "bears", "bears", 64),
        Cell("LFW-Bears", "lfw", "bears", 64),
        Cell("sphere-MNIST", "sphere_mnist", "sphere_mnist", 32, True, 10.0),
        Cell("sphere-Earth", "sphere_earth", "sphere_earth", 32, True, 10.0),
    )
}
PUBLISHED_CELLS = tuple(name for name, cell in CELLS.items() if not cell.spherical)


def data_directory(path: str | Path | None = None) -> Path:
    """The folder of the image sets: ``path``, or what UNOT_FAST_DATA names.

    Raises
    ------
    FileNotFoundError
    """
    path = path or os.environ.get(DATA_VARIABLE)
    if not path:
        raise FileNotFoundError(f"data: give the folder of the image sets, or set {DATA_VARIABLE}")
    if not Path(path).is_dir():
        raise FileNotFoundError(f"data: {path} is not a folder")
    return Path(path)


def find_set(name: str, data: Path) -> Path:
    """The file or folder of an image set.

    Raises
    ------
    FileNotFoundError
        It is not there; the message says what was looked for.
    """
    for pattern in _SETS[name]:
        found = (p for p in data.iterdir() if fnmatch.fnmatchcase(p.name.lower(), pattern))
        if readable := sorted(filter(is_readable, found)):
            return readable[0]
    raise FileNotFoundError(f"{name}: nothing named {' or '.join(_SETS[name])} in {data}")


def load_set(name: str, data: str | Path | None = None) -> Tensor:
    """Images of a set, shape (N, h, w); of a larger one 5000, as `load_images` chooses them.

    Those that are black everywhere are left out, since they are no measures.

    Raises
    ------
    FileNotFoundError, ValueError
        It is missing or damaged, or all of it is black.
    """
    images, usable = _set(name, data)
    return images if len(usable) == len(images) else images[usable]


def black_images(name: str, data: str | Path | None = None) -> list[int]:
    """Places in a set of the images that `load_set` and `pairs` leave out."""
    images, usable = _set(name, data)
    return np.setdiff1d(np.arange(len(images)), usable).tolist()


def _set(name: str, data: str | Path | None) -> tuple[Tensor, np.ndarray]:
    """All images of a set, and the places of those that have mass."""
    path = find_set(name, data_directory(data))
    images, usable = _load(path)
    if len(usable) == 0:
        raise ValueError(f"{name}: every image in {path} is black everywhere")
    return images, usable


def pairs(
    cell: Cell,
    count: int,
    seed: int,
    n: int | None = None,
    dust: float = PUBLISHED_DUST,
    data: str | Path | None = None,
) -> tuple[Tensor, Tensor]:
    """Random pairs of measures, drawn with replacement and independently of each other.

    The images are those of `load_set`: one that is black everywhere is never drawn.

    Parameters
    ----------
    cell : Cell
        One of `CELLS`.
    count, seed : int
    n : int, optional
        Another resolution than the cell's.
    dust : float
        Mass added to every point of a measure of total 1.
    data : str or Path, optional
        Folder of the image sets; default: what UNOT_FAST_DATA names.

    Returns
    -------
    mu, nu : Tensor, shape (count, \\*cell.geometry(n).shape), float64
        Of total 1.

    Raises
    ------
    FileNotFoundError, ValueError
        A set is missing or damaged, or an image of it has no mass at this resolution; the message
        names it.
    """
    if count < 1:
        raise ValueError(f"count must be positive; got {count}")
    rng = np.random.default_rng(seed)
    sides = []
    for name in (cell.source, cell.target):
        images, usable = _set(name, data)
        drawn = usable[rng.integers(0, len(usable), count)]
        as_measures = spherical_measures if cell.spherical else measures
        try:
            sides.append(as_measures(images[drawn], n or cell.n, dust, drawn))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return sides[0], sides[1]


@functools.lru_cache(maxsize=len(_SETS))
def _load(path: Path) -> tuple[Tensor, np.ndarray]:
    images = load_images(path, _LIMIT)
    return images, (images != 0).flatten(1).any(1).nonzero()[:, 0].numpy()


def measures(
    images: Tensor, n: int, dust: float = PUBLISHED_DUST, index: np.ndarray | None = None
) -> Tensor:
    """Images as measures on the n x n grid, with the published preprocessing.

    Bilinear interpolation without antialiasing; the intensities, scaled to total 1, are the
    masses; ``dust`` is added to every point, and the total is scaled to 1 again.

    Parameters
    ----------
    images : Tensor, shape (N, h, w)
        Not negative.
    n : int
    dust : float
    index : ndarray, shape (N,), optional
        What an error calls the images; default: their positions.

    Returns
    -------
    Tensor, shape (N, n, n), float64

    Raises
    ------
    ValueError
        An image is black everywhere, or holds negative, infinite or NaN values.
    """
    mass = _checked(images, index)
    if mass.shape[-2:] != (n, n):
        mass = F.interpolate(mass[:, None], size=(n, n), mode="bilinear", align_corners=False)
        mass = mass[:, 0]
    return _normalised(mass, torch.ones((), dtype=torch.float64), dust, index)


def spherical_measures(
    images: Tensor, n: int, dust: float = PUBLISHED_DUST, index: np.ndarray | None = None
) -> Tensor:
    """Densities per area on latitudes and longitudes as measures on ``Sphere(n, 2 n)``.

    Their masses are pooled: every point's mass is shared linearly among the four points around it.

    Parameters
    ----------
    images : Tensor, shape (N, h, w)
        The first row is the north pole, the last one the south pole; columns go from longitude 0
        eastwards.
    n : int
        Circles of latitude, at most h.
    dust : float
        Mean mass that is added to a point, in proportion to its area.
    index
        As for `measures`.

    Returns
    -------
    Tensor, shape (N, n, 2 n), float64
    """
    h, w = images.shape[-2:]
    if not 2 <= n <= h or 2 * n > w:
        raise ValueError(f"n must be from 2 to {min(h, w // 2)} for images {h} x {w}; got {n}")
    mass = Sphere(h, w).masses(_checked(images, index))
    latitudes = torch.arange(h, dtype=torch.float64) * ((n - 1) / (h - 1))
    longitudes = torch.arange(w, dtype=torch.float64) * (2 * n / w)
    mass = _shares(latitudes, n) @ mass @ _shares(longitudes, 2 * n, circular=True).T
    area = Sphere(n, 2 * n).weights / (4 * math.pi)
    return _normalised(mass, area * area.numel(), dust, index)


def _shares(positions: Tensor, n: int, circular: bool = False) -> Tensor:
    """Share of each position that goes to each of n points, linear in between, (n, positions)."""
    distance = (positions - torch.arange(n, dtype=torch.float64)[:, None]).abs()
    if circular:
        distance = torch.minimum(distance, n - distance)
    return (1 - distance).clamp_min(0)


def _checked(images: Tensor, index: np.ndarray | None) -> Tensor:
    if images.ndim != 3:
        raise ValueError(f"images must have shape (N, h, w); got {tuple(images.shape)}")
    mass = images.double().contiguous()
    wrong = ~(mass.isfinite() & (mass >= 0)).flatten(1).all(1)
    if bool(wrong.any()):
        raise ValueError(f"image {_first(wrong, index)} has negative, infinite or NaN pixels")
    return mass


def _normalised(mass: Tensor, area: Tensor, dust: float, index: np.ndarray | None) -> Tensor:
    if not 0 <= dust < math.inf:
        raise ValueError(f"dust must be finite and not negative; got {dust}")
    total = mass.sum((-2, -1), keepdim=True)
    black = total.flatten() <= 0
    if bool(black.any()):
        raise ValueError(f"image {_first(black, index)} is black everywhere and has no mass")
    mass = mass / total + dust * area
    return mass / mass.sum((-2, -1), keepdim=True)


def _first(where: Tensor, index: np.ndarray | None) -> int:
    k = int(where.nonzero()[0, 0])
    return k if index is None else int(index[k])
