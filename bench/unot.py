"""The published UNOT as functions of its tensors, in its authors' way and in ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import unot_fast


def network(block: Callable[..., Tensor], x: Tensor, *rest: Tensor) -> Tensor:
    """The network of the published UNOT: pointwise layers before and after its blocks."""
    lift, lift_bias, *rest, project, project_bias = rest
    x = F.conv2d(x, lift, lift_bias)
    for k in range(0, len(rest), 5):
        x = block(x, *rest[k : k + 5])
    return F.conv2d(x, project, project_bias)


def published_block(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, skip: Tensor, bias: Tensor
) -> Tensor:
    """As it was published: whole spectra, a network on each mode that is kept, and a bypass."""
    rows, columns = w1.shape[2:]
    spectrum = torch.fft.rfft2(x)
    h = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :rows, :columns], w1) + b1
    h = torch.complex(F.gelu(h.real), F.gelu(h.imag))
    out = spectrum.new_zeros(x.shape[0], w2.shape[1], *spectrum.shape[2:])
    out[:, :, :rows, :columns] = torch.einsum("bixy,ioxy->boxy", h, w2)
    return F.gelu(torch.fft.irfft2(out, s=x.shape[2:]) + F.conv2d(x, skip, bias))


def fast_block(x, w1, b1, w2, skip, bias, *, backend: str) -> Tensor:
    return unot_fast.spectral_conv2d(
        x, (w1, b1, w2), bias, skip=skip.flatten(1), activation="gelu", norm="backward",
        frequencies="nonnegative", backend=backend,
    )  # fmt: skip


def network_inputs(
    n: int, batch: int, channels: int, hidden: int, modes: int, layers: int, device: str = "cpu"
) -> list[Tensor]:
    """Float64 input and parameters of `network`; values stay of order 1 from block to block."""
    x = normal(device, batch, 2, n, n)
    sizes = n, channels, hidden, modes, device
    parameters = [p for _ in range(layers) for p in _block_parameters(*sizes)]
    lifting = normal(device, channels, 2, 1, 1), normal(device, channels)
    projection = normal(device, 1, channels, 1, 1) / channels**0.5, normal(device, 1)
    return [x, *lifting, *parameters, *projection]


def block_inputs(
    n: int, batch: int, channels: int, hidden: int, modes: int, device: str = "cpu"
) -> list[Tensor]:
    """The same of a block."""
    parameters = _block_parameters(n, channels, hidden, modes, device)
    return [normal(device, batch, channels, n, n), *parameters]


def _block_parameters(n: int, c: int, h: int, m: int, device: str) -> list[Tensor]:
    w1, b1, w2 = (
        torch.view_as_complex(normal(device, *shape, m, m, 2)) for shape in ((c, h), (h,), (h, c))
    )
    w1, w2 = w1 / (n * c**0.5), w2 * (0.1 * n * n / (h**0.5 * m))
    return [w1, b1, w2, normal(device, c, c, 1, 1) / c**0.5, normal(device, c)]


def normal(device: str, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, device=device)
