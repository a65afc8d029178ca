"""Convolutions on the sphere, on a few spherical harmonics: the layers of a spherical FNO."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops import spectral_analysis, spectral_synthesis
from unot_fast.spectral.conv import as_real, check_pointwise, compute_dtype, spectral_backend
from unot_fast.spectral.fourier import Band, analysis_table, synthesis_table

GRIDS = ("equiangular", "legendre-gauss", "lobatto")


def spectral_conv_s2(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    orders: int | None = None,
    skip: Tensor | None = None,
    activation: str | None = None,
    output_shape: Sequence[int] | None = None,
    grid: str = "equiangular",
    norm: str = "ortho",
    backend: str = "auto",
) -> Tensor:
    r"""A spherical Fourier layer: convolution on a few harmonics, bypass, bias and activation.

    .. math:: y = \sigma\Bigl(\sum_{l, m} Y_l^m\, R_l\, \langle Y_l^m, x \rangle + W x
              + \beta\Bigr)

    Only the orders m and degrees l that are kept are ever computed.

    Parameters
    ----------
    x : Tensor, shape (B, C, nlat, nlon)
        Real, floating point, at points of ``grid``, from pole to pole.
    weight : Tensor, shape (C, O, L) or (C, O, L, M), complex, or real with a last axis of 2
        R for each degree l < L, or for each degree and order m < M.
    bias, skip, activation, backend
        As in `spectral_conv2d`.
    orders : int, optional
        M, for a weight without it; at most nlon // 2 + 1. Default: L.
    output_shape : (int, int), optional
        The grid of ``y``, another one than that of ``x``; not with ``skip``.
    grid : {"equiangular", "legendre-gauss", "lobatto"}
        Latitudes, as in torch-harmonics, whose quadrature and Legendre functions these are. The
        published UNOT takes "equiangular" with nlat = nlon.
    norm : {"ortho", "four-pi", "schmidt"}
        Of the harmonics; those of torch-harmonics, with the Condon-Shortley phase.

    Returns
    -------
    Tensor, shape (B, O, \*output_shape)

    Raises
    ------
    ImportError
        torch-harmonics is not installed.
    TypeError, ValueError
        An argument is invalid; the message names it.

    References
    ----------
    Bonev et al., "Spherical Fourier neural operators", 2023.
    """
    weight = as_real(weight)
    if weight.ndim not in (4, 5) or weight.shape[-1] != 2:
        raise ValueError(
            "weight must be complex of shape (C, O, L) or (C, O, L, M), or real with a last axis "
            f"of 2; got {tuple(weight.shape)} as real"
        )
    check_pointwise(2, x, weight.shape[:2], bias, skip, activation, output_shape)
    if weight.ndim == 5:
        if orders not in (None, weight.shape[3]):
            raise ValueError(f"orders must be those of weight, {weight.shape[3]}; got {orders}")
        orders = weight.shape[3]
    orders = weight.shape[2] if orders is None else orders
    if grid not in GRIDS:
        raise ValueError(f"grid must be one of {GRIDS}; got {grid!r}")
    return spherical_block(
        x, weight, bias, skip, gelu=activation == "gelu", orders=orders, grid=grid, norm=norm,
        output_shape=output_shape, backend=spectral_backend(x, 2, backend),
    )  # fmt: skip


def spherical_block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    mlp: Sequence[Tensor | None] = (),
    *,
    gelu: bool,
    orders: int,
    grid: str,
    norm: str,
    output_shape: Sequence[int] | None = None,
    backend: str,
) -> Tensor:
    """The convolution and what follows it, tensors unchecked; see `fourier_block`."""
    (nlat, nlon), degrees = x.shape[2:], weight.shape[2]
    if not 0 < orders <= nlon // 2 + 1:
        raise ValueError(f"orders must be from 1 to nlon // 2 + 1; got {orders}")
    nlat_out, nlon_out = output_shape or (nlat, nlon)
    dtype, real = x.dtype, compute_dtype(x)
    x, weight = x.to(real), weight.to(real)
    bias = None if bias is None else bias.reshape(-1)
    skip, bias, *mlp = (None if t is None else t.to(real) for t in (skip, bias, *mlp))
    down, _ = legendre_tables(nlat, degrees, orders, grid, norm, real, x.device)
    _, up = legendre_tables(nlat_out, degrees, orders, grid, norm, real, x.device)
    band = Band(0, orders, half=True)

    # Meridians: (B, C, nlat, 2, M) to (M, nlat, ...), and back.
    lines = spectral_analysis(
        x, [analysis_table(nlon, band, 2 * math.pi / nlon, x)], backend=backend
    )
    c = torch.bmm(down, lines.permute(4, 2, 0, 3, 1).flatten(2))
    c = _mix(c.unflatten(2, (x.shape[0], 2, -1)), weight)
    lines = torch.bmm(up, c.flatten(2)).unflatten(2, (x.shape[0], 2, -1)).permute(2, 4, 1, 3, 0)
    return spectral_synthesis(
        lines.contiguous(),
        [synthesis_table(nlon_out, band, 1.0, x)],
        x,
        skip,
        bias,
        *mlp,
        gelu=gelu,
        backend=backend,
    ).to(dtype)


def _mix(c: Tensor, weight: Tensor) -> Tensor:
    """Products of channels, (M, L, B, 2, C) to (M, L, B, 2, O), as real matrices (2 C, 2 O)."""
    orders, degrees, batch = c.shape[:3]
    re, im = weight.unbind(-1)
    blocks = torch.cat((torch.cat((re, im), 1), torch.cat((-im, re), 1)))
    if weight.ndim == 4:  # the same for all orders
        rows = c.transpose(0, 1).reshape(degrees, orders * batch, -1)
        out = torch.bmm(rows, blocks.movedim(2, 0)).view(degrees, orders, batch, 2, -1)
        return out.transpose(0, 1)
    rows = c.reshape(orders * degrees, batch, -1)
    out = torch.bmm(rows, blocks.permute(3, 2, 0, 1).flatten(0, 1))
    return out.view(orders, degrees, batch, 2, -1)


def legendre_tables(
    nlat: int, degrees: int, orders: int, grid: str, norm: str, dtype: torch.dtype, device
) -> tuple[Tensor, Tensor]:
    """Latitudes to degrees, with the quadrature, shape (M, L, nlat), and back, (M, nlat, L)."""
    return _cached_tables(nlat, degrees, orders, grid, norm, dtype, torch.device(device))


@functools.lru_cache(maxsize=64)
def _cached_tables(nlat, degrees, orders, grid, norm, dtype, device) -> tuple[Tensor, Tensor]:
    try:
        from torch_harmonics import InverseRealSHT, RealSHT
    except ImportError as reason:
        raise ImportError("spectral layers on the sphere need torch-harmonics") from reason
    options = {"lmax": degrees, "mmax": orders, "grid": grid, "norm": norm}
    with torch.inference_mode(False), torch.no_grad():  # for later calls in another mode too
        down = RealSHT(nlat, 2 * orders, **options).weights
        up = InverseRealSHT(nlat, 2 * orders, **options).pct
        return down.to(device, dtype).contiguous(), up.to(device, dtype).mT.contiguous()
