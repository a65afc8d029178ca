"""The best linear map between two sets of points: where a potential and its searches begin."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

_LEAST, _GREATEST = 1 / 30, 30.0  # stretch of a map to begin with


class LinearMap(nn.Module):
    """z = slope x + offset of the class, with one slope for all classes."""

    def __init__(self, dim: int, classes: int = 1) -> None:
        super().__init__()
        self.register_buffer("slope", torch.eye(dim))
        self.register_buffer("inverse_slope", torch.eye(dim))
        self.register_buffer("offset", torch.zeros(classes, dim))

    def measure(
        self, x: Tensor, z: Tensor, x_labels: Tensor | None = None, z_labels: Tensor | None = None
    ) -> None:
        """The optimal map of Gaussians that have the covariances within classes of these points."""
        classes = len(self.offset)
        x_mean, z_mean = class_means(x, x_labels, classes), class_means(z, z_labels, classes)
        x, z = x - of_class(x_mean, x_labels), z - of_class(z_mean, z_labels)
        values, vectors = _stretches(x, z)
        _warn_of_bounds(torch.cat((values, z.double().std(0) / x.double().std(0))))
        slope = _bounded(values, vectors).to(x.dtype)
        self.slope.copy_(slope)
        self.inverse_slope.copy_(torch.linalg.inv(slope))
        self.offset.copy_(z_mean - x_mean @ slope)

    def inverse(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return (z - of_class(self.offset, labels)) @ self.inverse_slope


def class_means(x: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    """The mean of every class, (classes, d)."""
    if labels is None:
        return x.mean(0, keepdim=True)
    chosen = torch.nn.functional.one_hot(labels, classes).to(x)
    return chosen.T @ x / chosen.sum(0)[:, None]


def of_class(table: Tensor, labels: Tensor | None) -> Tensor:
    """The rows of a table of classes that belong to these labels; without labels it has one."""
    return table if labels is None else table[labels]


def gaussian_map(x: Tensor, z: Tensor) -> Tensor:
    r"""The symmetric matrix that carries the covariance of ``x`` to that of ``z``, (d, d).

    .. math:: S_0^{-1/2} (S_0^{1/2} S_1 S_0^{1/2})^{1/2} S_0^{-1/2}

    The optimal transport of Gaussians. Covariances are shrunk towards their mean variance as much
    as the number of points asks for, and the result kept between 1/30 and 30.
    """
    return _bounded(*_stretches(x, z)).to(x.dtype)


def _stretches(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, the least first, and eigenvectors of the map of Gaussians."""
    first, second = _covariance(x), _covariance(z)
    root = symmetric_power(first, 0.5)
    inverse = symmetric_power(first, -0.5)
    found = inverse @ symmetric_power(root @ second @ root, 0.5) @ inverse
    return torch.linalg.eigh((found + found.T) / 2)


def _warn_of_bounds(stretches: Tensor) -> None:
    """Of the map of Gaussians, and of the columns, which no shrinkage hides."""
    least, greatest = float(stretches.min()), float(stretches.max())
    if least < _LEAST or greatest > _GREATEST:
        warnings.warn(
            f"source and target: in the units of the fit directions are to be stretched "
            f"{least:.2g} to {greatest:.2g} times, and it begins between {_LEAST:.2g} and "
            f"{_GREATEST:.2g}: the map may be wrong where it stretches or contracts more. Columns "
            "of very different scale do this; divide each by its spread on its own side",
            stacklevel=5,
        )


def _bounded(values: Tensor, vectors: Tensor) -> Tensor:
    return (vectors * values.clamp(_LEAST, _GREATEST)) @ vectors.T


def _covariance(x: Tensor) -> Tensor:
    x = x.double()
    x = x - x.mean(0)
    n, d = x.shape
    covariance = x.T @ x / n
    share = min(1.0, d / n)
    mean = covariance.diagonal().mean() * torch.eye(d, dtype=x.dtype, device=x.device)
    return (1 - share) * covariance + share * mean


def symmetric_power(matrix: Tensor, exponent: float) -> Tensor:
    """Of a positive definite matrix, (d, d), or one that is so but for rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(1e-12 * values[-1]) ** exponent) @ vectors.T
