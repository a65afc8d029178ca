"""Truncated Fourier transforms as one small matrix for each axis."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Band:
    """The frequencies that are kept along an axis.

    Attributes
    ----------
    first, count : int
        From ``first`` on, ``count`` of them.
    half : bool
        Whether the negative ones are implied, as on the last axis of a real function.
    aliased : bool
        Whether a frequency that a grid cannot hold stands for its alias; else for zero.
    spectrum : int
        If not 0, frequencies count modulo this length, from 0 on, as indices of a spectrum do.
    """

    first: int
    count: int
    half: bool = False
    aliased: bool = False
    spectrum: int = 0

    @staticmethod
    def of(modes: int, half: bool) -> Band:
        """Frequencies 0, 1, ... on a half axis, those around 0 on another."""
        return Band(0 if half else -(modes // 2), modes, half)

    def on(self, n: int) -> slice:
        """Those of its frequencies that a grid of n points can hold."""
        if self.aliased:
            return slice(0, min(n, self.count))
        low, high = (0, n // 2) if self.half else (-(n // 2), (n - 1) // 2)
        start = max(low - self.first, 0)
        return slice(start, max(start, min(high - self.first + 1, self.count)))

    def part(self, chosen: slice) -> Band:
        """The band of a slice of its frequencies."""
        return replace(self, first=self.first + chosen.start, count=chosen.stop - chosen.start)

    def shifted_twice(self, n: int) -> Band:
        """Its frequencies as ``fftshift``, there and back, leaves them in a spectrum of n.

        One too low where n is odd, where ``ifftshift`` would be the way back.
        """
        if self.half:
            return self
        return replace(self, first=self.first - n % 2, spectrum=n)


def analysis_table(n: int, band: Band, scale: float, like: Tensor) -> Tensor:
    """The matrix from n values to the coefficients of a band, shape (count, n, 2)."""
    return _table(_analysis, n, band, scale, like)


def synthesis_table(n: int, band: Band, scale: float, like: Tensor) -> Tensor:
    """The matrix from the coefficients of a band to n values, shape (n, count, 2).

    On a half axis the real part of the product stands for both signs.
    """
    return _table(_synthesis, n, band, scale, like)


def _table(build, n: int, band: Band, scale: float, like: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # lengths may be symbols
        return build(n, band, scale, like.dtype, like.device)
    return _cached(build, n, band, scale, like.dtype, like.device)


# Kept for good: CUDA graphs know tables by their address. The copy from the host is complete when
# it returns, for every stream.
@functools.cache
def _cached(build, n, band, scale, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return build(n, band, scale, dtype, torch.device("cpu")).to(device)


def _analysis(n, band: Band, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return (_waves(n, band, -1.0, device) * scale).to(dtype)


def _synthesis(n, band: Band, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    k = _frequencies(band, device)
    if band.half:
        weight = torch.where((k == 0) | (2 * k == n), 1.0, 2.0) * (2 * k <= n)
    elif band.aliased:
        weight = torch.ones_like(k)
    elif band.spectrum:
        weight = k < n
    else:
        weight = (k >= -(n // 2)) & (k <= (n - 1) // 2)
    waves = _waves(n, band, 1.0, device) * (weight.double() * scale).view(-1, 1, 1)
    return waves.transpose(0, 1).contiguous().to(dtype)


def _frequencies(band: Band, device: torch.device) -> Tensor:
    k = torch.arange(band.first, band.first + band.count, device=device)
    return k % band.spectrum if band.spectrum else k


def _waves(n, band: Band, sign: float, device: torch.device) -> Tensor:
    """exp(sign 2 pi i k j / n), shape (count, n, 2); the product is reduced modulo n exactly."""
    turns = (_frequencies(band, device)[:, None] * torch.arange(n, device=device)) % n
    angle = turns.double() * (sign * 2 * math.pi / n)
    return torch.stack((angle.cos(), angle.sin()), -1)
