"""Convolutions in the Fourier domain on a few modes: the layers of a Fourier neural operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from unot_fast.ops import resolve, spectral_analysis, spectral_mixing, spectral_synthesis
from unot_fast.ops.backends import available
from unot_fast.ops.compiling import constant_when_compiled
from unot_fast.spectral.fourier import Band, analysis_table, synthesis_table

NORMS = ("forward", "backward", "ortho")
BACKENDS = ("cpu", "triton", "torch", "reference")

Weight = Tensor | Sequence[Tensor | None]  # R, or the w1, b1 and w2 of a network


def spectral_conv1d(
    x: Tensor,
    weight: Weight,
    bias: Tensor | None = None,
    *,
    skip: Tensor | None = None,
    activation: str | None = None,
    output_shape: Sequence[int] | None = None,
    norm: str = "forward",
    frequencies: str = "signed",
    backend: str = "auto",
) -> Tensor:
    """`spectral_conv2d` on functions of one variable: ``x`` is (B, C, n), ``weight`` (C, O, m)."""
    return _spectral_conv(
        1, x, weight, bias, skip=skip, activation=activation, output_shape=output_shape, norm=norm,
        frequencies=frequencies, backend=backend,
    )  # fmt: skip


def spectral_conv2d(
    x: Tensor,
    weight: Weight,
    bias: Tensor | None = None,
    *,
    skip: Tensor | None = None,
    activation: str | None = None,
    output_shape: Sequence[int] | None = None,
    norm: str = "forward",
    frequencies: str = "signed",
    backend: str = "auto",
) -> Tensor:
    r"""A Fourier layer: convolution on a few modes, pointwise bypass, bias and activation.

    .. math:: y = \sigma\bigl(\mathcal F^{-1}(R \cdot \mathcal F x) + W x + \beta\bigr)

    R is a complex matrix for each mode k, on the channels, or a network, as in the published UNOT:

    .. math::
        (R \cdot \hat x)(k) = W_2(k)\, g\bigl(W_1(k)\, \hat x(k) + \beta_1(k)\bigr), \qquad
        g(u + i v) = \mathrm{gelu}(u) + i\, \mathrm{gelu}(v)

    Transforms are products with the few rows of the Fourier matrices that are kept, so the full
    spectrum is never written and lengths need not be powers of two. Nothing of the size of ``y``
    is kept for the backward pass but ``x`` itself, and that only with ``skip``.

    Parameters
    ----------
    x : Tensor, shape (B, C, n_1, n_2)
        Real, floating point. float16 and bfloat16 are computed in float32.
    weight : Tensor, shape (C, O, m_1, m_2), complex, or (C, O, m_1, m_2, 2), real; or (w1, b1, w2)
        R, in the order of ``torch.fft.fftshift(torch.fft.rfft2(...), 2)``: the first axis has the
        frequencies -(m_1 // 2) ... (m_1 - 1) // 2, the last axis 0 ... m_2 - 1. Those that the grid
        cannot hold are left out. For a network w1 is (C, H, m_1, m_2), b1 (H, m_1, m_2) or None,
        and w2 (H, O, m_1, m_2), each of them complex or with a last axis of 2.
    bias : Tensor, shape (O,) or broadcastable as (O, 1, 1), optional
    skip : Tensor, shape (O, C), optional
        W, the weight of the bypass.
    activation : {None, "gelu"}
        "gelu" is the exact one, x Phi(x).
    output_shape : sequence of int, optional
        The grid of ``y``, another one than that of ``x``; not with ``skip``. The function is
        resampled, frequency by frequency.
    norm : {"forward", "backward", "ortho"}
        As in `torch.fft`. With "forward" coefficients do not depend on the resolution, and neither
        does the layer. The published UNOT has "backward".
    frequencies : {"signed", "nonnegative"}
        "nonnegative": the first axis has 0 ... m_1 - 1, and modes beyond n_1 / 2 stand for their
        aliases. That is what the published UNOT does; half of the spectrum is lost.
    backend : str
        ``"auto"``, ``"cpu"``, ``"triton"``, ``"torch"`` or ``"reference"``; see `spectral_backend`.

    Returns
    -------
    Tensor, shape (B, O, \*output_shape)
        Of the dtype of ``x``.

    Raises
    ------
    TypeError, ValueError
        An argument is invalid; the message names it.

    Notes
    -----
    Second and higher derivatives are computed by torch where there are ``skip``, ``bias``,
    ``activation`` or a network in place of R; forward-mode derivatives are an error. Autocast
    leaves the layer in float32; `spectral_backend` says what lowers the precision of its products.

    References
    ----------
    Li et al., "Fourier neural operator for parametric partial differential equations", 2021.
    Geuter et al., "Universal neural optimal transport", ICML 2025.

    Examples
    --------
    >>> import torch, unot_fast
    >>> x = torch.randn(8, 64, 48, 48)
    >>> weight = torch.randn(64, 64, 10, 6, dtype=torch.cfloat) / 64
    >>> unot_fast.spectral_conv2d(x, weight, activation="gelu").shape
    torch.Size([8, 64, 48, 48])

    The layer of the published UNOT:

    >>> w1 = torch.randn(64, 256, 10, 10, dtype=torch.cfloat) / 64
    >>> b1 = torch.zeros(256, 10, 10, dtype=torch.cfloat)
    >>> w2 = torch.randn(256, 64, 10, 10, dtype=torch.cfloat) / 256
    >>> unot_fast.spectral_conv2d(
    ...     x, (w1, b1, w2), activation="gelu", norm="backward", frequencies="nonnegative"
    ... ).shape
    torch.Size([8, 64, 48, 48])
    """
    return _spectral_conv(
        2, x, weight, bias, skip=skip, activation=activation, output_shape=output_shape, norm=norm,
        frequencies=frequencies, backend=backend,
    )  # fmt: skip


def spectral_conv3d(
    x: Tensor,
    weight: Weight,
    bias: Tensor | None = None,
    *,
    skip: Tensor | None = None,
    activation: str | None = None,
    output_shape: Sequence[int] | None = None,
    norm: str = "forward",
    frequencies: str = "signed",
    backend: str = "auto",
) -> Tensor:
    """`spectral_conv2d` on volumes: ``x`` (B, C, n_1, n_2, n_3), ``weight`` (C, O, m_1, m_2, m_3).

    The first two axes have both signs of their frequencies.
    """
    return _spectral_conv(
        3, x, weight, bias, skip=skip, activation=activation, output_shape=output_shape, norm=norm,
        frequencies=frequencies, backend=backend,
    )  # fmt: skip


def spectral_backend(x: Tensor, dimensions: int = 2, backend: str = "auto") -> str:
    """Name of the backend that a spectral layer runs on for an input like ``x``.

    ``"auto"`` is the compiled CPU kernels for tensors there in one or two dimensions, and
    products of torch's own elsewhere. ``"triton"`` has one and two dimensions in float32, and up to
    128 channels; on request only, because its kernels have not run on a GPU yet. On the sphere
    its Legendre products are torch's.

    Products of float32 are as ``torch.set_float32_matmul_precision`` says. ``"high"`` is tf32 on a
    GPU. ``"medium"`` rounds factors to bfloat16: with ``"triton"`` always, with ``"cpu"`` where the
    processor gains by it (AMX, or AVX512-BF16 from AMD, see `backends`; Legendre products stay
    float32, and so does mixing in tiles of fewer than 8 samples), with ``"torch"`` where torch
    does. A layer's largest error is then 0.2 to 1 % of its largest value.

    Raises
    ------
    ValueError, RuntimeError
        The backend asked for is unknown, or cannot run on ``x``.
    """
    return _backend_for(x.device, dimensions, backend)


@constant_when_compiled
def _backend_for(device: torch.device, dimensions: int, backend: str) -> str:
    if backend == "auto":
        compiled = device.type == "cpu" and dimensions <= 2 and available("cpu")
        return "cpu" if compiled else "torch"
    if backend not in BACKENDS:
        raise ValueError(
            f"backend must be 'auto' or one of {BACKENDS} for spectral layers; got {backend!r}"
        )
    if backend in ("cpu", "triton") and dimensions > 2:
        raise RuntimeError(
            f"backend {backend!r} has spectral layers in one and two dimensions only"
        )
    return resolve(backend, device)


def _spectral_conv(
    d: int,
    x: Tensor,
    weight: Weight,
    bias: Tensor | None,
    *,
    skip: Tensor | None,
    activation: str | None,
    output_shape: Sequence[int] | None,
    norm: str,
    frequencies: str,
    backend: str,
) -> Tensor:
    layers = layers_on_modes(d, weight)
    channels = layers[0][0].shape[0], layers[-1][0].shape[1]
    check_pointwise(d, x, channels, bias, skip, activation, output_shape)
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}; got {norm!r}")
    if frequencies not in ("signed", "nonnegative"):
        raise ValueError(f"frequencies must be 'signed' or 'nonnegative'; got {frequencies!r}")
    return fourier_block(
        x, layers, bias, skip, gelu=activation == "gelu", output_shape=output_shape, norm=norm,
        aliased=frequencies == "nonnegative", backend=spectral_backend(x, d, backend),
    )  # fmt: skip


def layers_on_modes(d: int, weight: Weight) -> list[tuple[Tensor, Tensor | None]]:
    """The weight and the bias of each layer on the modes, real and made for one another."""
    if isinstance(weight, Tensor):
        w1, b1, w2 = as_real(weight), None, None
    elif (
        isinstance(weight, tuple | list)
        and len(weight) == 3
        and all(isinstance(t, Tensor) or (t is None and k == 1) for k, t in enumerate(weight))
    ):
        w1, b1, w2 = (None if t is None else as_real(t) for t in weight)
    else:
        raise TypeError(
            "weight must be a tensor, or three of them, (w1, b1, w2), of which b1 may be None"
        )
    if w1.ndim != d + 3 or w1.shape[-1] != 2:
        raise ValueError(
            f"weight must be complex of shape (C, O, {_lengths('m', d)}), or real with a last axis "
            f"of 2; got {tuple(w1.shape)} as real"
        )
    hidden = w1.shape[1:]
    if b1 is not None and b1.shape != hidden:
        raise ValueError(f"weight must have b1 of shape {tuple(hidden)}; got {tuple(b1.shape)}")
    if w2 is None:
        return [(w1, None)]
    if (*w2.shape[:1], *w2.shape[2:]) != hidden:
        raise ValueError(
            "weight must have w1 (C, H, ...) and w2 (H, O, ...) with one H and the same modes; "
            f"got {tuple(w1.shape)} and {tuple(w2.shape)} as real"
        )
    return [(w1, b1), (w2, None)]


def fourier_block(
    x: Tensor,
    layers: Sequence[tuple[Tensor, Tensor | None]],
    bias: Tensor | None,
    skip: Tensor | None,
    mlp: Sequence[Tensor | None] = (),
    *,
    gelu: bool,
    norm: str,
    output_shape: Sequence[int] | None = None,
    aliased: bool = False,
    shifted_twice: bool = False,
    backend: str,
) -> Tensor:
    """The convolution and what follows it, arguments unchecked.

    ``layers`` are real weights and biases on the modes, with a GELU between one and the next; a
    weight (C, m_1, ..., m_d, 2) has one number for each channel. ``mlp`` is w1, b1, w2, b2 and gate
    of `spectral_synthesis`, or nothing; ``shifted_twice`` puts the result where
    `Band.shifted_twice` says; other options are those of `spectral_conv2d`.
    """
    d, shape = x.ndim - 2, x.shape[2:]
    modes = layers[0][0].shape[-d - 1 : -1]
    to = tuple(shape if output_shape is None else output_shape)
    bands, slices = [], []
    for k, (n, m) in enumerate(zip(shape, modes, strict=True)):
        band = Band.of(m, half=k == d - 1)
        if aliased and k < d - 1:
            band = Band(0, m, aliased=True)
        slices.append(band.on(n))
        bands.append(band.part(slices[-1]))
    bands_out = bands
    if shifted_twice:
        bands_out = [b.shifted_twice(n) for b, n in zip(bands, shape, strict=True)]

    dtype, real = x.dtype, compute_dtype(x)
    x = x.to(real)
    bias = None if bias is None else bias.reshape(-1)
    skip, bias, *mlp = (None if t is None else t.to(real) for t in (skip, bias, *mlp))
    down, up = _scales(norm, math.prod(shape), math.prod(to))
    scales = (1.0,) * (d - 1)
    c = spectral_analysis(
        x,
        [analysis_table(n, b, s, x) for n, b, s in zip(shape, bands, (*scales, down), strict=True)],
        backend=backend,
    )
    for k, layer in enumerate(layers):
        weight, beta = (
            None if t is None else t[(..., *slices, slice(None))].to(real) for t in layer
        )
        if weight.ndim == d + 2:
            c = scaled_modes(c, weight)
        else:
            c = spectral_mixing(c, weight, beta, gelu=k < len(layers) - 1, backend=backend)
    return spectral_synthesis(
        c,
        [synthesis_table(n, b, s, x) for n, b, s in zip(to, bands_out, (*scales, up), strict=True)],
        x,
        skip,
        bias,
        *mlp,
        gelu=gelu,
        backend=backend,
    ).to(dtype)


def scaled_modes(c: Tensor, weight: Tensor) -> Tensor:
    """Products of (B, C, 2, m_1, ...) with one complex number for each mode, (C, m_1, ..., 2)."""
    (re, im), (u, v) = c.unbind(2), weight.unbind(-1)
    return torch.stack((re * u - im * v, re * v + im * u), 2)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Of the arithmetic: half precision is computed in single."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def as_real(weight: Tensor) -> Tensor:
    if weight.is_complex():
        return torch.view_as_real(weight.resolve_conj())
    if not weight.is_floating_point():
        raise TypeError(f"weight must be complex or floating point; got {weight.dtype}")
    return weight


def complex_as_real(weight: Tensor) -> Tensor:
    """`as_real` of the weight of a module, which is complex unless ``.to`` made it real."""
    if not weight.is_complex():
        raise TypeError(
            f"weight must be complex; got {weight.dtype}. model.to(dtype) drops imaginary parts, "
            "where model.double() and model.bfloat16() leave complex weights as they are"
        )
    return as_real(weight)


def _scales(norm: str, points: int, points_out: int) -> tuple[float, float]:
    """Factors of the transform and of its inverse."""
    if norm == "forward":
        return 1.0 / points, 1.0
    if norm == "backward":
        return 1.0, 1.0 / points_out
    return points**-0.5, points_out**-0.5


def check_pointwise(d, x, channels, bias, skip, activation, output_shape) -> None:
    """What layers of all geometries ask of their arguments; ``channels`` are those of weight."""
    c_in, out = channels
    if not x.is_floating_point():
        raise TypeError(f"x must be real and floating point; got {x.dtype}")
    for name, tensor in (("bias", bias), ("skip", skip)):
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} must be real and floating point; got {tensor.dtype}")
    if x.ndim != d + 2:
        raise ValueError(f"x must have shape (B, C, {_lengths('n', d)}); got {tuple(x.shape)}")
    if any(n == 0 for n in x.shape[2:]):
        raise ValueError(f"x must have points on each axis; got {tuple(x.shape)}")
    if c_in != x.shape[1]:
        raise ValueError(f"weight must take the {x.shape[1]} channels of x; got {c_in}")
    ones = (1,) * d
    if bias is not None and tuple(bias.shape) not in ((out,), (out, *ones), (1, out, *ones)):
        raise ValueError(
            f"bias must have shape {(out,)} or {(out, *ones)}; got {tuple(bias.shape)}"
        )
    if skip is not None and tuple(skip.shape) != (out, x.shape[1]):
        raise ValueError(f"skip must have shape {(out, x.shape[1])}; got {tuple(skip.shape)}")
    if output_shape is not None and (
        len(output_shape) != d or not all(map(_is_length, output_shape))
    ):
        raise ValueError(
            f"output_shape must have {d} entries, all positive integers; got {tuple(output_shape)}"
        )
    if skip is not None and output_shape is not None and tuple(output_shape) != x.shape[2:]:
        raise ValueError("output_shape must be the shape of x where there is a skip")
    if activation not in (None, "gelu"):
        raise ValueError(f"activation must be None or 'gelu'; got {activation!r}")


def _is_length(n) -> bool:
    return isinstance(n, Integral | torch.SymInt) and n > 0


def _lengths(letter: str, d: int) -> str:
    return ", ".join(f"{letter}_{k + 1}" for k in range(d))
