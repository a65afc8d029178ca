"""Faster forms of the layers of `neuralop`: same parameters, same results.

A layer takes its faster form by changing its class, so parameters, buffers, its own hooks and the
state dict stay as they are, and changing it back restores it. What has an `obstacle`, then or at
any later call, goes the way of `neuralop`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from neuralop.layers.channel_mlp import ChannelMLP
from neuralop.layers.fno_block import FNOBlocks
from neuralop.layers.skip_connections import Flattened1dConv, SoftGating
from neuralop.layers.spectral_convolution import SpectralConv
from neuralop.layers.spherical_convolution import SHT, SphericalConv
from torch import Tensor, nn
from torch.func import functional_call

from unot_fast.ops import channel_mlp
from unot_fast.spectral.children import alteration, calls_are_seen, name_of, not_pointwise
from unot_fast.spectral.conv import (
    NORMS,
    as_real,
    complex_as_real,
    compute_dtype,
    fourier_block,
    spectral_backend,
)
from unot_fast.spectral.sphere import spherical_block


class FastSpectralConv(SpectralConv):
    """`SpectralConv` on the modes that it keeps."""

    def forward(self, x: Tensor, output_shape=None) -> Tensor:
        if self.obstacle(self):
            return super().forward(x, output_shape)
        return self.layer(x, output_shape=result_shape(self, x, output_shape))

    def layer(
        self, x: Tensor, skip: Tensor | None = None, mlp=(), gelu: bool = False, output_shape=None
    ) -> Tensor:
        """The convolution, and what an FNO block does after it."""
        return fourier_block(
            x,
            [(complex_as_real(self._kept_weight(x.shape[2:])), None)],
            self.bias,
            skip,
            mlp,
            gelu=gelu,
            norm=self.fft_norm or "backward",  # as torch.fft has it
            output_shape=output_shape,
            shifted_twice=True,
            backend=spectral_backend(x, self.order, self.backend),
        )

    def _kept_weight(self, shape) -> Tensor:
        """The weight of the modes in use: those around zero of all that there are."""
        *leading, last = shape
        weight = self.weight
        weight = weight.to_tensor() if hasattr(weight, "to_tensor") else weight
        cuts = [slice(None)] * (1 if self.separable else 2)
        for n, modes, most in zip(leading, self.n_modes[:-1], self.max_n_modes[:-1], strict=True):
            surplus = most - min(n, modes)
            cuts.append(slice(surplus // 2, most - (surplus + 1) // 2))
        cuts.append(slice(0, min(last // 2 + 1, self.n_modes[-1])))
        return weight[tuple(cuts)]

    @staticmethod
    def obstacle(layer: SpectralConv) -> str | None:
        if layer.complex_data:
            return "complex data"
        if layer.fno_block_precision != "full":
            return f"fno_block_precision={layer.fno_block_precision!r}"
        if layer.order > 3:
            return f"{layer.order} dimensions"
        if layer.fft_norm not in (None, *NORMS):
            return f"fft_norm={layer.fft_norm!r}"
        if any(m > most for m, most in zip(layer.n_modes, layer.max_n_modes, strict=True)):
            return "n_modes above max_n_modes"
        return None


class FastSphericalConv(SphericalConv):
    """`SphericalConv` on the harmonics that it keeps."""

    def forward(self, x: Tensor, output_shape=None) -> Tensor:
        if self.obstacle(self) or calls_are_seen():
            return super().forward(x, output_shape)
        return self.layer(x, output_shape=result_shape(self, x, output_shape))

    def layer(
        self, x: Tensor, skip: Tensor | None = None, mlp=(), gelu: bool = False, output_shape=None
    ) -> Tensor:
        """The convolution, and what an FNO block does after it."""
        return spherical_block(
            x,
            [(as_real(self._kept_weight()), None)],
            self.bias,
            skip,
            mlp,
            gelu=gelu,
            orders=self.n_modes[1] // 2,
            grid=self.sht_grids[0],
            norm=self.sht_norm,
            output_shape=output_shape,
            output_grid=self.sht_grids[1],
            backend=spectral_backend(x, 2, self.backend),
        )

    def _kept_weight(self) -> Tensor:
        """The weight of the degrees in use; made of its factors in single precision at least."""
        cut = slice(None), slice(None), slice(self.n_modes[0])
        factors = dict(self.weight.named_parameters())
        if all(p.dtype in (torch.float32, torch.float64) for p in factors.values()):
            return self.weight.to_tensor()[cut]
        factors = {name: p.float() for name, p in factors.items()}
        return functional_call(self.weight, factors, (cut,)).to_tensor()

    @staticmethod
    def obstacle(layer: SphericalConv) -> str | None:
        if layer.separable:
            return "separable contraction"
        if layer.order != 2:
            return f"{layer.order} dimensions"
        return alteration(layer.sht_handle, SHT)


class FastChannelMLP(ChannelMLP):
    """`ChannelMLP` without its hidden values in memory."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 3 or self.obstacle(self) or calls_are_seen():
            return super().forward(x)
        dtype, real = x.dtype, compute_dtype(x)
        tensors = (None if t is None else t.to(real) for t in (x, *self.weights()))
        return channel_mlp(*tensors, backend=spectral_backend(x, 2, self.backend)).to(dtype)

    def weights(self) -> tuple[Tensor | None, ...]:
        first, second = self.fcs
        return first.weight.squeeze(-1), first.bias, second.weight.squeeze(-1), second.bias

    @staticmethod
    def obstacle(layer: ChannelMLP) -> str | None:
        if layer.n_layers != 2 or len(layer.fcs) != 2:
            return f"{layer.n_layers} layers"
        if layer.non_linearity is not F.gelu:
            return f"non_linearity={name_of(layer.non_linearity)}"
        if layer.dropout is not None:
            return "dropout"
        first, second = layer.fcs
        return not_pointwise(first, nn.Conv1d) or not_pointwise(second, nn.Conv1d)


