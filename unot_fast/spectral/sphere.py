"""Convolutions on the sphere, on a few spherical harmonics: the layers of a spherical FNO."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops import (
    legendre_products,
    spectral_analysis,
    spectral_mixing,
    spectral_synthesis,
)
from unot_fast.spectral.conv import (
    Weight,
    as_real,
    check_pointwise,
    compute_dtype,
    layers_on_modes,
    spectral_backend,
)
from unot_fast.spectral.fourier import Band, analysis_table, synthesis_table

GRIDS = ("equiangular", "legendre-gauss", "lobatto")
_NORMS = ("ortho", "four-pi", "schmidt")


def spectral_conv_s2(
    x: Tensor,
    weight: Weight,
    bias: Tensor | None = None,
    *,
    orders: int | None = None,
    skip: Tensor | None = None,
    activation: str | None = None,
    output_shape: Sequence[int] | None = None,
    grid: str = "equiangular",
    output_grid: str | None = None,
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
        R for each degree l < L, or for each degree and order m < M. Or (w1, b1, w2), the network
        of `spectral_conv2d` for each degree and order: (C, H, L, M), (H, L, M) and (H, O, L, M).
    bias, skip, activation, backend
        As in `spectral_conv2d`.
    orders : int, optional
        M, for a weight without it; at most nlon // 2 + 1. Default: L.
    output_shape : (int, int), optional
        The grid of ``y``, another one than that of ``x``; not with ``skip``.
    grid : {"equiangular", "legendre-gauss", "lobatto"}
        Latitudes, as in torch-harmonics, whose quadrature and Legendre functions these are. The
        published UNOT takes "equiangular" with nlat = nlon.
    output_grid : str, optional
        Latitudes of ``y``, other ones than those of ``x``; not with ``skip``.
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
    if isinstance(weight, Tensor):
        weight = as_real(weight).contiguous()
        if weight.ndim not in (4, 5) or weight.shape[-1] != 2:
            raise ValueError(
                "weight must be complex of shape (C, O, L) or (C, O, L, M), or real with a last "
                f"axis of 2; got {tuple(weight.shape)} as real"
            )
        layers = [(weight, None)]
    else:
        layers = layers_on_modes(2, weight)
    first, last = layers[0][0], layers[-1][0]
    check_pointwise(2, x, (first.shape[0], last.shape[1]), bias, skip, activation, output_shape)
    if first.ndim == 5:
        if orders is not None and orders != first.shape[3]:
            raise ValueError(f"orders must be those of weight, {first.shape[3]}; got {orders}")
        orders = first.shape[3]
    orders = first.shape[2] if orders is None else orders
    if grid not in GRIDS:
        raise ValueError(f"grid must be one of {GRIDS}; got {grid!r}")
    if output_grid not in (None, *GRIDS):
        raise ValueError(f"output_grid must be None or one of {GRIDS}; got {output_grid!r}")
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {_NORMS}; got {norm!r}")
    if skip is not None and output_grid not in (None, grid):
        raise ValueError("output_grid must be the grid of x where there is a skip")
    return spherical_block(
        x, layers, bias, skip, gelu=activation == "gelu", orders=orders, grid=grid, norm=norm,
        output_shape=output_shape, output_grid=output_grid,
        backend=spectral_backend(x, 2, backend),
    )  # fmt: skip


def spherical_block(
    x: Tensor,
    layers: Sequence[tuple[Tensor, Tensor | None]],
    bias: Tensor | None,
    skip: Tensor | None,
    mlp: Sequence[Tensor | None] = (),
    *,
    gelu: bool,
    orders: int,
    grid: str,
    norm: str,
    output_shape: Sequence[int] | None = None,
    output_grid: str | None = None,
    backend: str,
) -> Tensor:
    """The convolution and what follows it, tensors unchecked; see `fourier_block`."""
    (nlat, nlon), degrees = x.shape[2:], layers[0][0].shape[2]
    if not 0 < orders <= nlon // 2 + 1:
        raise ValueError(f"orders must be from 1 to nlon // 2 + 1; got {orders}")
    nlat_out, nlon_out = output_shape or (nlat, nlon)
    dtype, real = x.dtype, compute_dtype(x)
    x = x.to(real)
    layers = [tuple(None if t is None else t.to(real) for t in layer) for layer in layers]
    bias = None if bias is None else bias.reshape(-1)
    skip, bias, *mlp = (None if t is None else t.to(real) for t in (skip, bias, *mlp))
    down, _ = legendre_tables(nlat, degrees, orders, grid, norm, real, x.device)
    _, up = legendre_tables(nlat_out, degrees, orders, output_grid or grid, norm, real, x.device)
    band = Band(0, orders, half=True)

    with torch.autocast(x.device.type, enabled=False):
        lines = spectral_analysis(x, [analysis_table(nlon, band, 1.0 / nlon, x)], backend=backend)
        c = legendre_products(lines, down, to_lines=False, backend=backend)
        if len(layers) == 1:
            c = harmonic_mixing(c, layers[0][0])
        else:
            c = c.permute(2, 3, 4, 0, 1).contiguous()
            for k, (weight, beta) in enumerate(layers):
                c = spectral_mixing(c, weight, beta, gelu=k < len(layers) - 1, backend=backend)
            c = c.permute(3, 4, 0, 1, 2)
        lines = legendre_products(c, up, to_lines=True, backend=backend)
        return spectral_synthesis(
            lines,
            [synthesis_table(nlon_out, band, 1.0, x)],
            x,
            skip,
            bias,
            *mlp,
            gelu=gelu,
            backend=backend,
        ).to(dtype)


def harmonic_mixing(c: Tensor, weight: Tensor) -> Tensor:
    """Products of channels, (L, M, B, C, 2) to (L, M, B, O, 2).

    ``weight`` is (C, O, L, 2), (C, O, L, M, 2), or (C, O, L, N, M, 2) with sums over M.
    """
    z, w = torch.view_as_complex(c), torch.view_as_complex(weight)
    degrees, orders, batch, channels = z.shape
    if w.ndim == 5:
        out = torch.einsum("lmbi,iolnm->lnbo", z, w).contiguous()
    else:  # the same for all orders, or not
        each = (degrees, orders * batch) if w.ndim == 3 else (degrees * orders, batch)
        matrices = w.flatten(2).flatten(0, 1).t().contiguous()  # the fast way to transpose
        out = torch.bmm(z.reshape(*each, channels), matrices.view(each[0], *w.shape[:2]))
        out = out.view(degrees, orders, batch, w.shape[1])
    return torch.view_as_real(out)


def legendre_tables(
    nlat: int, degrees: int, orders: int, grid: str, norm: str, dtype: torch.dtype, device
) -> tuple[Tensor, Tensor]:
    """Latitudes to degrees, with the quadrature, shape (M, L, nlat), and back, (M, nlat, L)."""
    tables = _own_tables if torch.compiler.is_compiling() else _cached_tables
    return tables(nlat, degrees, orders, grid, norm, dtype, torch.device(device))


@torch.library.custom_op("unot_fast::legendre_tables", mutates_args=())
def _own_tables(
    nlat: int,
    degrees: int,
    orders: int,
    grid: str,
    norm: str,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Copies: compiled code may write on what an operator has returned."""
    tables = _cached_tables(nlat, degrees, orders, grid, norm, dtype, device)
    return tuple(t.clone() for t in tables)


