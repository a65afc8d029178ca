"""The units that a potential is learned in."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Units(nn.Module):
    """A mean and one scale for each side, so that coordinates vary by about 1.

    A transport of quadratic cost between shifted and scaled measures is the shifted and scaled
    transport: the map is mean_target + scale_target T((x - mean_source) / scale_source).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        for side in ("source", "target"):
            self.register_buffer(f"{side}_mean", torch.zeros(dim))
            self.register_buffer(f"{side}_scale", torch.ones(()))

    def measure(self, x: Tensor, z: Tensor, *, common: bool = False) -> None:
        """Take the units from points of the source and of the target, one for both if ``common``.

        Other costs than the quadratic one know no shifts: both sides must keep their distance.
        """
        if common:
            x = z = torch.cat((x, z))
        for side, points in (("source", x), ("target", z)):
            mean = points.double().mean(0)
            scale = (points.double() - mean).square().mean().sqrt()
            if not scale > 0:
                raise ValueError(f"{side} has no spread: all its points are one")
            getattr(self, f"{side}_mean").copy_(mean)
            getattr(self, f"{side}_scale").copy_(scale)

    def resemble(self, other: dict[str, Tensor]) -> bool:
        """Whether a saved state may be of the same measures, if of other draws from them."""
        for side in ("source", "target"):
            scale, was = getattr(self, f"{side}_scale"), other[f"{side}_scale"]
            apart = (getattr(self, f"{side}_mean") - other[f"{side}_mean"]).abs().max()
            if not (0.8 < scale / was < 1.25 and apart < 0.5 * scale):
                return False
        return True

    def source(self, x: Tensor) -> Tensor:
        return (x - self.source_mean) / self.source_scale

    def target(self, z: Tensor) -> Tensor:
        return (z - self.target_mean) / self.target_scale

    def source_back(self, x: Tensor) -> Tensor:
        return self.source_mean + self.source_scale * x

    def target_back(self, z: Tensor) -> Tensor:
        return self.target_mean + self.target_scale * z