class FastFNOBlocks(FNOBlocks):
    """`FNOBlocks` with all that follows the spectral products in one pass over the grid."""

    def forward_with_postactivation(self, x: Tensor, index=0, output_shape=None) -> Tensor:
        if (
            _obstacle_to_all(self)
            or _obstacle_to_one(self, index)
            or calls_are_seen()
            or not _same_grid(self.convs[index], x, output_shape)
        ):
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
        reasons = (_obstacle_to_one(blocks, index) for index in range(blocks.n_layers))
        return _obstacle_to_all(blocks) or next(filter(None, reasons), None)


def _obstacle_to_all(blocks: FNOBlocks) -> str | None:
    """What keeps blocks from one pass over the grid."""
    if blocks.preactivation:
        return "preactivation"
    if blocks.norm is not None:
        return "normalisation layers"
    if blocks.stabilizer is not None:
        return f"stabilizer={blocks.stabilizer!r}"
    if blocks.non_linearity is not F.gelu:
        return f"non_linearity={name_of(blocks.non_linearity)}"
    return None


def _obstacle_to_one(blocks: FNOBlocks, index: int) -> str | None:
    """What keeps one of them from it."""
    conv = blocks.convs[index]
    if not isinstance(conv, FastSpectralConv | FastSphericalConv):
        return "a convolution that is not replaced"
    kind = FastSpectralConv if isinstance(conv, FastSpectralConv) else FastSphericalConv
    reason = alteration(conv, kind) or conv.obstacle(conv)
    if reason is None and blocks.fno_skips is not None:
        reason = _obstacle_of_skip(blocks.fno_skips[index])
    if reason is None and blocks.use_channel_mlp:
        mlp = blocks.channel_mlp[index]
        if not isinstance(mlp, FastChannelMLP):
            return "a channel MLP that is not replaced"
        reason = alteration(mlp, FastChannelMLP) or mlp.obstacle(mlp)
        if reason is None and blocks.channel_mlp_skips is not None:
            reason = _obstacle_of_gate(blocks.channel_mlp_skips[index])
    return reason


def _obstacle_of_skip(skip: nn.Module) -> str | None:
    if not isinstance(skip, Flattened1dConv):
        return f"fno_skip of {name_of(type(skip))}"
    reason = alteration(skip, Flattened1dConv) or not_pointwise(skip.conv, nn.Conv1d)
    return "fno_skip with a bias" if reason is None and skip.conv.bias is not None else reason


def _obstacle_of_gate(skip: nn.Module) -> str | None:
    if isinstance(skip, SoftGating) and skip.bias is None:
        return alteration(skip, SoftGating)
    if isinstance(skip, nn.Identity):
        return alteration(skip, nn.Identity)
    return f"channel_mlp_skip of {name_of(type(skip))}"


def result_shape(conv: nn.Module, x: Tensor, output_shape) -> tuple[int, ...]:
    """Points of the result: those asked for, or those of ``x`` times the factors of the layer."""
    if output_shape is not None:
        return tuple(output_shape)
    shape, factors = tuple(x.shape[2:]), conv.resolution_scaling_factor
    if factors is None:
        return shape
    return tuple(round(n * factor) for n, factor in zip(shape, factors, strict=True))


def _same_grid(conv: nn.Module, x: Tensor, output_shape) -> bool:
    """Whether a block has its result on the points of ``x``."""
    if isinstance(conv, SphericalConv) and conv.sht_grids[0] != conv.sht_grids[1]:
        return False
    return result_shape(conv, x, output_shape) == tuple(x.shape[2:])


# Parts before what is made of them.
FASTER = {
    SpectralConv: FastSpectralConv,
    SphericalConv: FastSphericalConv,
    ChannelMLP: FastChannelMLP,
    FNOBlocks: FastFNOBlocks,
}
