"""Faster forms of the layers of `torch_harmonics.examples`: same parameters, same results.

They take their faster form as the layers of `neuralop` do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_harmonics import InverseRealSHT, RealSHT
from torch_harmonics.examples.models._layers import MLP, SpectralConvS2

from unot_fast.ops import channel_mlp
from unot_fast.spectral.conv import as_real, compute_dtype, spectral_backend
from unot_fast.spectral.fourier import Band, analysis_table, synthesis_table
from unot_fast.spectral.sphere import buffer_layout, harmonic_mixing

SCALE, DEGREES_LAST = buffer_layout()


class FastSpectralConvS2(SpectralConvS2):
    """`SpectralConvS2` as products with the tables of its transforms."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sht, isht = self.forward_transform, self.inverse_transform
        if x.ndim != 4 or tuple(x.shape[2:]) != (sht.nlat, sht.nlon):
            raise ValueError(
                f"x must have shape (B, C, {sht.nlat}, {sht.nlon}); got {tuple(x.shape)}"
            )
        dtype, real = x.dtype, compute_dtype(x)
        x, down, up, weight = (
            t.to(real) for t in (x, sht.weights, isht.pct, as_real(self.weight).transpose(0, 1))
        )
        up = up if DEGREES_LAST else up.mT
        with torch.autocast(x.device.type, enabled=False):
            c = _analysis(x, down)
            residual = _synthesis(c, up, isht.nlon) if self.scale_residual else x
            out = _synthesis(harmonic_mixing(c, weight), up, isht.nlon)
        if hasattr(self, "bias"):
            out = out + self.bias
        return out.to(dtype), residual

    @staticmethod
    def obstacle(layer: SpectralConvS2) -> str | None:
        sht, isht = layer.forward_transform, layer.inverse_transform
        if type(sht) is not RealSHT or type(isht) is not InverseRealSHT:
            return f"{type(sht).__name__} and {type(isht).__name__}"
        if (sht.lmax, sht.mmax) != (isht.lmax, isht.mmax):
            return "other harmonics in its input than in its result"
        return None


class FastMLP(MLP):
    """`MLP` without its hidden values in memory."""

    def forward(self, x: Tensor) -> Tensor:
        (first, _, second), dtype, real = self.fwd, x.dtype, compute_dtype(x)
        tensors = first.weight.flatten(1), first.bias, second.weight.flatten(1), second.bias
        tensors = (None if t is None else t.to(real) for t in (x, *tensors))
        return channel_mlp(*tensors, backend=spectral_backend(x, 2, self.backend)).to(dtype)

    @staticmethod
    def obstacle(layer: MLP) -> str | None:
        if layer.checkpointing:
            return "checkpointing"
        if len(layer.fwd) != 3:
            return "dropout"
        first, activation, second = layer.fwd
        if type(activation) is not nn.GELU or activation.approximate != "none":
            return f"activation {activation}"
        if type(first) is not nn.Conv2d or type(second) is not nn.Conv2d:
            return "layers other than Conv2d"
        return None


FASTER = {SpectralConvS2: FastSpectralConvS2, MLP: FastMLP}


def _analysis(x: Tensor, down: Tensor) -> Tensor:
    """Coefficients, (B, C, nlat, nlon) to (M, L, 2, B, C).

    One product for each latitude, then one for each order: all harmonics are kept but those that
    the grid cannot hold, so transposing them costs as much as the products, and is left to these.
    """
    (batch, _, nlat, nlon), orders = x.shape, down.shape[0]
    table = analysis_table(nlon, Band(0, orders, half=True), SCALE / nlon, x)
    lines = _Columns.apply(x.flatten(0, 1).transpose(0, 1), table.transpose(1, 2).flatten(0, 1))
    lines = lines.view(nlat, orders, -1).transpose(0, 1)
    return torch.bmm(down, lines).unflatten(2, (2, batch, -1))


def _synthesis(c: Tensor, up: Tensor, nlon: int) -> Tensor:
    """Back from coefficients, (M, L, 2, B, C) to (B, C, nlat, nlon)."""
    orders, _, _, batch, channels = c.shape
    cosines, sines = synthesis_table(nlon, Band(0, orders, half=True), 1.0, c).unbind(-1)
    table = torch.stack((cosines, -sines), -1).flatten(1).T  # of real and imaginary parts
    lines = torch.bmm(up, c.flatten(2)).transpose(0, 1)
    lines = _Rows.apply(lines.reshape(-1, 2 * orders, batch * channels), table)
    return lines.transpose(0, 1).reshape(batch, channels, -1, nlon)


class _Columns(torch.autograd.Function):
    """T x^T for each x: autograd's own would leave the transposing to a copy, which is slower."""

    @staticmethod
    def forward(x: Tensor, table: Tensor) -> Tensor:
        return torch.bmm(table.expand(len(x), -1, -1), x.mT)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _Rows.apply(grad, *ctx.saved_tensors), None


class _Rows(torch.autograd.Function):
    """c^T T for each c, the adjoint of `_Columns`."""

    @staticmethod
    def forward(c: Tensor, table: Tensor) -> Tensor:
        return torch.bmm(c.mT, table.expand(len(c), -1, -1))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _Columns.apply(grad, *ctx.saved_tensors), None
