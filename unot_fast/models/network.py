"""Fourier neural operators of fused layers, in the plane and on the sphere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unot_fast.ops.autocast import in_full_precision
from unot_fast.spectral import spectral_conv2d, spectral_conv_s2

DOMAINS = ("plane", "sphere")


class FourierLayer(nn.Module):
    r"""GELU of a spectral convolution, a pointwise bypass and a bias.

    Parameters
    ----------
    channels : int
        C, of the input and of the output.
    modes : (int, int)
        Frequencies along both axes, as `spectral_conv2d` counts them; on the sphere degrees and
        orders.
    hidden : int, optional
        Channels between the two layers of a network on each mode; by default there is one complex
        matrix on each mode.
    domain : {"plane", "sphere"}
    frequencies, norm : str
        Of `spectral_conv2d`; not on the sphere.
    """

    def __init__(
        self,
        channels: int,
        modes: Sequence[int],
        hidden: int | None = None,
        *,
        domain: str = "plane",
        frequencies: str = "signed",
        norm: str = "forward",
    ):
        super().__init__()
        self.modes, self.domain, self.frequencies, self.norm = modes, domain, frequencies, norm
        self.skip = nn.Parameter(torch.empty(channels, channels))
        self.bias = nn.Parameter(torch.empty(channels))
        if hidden is None:
            self.weight = nn.Parameter(torch.empty(channels, channels, *modes, 2))
        else:
            self.w1 = nn.Parameter(torch.empty(channels, hidden, *modes, 2))
            self.b1 = nn.Parameter(torch.empty(hidden, *modes, 2))
            self.w2 = nn.Parameter(torch.empty(hidden, channels, *modes, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Of the bypass as in `torch.nn.Linear`; of the modes by their channels alone."""
        bound = self.skip.shape[1] ** -0.5
        nn.init.uniform_(self.skip, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        for name, parameter in self.named_parameters():
            if name in ("weight", "w1", "w2"):
                nn.init.normal_(parameter, std=sum(parameter.shape[:2]) ** -0.5)
        if hasattr(self, "b1"):
            nn.init.zeros_(self.b1)

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.w1, self.b1, self.w2) if hasattr(self, "w1") else self.weight
        options = {"skip": self.skip, "activation": "gelu"}
        if self.domain == "plane":
            return spectral_conv2d(
                x, weight, self.bias, frequencies=self.frequencies, norm=self.norm, **options
            )
        held = slice(min(self.modes[1], x.shape[3] // 2 + 1))  # orders that the grid can hold
        if isinstance(weight, Tensor):
            weight = weight[..., held, :]
        else:
            weight = tuple(t[..., held, :] for t in weight)
        return spectral_conv_s2(x, weight, self.bias, **options)

    def extra_repr(self) -> str:
        hidden = f", hidden={self.w1.shape[1]}" if hasattr(self, "w1") else ""
        return f"{len(self.bias)}, modes={tuple(self.modes)}{hidden}, domain={self.domain!r}"


class FourierNetwork(nn.Module):
    """A Fourier neural operator: lifting, Fourier layers, projection.

    Parameters
    ----------
    c_in, c_out : int
        Channels of the functions that come in and out.
    channels : int
        Channels between.
    modes : (int, int)
        Of every layer; see `FourierLayer`, which takes the other options too.
    depth : int
        Layers.

    References
    ----------
    Li et al., "Fourier neural operator for parametric partial differential equations", 2021.
    Geuter et al., "Universal neural optimal transport", 2025.

    Examples
    --------
    >>> import torch
    >>> from unot_fast.models import FourierNetwork
    >>> network = FourierNetwork(2, 1, 32, modes=(12, 7), depth=3)
    >>> network(torch.rand(4, 2, 28, 40)).shape
    torch.Size([4, 1, 28, 40])
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        channels: int = 64,
        modes: Sequence[int] = (10, 6),
        depth: int = 4,
        hidden: int | None = None,
        **options,
    ):
        super().__init__()
        if options.get("domain", "plane") not in DOMAINS:
            raise ValueError(f"domain must be one of {DOMAINS}; got {options['domain']!r}")
        self.lifting = nn.Conv2d(c_in, channels, 1)
        self.layers = nn.ModuleList(
            FourierLayer(channels, tuple(modes), hidden, **options) for _ in range(depth)
        )
        self.projection = nn.Conv2d(channels, c_out, 1)

    @in_full_precision  # as its layers are: autocast would round and copy two pointwise products
    def forward(self, x: Tensor) -> Tensor:
        """Functions (B, c_in, n_1, n_2), at any resolution, to (B, c_out, n_1, n_2)."""
        if x.dtype in (torch.float16, torch.bfloat16):  # of a layer before it under autocast
            x = x.to(self.lifting.weight.dtype)
        x = _pointwise(self.lifting, x)
        for layer in self.layers:
            x = layer(x)
        return _pointwise(self.projection, x)


def _pointwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution with one point, as a product of matrices: there and back half the time."""
    weight = layer.weight.flatten(1).expand(len(x), -1, -1)
    y = torch.baddbmm(layer.bias[:, None], weight, x.flatten(2))
    return y.unflatten(2, x.shape[2:])
