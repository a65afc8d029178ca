"""Random measures to train on, of all the kinds that images are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unot_fast.geometry import Geometry, Sphere

_WAVES = 24  # of a field
_BLOBS = 6  # at most
_CURVES, _BEADS = 3, 16  # strokes at most, and Gaussians along each


class RandomMeasures:
    r"""Random fields, blobs and strokes, on any points.

    Half of the measures are functions of smooth or rough random fields (sums of plane waves, on a
    sphere those of the space around it), a fifth are sums of Gaussians, the rest strokes of a pen;
    some are products of two of these. A uniform background has a share of the mass that is drawn
    log-uniformly between 5e-4 and 0.35.

    Parameters
    ----------
    geom : Geometry
        Whose source points carry the measures.
    device : torch.device, optional

    Examples
    --------
    >>> import torch
    >>> from unot_fast import Grid
    >>> from unot_fast.training import RandomMeasures
    >>> RandomMeasures(Grid((16, 16)))(8, torch.Generator().manual_seed(0)).shape
    torch.Size([8, 16, 16])
    """

    def __init__(self, geom: Geometry, device: torch.device | str = "cpu"):
        self.shape = geom.shape
        self.curved = isinstance(geom, Sphere)
        self.points = geom.points().flatten(0, -2).to(device, torch.float32)
        self.areas = None
        if self.curved and geom.weights is not None:
            self.areas = geom.weights.flatten().to(device, torch.float32)

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        r"""Masses of total 1, shape (batch, \*geom.shape), float32."""
        fields, blobs = (batch + 1) // 2, batch // 5
        density = torch.cat(
            [
                self._fields(fields, generator),
                self._blobs(blobs, generator),
                self._strokes(batch - fields - blobs, generator),
            ]
        )
        order = torch.randperm(batch, generator=generator, device=generator.device)
        order = order.to(density.device)
        textured = self._uniform(generator, batch, 1) < 0.15
        density = torch.where(textured, density * density[order.flip(0)], density)[order]
        if self.areas is not None:
            density = density * self.areas
        mass = density / density.sum(1, keepdim=True).clamp_min(1e-30)
        share = self._uniform(generator, batch, 1, low=math.log(5e-4), high=math.log(0.35)).exp()
        background = torch.ones_like(mass) if self.areas is None else self.areas.expand_as(mass)
        background = background / background.sum(1, keepdim=True)
        mass = mass + share / (1 - share) * background
        return (mass / mass.sum(1, keepdim=True)).unflatten(1, self.shape)

    def _fields(self, batch: int, generator: torch.Generator) -> Tensor:
        d = self.points.shape[1]
        wave = self._normal(generator, batch, _WAVES, d)
        wave = wave / wave.norm(dim=-1, keepdim=True)
        size = self._uniform(generator, batch, _WAVES, 1, low=math.log(0.5), high=math.log(10))
        decay = self._uniform(generator, batch, 1, high=3.0)
        amplitude = torch.exp(-decay * size[..., 0]) * self._normal(generator, batch, _WAVES)
        phase = self._uniform(generator, batch, _WAVES, 1, high=2 * math.pi)
        # On a sphere the unit is its radius, in the plane the whole image.
        wave = wave * size.exp() * (1.0 if self.curved else math.pi)
        waves = torch.cos(torch.baddbmm(phase, wave, self.points.T.expand(batch, d, -1)))
        x = torch.bmm(amplitude[:, None], waves)[:, 0]
        x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True).clamp_min(1e-6)
        gain = self._uniform(generator, batch, 1, low=0.2, high=3.0)
        shift = self._uniform(generator, batch, 1, low=-1.0, high=2.0)
        shapes = torch.stack(
            [
                torch.exp(gain * 0.6 * x),
                (x + shift).relu(),
                torch.sigmoid(2 * gain * (x - shift + 0.5)),
                (x + shift / 2).abs(),
            ]
        )
        kind = self._uniform(generator, batch, high=len(shapes)).long()
        return _scaled(shapes[kind, torch.arange(batch, device=kind.device)])

    def _blobs(self, batch: int, generator: torch.Generator) -> Tensor:
        d = self.points.shape[1]
        centres = self._places(generator, batch, _BLOBS)
        width = self._uniform(generator, batch, _BLOBS, 1, low=math.log(0.03), high=math.log(0.4))
        matrix = torch.eye(d).to(centres) + 0.5 * self._normal(generator, batch, _BLOBS, d, d)
        offset = self.points - centres[:, :, None]  # (B, blobs, points, d)
        squares = (offset @ matrix / width[..., None].exp()).square().sum(-1)
        number = self._uniform(generator, batch, 1, low=1.0, high=_BLOBS + 1.0)
        weight = self._uniform(generator, batch, _BLOBS, low=0.1)
        weight = weight * (torch.arange(_BLOBS, device=weight.device) < number.floor())
        return _scaled(torch.bmm(weight[:, None], torch.exp(-squares / 2))[:, 0])

    def _strokes(self, batch: int, generator: torch.Generator) -> Tensor:
        d = self.points.shape[1]
        shape = batch, _CURVES, 1, d
        middle = self._places(generator, batch, 1)[:, :, None]
        middle = 0.5 * middle + 0.5 * self._places(generator, batch, 1)[:, :, None]
        t = torch.linspace(-1, 1, _BEADS, device=self.points.device)[:, None]
        beads = middle + 0.15 * self._normal(generator, *shape)
        for power, size in ((1, 0.25), (2, 0.2), (3, 0.1)):
            beads = beads + size * self._normal(generator, *shape) * t**power
        if self.curved:
            beads = beads / beads.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        width = self._uniform(generator, batch, 1, low=math.log(0.015), high=math.log(0.08)).exp()
        beads = beads.flatten(1, 2)
        squares = torch.cdist(beads, self.points.expand(batch, *self.points.shape)).square()
        ink = torch.exp(-squares / (2 * width[..., None] ** 2)).unflatten(1, (_CURVES, _BEADS))
        number = self._uniform(generator, batch, 1, low=1.0, high=_CURVES + 1.0).floor()
        drawn = (torch.arange(_CURVES, device=ink.device) < number).to(ink)
        ink = (ink.sum(2) * drawn[..., None]).sum(1)
        return _scaled(ink / (ink + 0.3))

    def _places(self, generator: torch.Generator, batch: int, count: int) -> Tensor:
        """Random points of the domain, shape (batch, count, d)."""
        if self.curved:
            x = self._normal(generator, batch, count, 3)
            return x / x.norm(dim=-1, keepdim=True)
        low, high = self.points.amin(0), self.points.amax(0)
        return low + (high - low) * self._uniform(generator, batch, count, len(low))

    def _uniform(
        self, generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0
    ) -> Tensor:
        x = torch.rand(shape, generator=generator, device=generator.device)
        return (low + (high - low) * x).to(self.points.device)

    def _normal(self, generator: torch.Generator, *shape: int) -> Tensor:
        x = torch.randn(shape, generator=generator, device=generator.device)
        return x.to(self.points.device)


def _scaled(density: Tensor) -> Tensor:
    """To a largest value of 1; uniform where there is none."""
    top = density.amax(1, keepdim=True)
    return torch.where(top > 1e-30, density / top.clamp_min(1e-30), 1.0)
