"""Faster forms of the layers of `torch_harmonics.examples`: same parameters, same results.

They take their faster form as the layers of `neuralop` do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_harmonics import InverseRealSHT, RealSHT
from torch_harmonics.examples.models._layers import MLP, SpectralConvS2

from unot_fast.ops import (
    channel_mlp,
    legendre_products,
    spectral_analysis,
    spectral_synthesis,
)
from unot_fast.spectral.children import alteration, calls_are_seen, not_pointwise
from unot_fast.spectral.conv import complex_as_real, compute_dtype, spectral_backend
from unot_fast.spectral.fourier import Band, analysis_table, synthesis_table
from unot_fast.spectral.sphere import buffer_layout, harmonic_mixing

SCALE, DEGREES_LAST = buffer_layout()


class FastSpectralConvS2(SpectralConvS2):
    """`SpectralConvS2` as products with the tables of its transforms."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.obstacle(self) or calls_are_seen():
            return super().forward(x)
        sht, isht = self.forward_transform, self.inverse_transform
        if x.ndim != 4 or tuple(x.shape[2:]) != (sht.nlat, sht.nlon):
            raise ValueError(
                f"x must have shape (B, C, {sht.nlat}, {sht.nlon}); got {tuple(x.shape)}"
            )
        dtype, real = x.dtype, compute_dtype(x)
        weight = complex_as_real(self.weight).transpose(0, 1)
        x, down, up, weight = (t.to(real) for t in (x, sht.weights, isht.pct, weight))
        up = up if DEGREES_LAST else up.mT
        backend, band = spectral_backend(x, 2, self.backend), Band(0, down.shape[0], half=True)
        to_orders = analysis_table(sht.nlon, band, SCALE / sht.nlon, x)
        to_points = synthesis_table(isht.nlon, band, 1.0, x)

        def synthesis(c: Tensor) -> Tensor:
            lines = legendre_products(c, up, to_lines=True, backend=backend)
            return spectral_synthesis(lines, [to_points], backend=backend)

        with torch.autocast(x.device.type, enabled=False):
            lines = spectral_analysis(x, [to_orders], backend=backend)
            c = legendre_products(lines, down, to_lines=False, backend=backend)
            residual = synthesis(c) if self.scale_residual else x
            out = synthesis(harmonic_mixing(c, weight))
        if hasattr(self, "bias"):
            out = out + self.bias
        return out.to(dtype), residual

    @staticmethod
    def obstacle(layer: SpectralConvS2) -> str | None:
        sht, isht = layer.forward_transform, layer.inverse_transform
        reason = alteration(sht, RealSHT) or alteration(isht, InverseRealSHT)
        if reason is not None:
            return reason
        if (sht.lmax, sht.mmax) != (isht.lmax, isht.mmax):
            return "other harmonics in its input than in its result"
        return None


class FastMLP(MLP):
    """`MLP` without its hidden values in memory."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or self.obstacle(self) or calls_are_seen():
            return super().forward(x)
        (first, _, second), dtype, real = self.fwd, x.dtype, compute_dtype(x)
        tensors = first.weight.flatten(1), first.bias, second.weight.flatten(1), second.bias
        tensors = (None if t is None else t.to(real) for t in (x, *tensors))
        return channel_mlp(*tensors, backend=spectral_backend(x, 2, self.backend)).to(dtype)

    @staticmethod
    def obstacle(layer: MLP) -> str | None:
        if layer.checkpointing:
            return "checkpointing"
        reason = alteration(layer.fwd, nn.Sequential)
        if reason is not None:
            return reason
        if len(layer.fwd) != 3:
            return "dropout"
        first, activation, second = layer.fwd
        if not isinstance(activation, nn.GELU) or activation.approximate != "none":
            return f"activation {activation}"
        return (
            alteration(activation, nn.GELU)
            or not_pointwise(first, nn.Conv2d)
            or not_pointwise(second, nn.Conv2d)
        )


FASTER = {SpectralConvS2: FastSpectralConvS2, MLP: FastMLP}