@_own_tables.register_fake
def _(nlat, degrees, orders, grid, norm, dtype, device):
    shapes = (orders, degrees, nlat), (orders, nlat, degrees)
    return tuple(torch.empty(shape, dtype=dtype, device=device) for shape in shapes)


@functools.cache  # for good: CUDA graphs know tables by their address
def _cached_tables(nlat, degrees, orders, grid, norm, dtype, device) -> tuple[Tensor, Tensor]:
    try:
        from torch_harmonics import InverseRealSHT, RealSHT
    except ImportError as reason:
        raise ImportError("spectral layers on the sphere need torch-harmonics") from reason
    most = max(degrees, orders)  # 0.9 has triangles only
    options = {"lmax": most, "mmax": most, "grid": grid, "norm": norm}
    with torch.inference_mode(False), torch.no_grad():  # for later calls in another mode too
        scale, degrees_last = buffer_layout()
        down = RealSHT(nlat, 2 * most, **options).weights * scale
        up = InverseRealSHT(nlat, 2 * most, **options).pct
        up = up if degrees_last else up.mT
        tables = down[:orders, :degrees], up[:orders, :, :degrees]
        return tuple(t.to(device, dtype).contiguous() for t in tables)


def buffer_layout() -> tuple[float, bool]:
    """What torch-harmonics keeps in its transforms, which differs between 0.8 and 0.9.

    The factor that its quadrature leaves to the Fourier transform, 2 pi or 1, and whether the
    last axis of its Legendre functions has the degrees or the latitudes.
    """
    from torch_harmonics import InverseRealSHT, RealSHT

    down = RealSHT(4, 4, lmax=1, mmax=1)
    total = down(torch.ones(4, 4, dtype=torch.float64))[0, 0].real
    up = InverseRealSHT(4, 4, lmax=2, mmax=2)
    return float(total / down.weights.double().sum()), up.pct.shape[2] == 2
