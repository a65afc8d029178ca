"""Faster forms of the layers of `neuralop`: same parameters, same results.

A layer takes its faster form by changing its class, so parameters, buffers, hooks and the state
dict stay as they are, and changing it back restores it.
"""

from __future__ import annotations

import torch.nn.functional as F
from neuralop.layers.channel_mlp import ChannelMLP
from neuralop.layers.fno_block import FNOBlocks
from neuralop.layers.skip_connections import Flattened1dConv, SoftGating
from neuralop.layers.spectral_convolution import SpectralConv
from neuralop.layers.spherical_convolution import SphericalConv
from torch import Tensor, nn

from unot_fast.ops import channel_mlp
from unot_fast.spectral.conv import as_real, compute_dtype, fourier_block, spectral_backend
from unot_fast.spectral.sphere import spherical_block


class FastSpectralConv(SpectralConv):
    """`SpectralConv` on the modes that it keeps."""

    def forward(self, x: Tensor, output_shape=None) -> Tensor:
        if output_shape is not None and tuple(output_shape) != tuple(x.shape[2:]):
            return super().forward(x, output_shape)  # resamples by the order of its coefficients
        return self.layer(x)

    def layer(self, x: Tensor, skip: Tensor | None = None, mlp=(), gelu: bool = False) -> Tensor:
        """The convolution, and what an FNO block does after it."""
        return fourier_block(
            x,
            [(as_real(self._kept_weight(x.shape[2:])), None)],
            self.bias,
            skip,
            mlp,
            gelu=gelu,
            norm=self.fft_norm,
            backend=spectral_backend(x, self.order, self.backend),
        )

    def _kept_weight(self, shape) -> Tensor:
        """The weight of the modes in use: those around zero of all that there are."""
        *leading, last = shape
        weight = self.weight
        weight = weight.to_tensor() if hasattr(weight, "to_tensor") else weight
        cuts = [slice(None), slice(None)]
        for n, modes, most in zip(leading, self.n_modes[:-1], self.max_n_modes[:-1], strict=True):
            surplus = most - min(n, modes)
            cuts.append(slice(surplus // 2, most - (surplus + 1) // 2))
        cuts.append(slice(0, min(last // 2 + 1, self.n_modes[-1])))
        return weight[tuple(cuts)]

    @staticmethod
    def obstacle(layer: SpectralConv) -> str | None:
        if layer.complex_data:
            return "complex data"
        if layer.separable:
            return "separable contraction"
        if layer.fno_block_precision != "full":
            return f"fno_block_precision={layer.fno_block_precision!r}"
        if layer.resolution_scaling_factor is not None:
            return "resolution_scaling_factor"
        if layer.order > 3:
            return f"{layer.order} dimensions"
        return None


class FastSphericalConv(SphericalConv):
    """`SphericalConv` on the harmonics that it keeps."""

    def forward(self, x: Tensor, output_shape=None) -> Tensor:
        if output_shape is not None and tuple(output_shape) != tuple(x.shape[2:]):
            return super().forward(x, output_shape)
        return self.layer(x)

    def layer(self, x: Tensor, skip: Tensor | None = None, mlp=(), gelu: bool = False) -> Tensor:
        """The convolution, and what an FNO block does after it."""
        degrees, orders = self.n_modes
        weight = self.weight.to_tensor()[:, :, :degrees]
        return spherical_block(
            x,
            [(as_real(weight), None)],
            self.bias,
            skip,
            mlp,
            gelu=gelu,
            orders=orders // 2,
            grid=self.sht_grids[0],
            norm=self.sht_norm,
            backend=spectral_backend(x, 2, self.backend),
        )

    @staticmethod
    def obstacle(layer: SphericalConv) -> str | None:
        if layer.separable:
            return "separable contraction"
        if layer.resolution_scaling_factor is not None:
            return "resolution_scaling_factor"
        if layer.sht_grids[0] != layer.sht_grids[1]:
            return f"sht_grids={layer.sht_grids}"
        if layer.order != 2:
            return f"{layer.order} dimensions"
        return None


class FastChannelMLP(ChannelMLP):
    """`ChannelMLP` without its hidden values in memory."""

    def forward(self, x: Tensor) -> Tensor:
        dtype, real = x.dtype, compute_dtype(x)
        tensors = (None if t is None else t.to(real) for t in (x, *self.weights()))
        return channel_mlp(*tensors, backend=spectral_backend(x, 2, self.backend)).to(dtype)

    def weights(self) -> tuple[Tensor | None, ...]:
        first, second = self.fcs
        return first.weight.squeeze(-1), first.bias, second.weight.squeeze(-1), second.bias

    @staticmethod
    def obstacle(layer: ChannelMLP) -> str | None:
        if layer.n_layers != 2:
            return f"{layer.n_layers} layers"
        if layer.non_linearity is not F.gelu:
            return f"non_linearity={_name(layer.non_linearity)}"
        if layer.dropout is not None:
            return "dropout"
        return None


class FastFNOBlocks(FNOBlocks):
    """`FNOBlocks` with all that follows the spectral products in one pass over the grid."""

    def forward_with_postactivation(self, x: Tensor, index=0, output_shape=None) -> Tensor:
        if output_shape is not None and tuple(output_shape) != tuple(x.shape[2:]):
            return super().forward_with_postactivation(x, index, output_shape)
        gelu = index < self.n_layers - 1
        skip, mlp = None, ()
        if self.fno_skips is not None:
            skip = self.fno_skips[index].conv.weight.squeeze(-1)
        if self.use_channel_mlp:
            gate = None
            if self.channel_mlp_skips is not None:
                gating = self.channel_mlp_skips[index]
                gated = isinstance(gating, SoftGating)
                gate = gating.weight.flatten() if gated else x.new_ones(x.shape[1])
            mlp = (*self.channel_mlp[index].weights(), gate)
        x = self.convs[index].layer(x, skip, mlp, gelu)
        return F.gelu(x) if gelu and not self.use_channel_mlp else x  # neuralop has it twice then

    @staticmethod
    def obstacle(blocks: FNOBlocks) -> str | None:
        if blocks.preactivation:
            return "preactivation"
        if blocks.norm is not None:
            return "normalisation layers"
        if blocks.stabilizer is not None:
            return f"stabilizer={blocks.stabilizer!r}"
        if blocks.non_linearity is not F.gelu:
            return f"non_linearity={_name(blocks.non_linearity)}"
        for conv in blocks.convs:
            if not isinstance(conv, FastSpectralConv | FastSphericalConv):
                return "a convolution that is not replaced"
        for skip in blocks.fno_skips or ():
            if type(skip) is not Flattened1dConv or skip.conv.bias is not None:
                return f"fno_skip of {_name(type(skip))}"
        if blocks.use_channel_mlp:
            for mlp in blocks.channel_mlp:
                if not isinstance(mlp, FastChannelMLP):
                    return "a channel MLP that is not replaced"
            for skip in blocks.channel_mlp_skips or ():
                gated = type(skip) is SoftGating and skip.bias is None
                if not gated and type(skip) is not nn.Identity:
                    return f"channel_mlp_skip of {_name(type(skip))}"
        return None


# Parts before what is made of them.
FASTER = {
    SpectralConv: FastSpectralConv,
    SphericalConv: FastSphericalConv,
    ChannelMLP: FastChannelMLP,
    FNOBlocks: FastFNOBlocks,
}


def _name(x: object) -> str:
    return getattr(x, "__name__", repr(x))
