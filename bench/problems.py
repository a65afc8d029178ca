"""The pairs of measures that benchmarks solve: real images, and random fields of any size."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CELLS = {
    "MNIST": ("mnist", "mnist", 28),
    "CIFAR": ("cifar10", "cifar10", 28),
    "CIFAR-MNIST": ("cifar10", "mnist", 28),
    "LFW": ("lfw", "lfw", 64),
    "Bears": ("bears", "bears", 64),
    "LFW-Bears": ("lfw", "bears", 64),
}
"""Name of a pair of data sets: (source of a, source of b, n)."""


class DataMissing(Exception):
    """The image files are not there; the message says where they were looked for."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A batch of pairs on the unit square, with the cost ``|x - y|^2``.

    Attributes
    ----------
    name : str
    a, b : Tensor, shape (B, n, n), float64
        Each of total mass 1, without empty pixels.
    epsilon : float
    """

    name: str
    a: Tensor
    b: Tensor
    epsilon: float = 0.01

    @property
    def n(self) -> int:
        return self.a.shape[-1]

    @property
    def batch(self) -> int:
        return self.a.shape[0]

    @functools.cached_property
    def axis_cost(self) -> Tensor:
        """``(x_i - x_j)^2`` on ``linspace(0, 1, n)``, shape (n, n), float64."""
        x = torch.linspace(0, 1, self.n, dtype=torch.float64, device=self.a.device)
        return (x[:, None] - x).square()

    def take(self, pairs: int) -> Problem:
        """The first pairs of the batch."""
        return self if pairs == self.batch else replace(self, a=self.a[:pairs], b=self.b[:pairs])

    def to(self, device: str | torch.device) -> Problem:
        return replace(self, a=self.a.to(device), b=self.b.to(device))


def cell(name: str, pairs: int = 128, *, seed: int = 0, epsilon: float = 0.01) -> Problem:
    """Random pairs of one of `CELLS`, drawn with replacement.

    Raises
    ------
    DataMissing
        The directory with the images is absent.
    """
    source, target, n = CELLS[name]
    rng = np.random.default_rng(seed)
    a, b = _measures(source, n), _measures(target, n)
    i, j = rng.integers(0, len(a), pairs), rng.integers(0, len(b), pairs)
    return Problem(name, a[i], b[j], epsilon)


def fields(n: int, pairs: int, *, seed: int = 0, epsilon: float = 0.01) -> Problem:
    """Exponentials of smooth Gaussian random fields: full images at any size, from no file.

    The fields are cosine series of eight frequencies per axis with amplitudes ``(1 + |k|)^-3``,
    so that a pair is the same density at every ``n``, and a batch begins like a smaller one.
    """
    k = 8
    freq = torch.arange(k, dtype=torch.float64)
    decay = (1 + (freq[:, None] ** 2 + freq**2).sqrt()) ** -3
    decay[0, 0] = 0
    rng = torch.Generator().manual_seed(seed)
    coefficients = torch.randn((pairs, 2, k, k), generator=rng, dtype=torch.float64) * decay
    x = torch.linspace(0, 1, n, dtype=torch.float64)
    waves = torch.cos(torch.pi * freq[:, None] * x)  # (k, n)
    values = waves.T @ coefficients @ waves
    values = 1.5 * values / values.std((-1, -2), keepdim=True)
    a, b = _normalise(values.exp(), 1e-6).unbind(1)
    return Problem("fields", a.contiguous(), b.contiguous(), epsilon)


def data_directory() -> Path:
    """Where the image files are.

    Raises
    ------
    DataMissing
    """
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("UNOT_FAST_DATA", default))
    if not path.is_dir():
        raise DataMissing("no image data: set UNOT_FAST_DATA to its directory")
    return path


@functools.cache
def _measures(source: str, n: int) -> Tensor:
    path = data_directory() / f"{source}.npz"
    if not path.is_file():
        raise DataMissing(f"{path.name} is not in the data directory")
    with np.load(path) as archive:
        images = torch.from_numpy(archive["images"]).double()
    if images.shape[-1] != n:
        images = torch.nn.functional.interpolate(
            images[:, None], size=(n, n), mode="bilinear", align_corners=False
        )[:, 0]
    return _normalise(images, 1e-6)


def _normalise(images: Tensor, dust: float) -> Tensor:
    images = images.contiguous()  # what a file holds may be transposed
    mass = images / images.sum((-1, -2), keepdim=True) + dust
    return mass / mass.sum((-1, -2), keepdim=True)
