"""Measures in the plane that are easy to see."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Sampler = Callable[[int, torch.Generator], Tensor]


def gaussian(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator)


def eight_gaussians(n: int, generator: torch.Generator) -> Tensor:
    """On a circle of radius 3."""
    angle = torch.randint(8, (n,), generator=generator) * (math.pi / 4)
    centre = 3 * torch.stack((angle.cos(), angle.sin()), 1)
    return centre + 0.25 * torch.randn(n, 2, generator=generator)


def moons(n: int, generator: torch.Generator) -> Tensor:
    """Two half circles that reach into each other."""
    angle = math.pi * torch.rand(n, generator=generator)
    upper = torch.randint(2, (n,), generator=generator).bool()
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return 2 * torch.stack((x, y), 1) + 0.1 * torch.randn(n, 2, generator=generator)


def checkerboard(n: int, generator: torch.Generator) -> Tensor:
    """The dark squares of a 4 x 4 board."""
    row, half = torch.randint(4, (2, n), generator=generator)
    cell = torch.stack((2 * (half % 2) + row % 2, row), 1)
    return cell + torch.rand(n, 2, generator=generator) - 2


def swiss_roll(n: int, generator: torch.Generator) -> Tensor:
    """A spiral of one turn and a half."""
    turn = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
    roll = torch.stack((turn * turn.cos(), turn * turn.sin()), 1) / 5
    return roll + 0.05 * torch.randn(n, 2, generator=generator)


TOYS: dict[str, tuple[Sampler, Sampler]] = {
    "eight-gaussians": (gaussian, eight_gaussians),
    "moons": (gaussian, moons),
    "checkerboard": (gaussian, checkerboard),
    "swiss-roll": (gaussian, swiss_roll),
    "moons-to-eight-gaussians": (moons, eight_gaussians),
}
