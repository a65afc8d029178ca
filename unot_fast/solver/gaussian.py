"""The start that is exact between Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.geometry import Grid, Structure
from unot_fast.geometry.base import placed


def gaussian_start(a: Tensor, b: Tensor, geom: Grid, epsilon: Tensor) -> Tensor:
    r"""Potential g of the Gaussians with the moments of ``a`` and ``b``.

    Between N(m_a, S_a) and N(m_b, S_b) under the squared Euclidean cost, the conditional mean of
    x given y is :math:`m_a + A (y - m_b)` with :math:`A = S_a^{1/2} (\sqrt{D + q^2} + q)^{-1}
    S_a^{1/2}`, :math:`D = S_a^{1/2} S_b S_a^{1/2}`, :math:`q = \varepsilon / 4`, and
    :math:`\nabla g(y) = 2 (y - E[x | y])`. For q = 0 this is the start of Thornton & Cuturi
    ("Rethinking initialization of the Sinkhorn algorithm", 2022); with q it is the solution of
    the entropic problem itself (Janati et al., 2020), and needs no inverse of a covariance, so
    that Diracs are allowed.

    Parameters
    ----------
    a, b : Tensor, shapes (B, n_1, ..., n_d) and (B, m_1, ..., m_d)
        Masses that sum to 1.
    geom : Grid
        With the squared Euclidean cost.
    epsilon : Tensor, shape (B,)

    Returns
    -------
    Tensor, shape of b
        In units of cost; its mean under ``b`` is zero.
    """
    if geom.structure is not Structure.SEPARABLE or geom.p != 2:
        raise ValueError("init='gaussian' needs the squared Euclidean cost")
    mean_a, cov_a = _moments(a.double(), geom.coordinates)
    mean_b, cov_b = _moments(b.double(), geom.target_coordinates)
    root = _matrix_function(cov_a, torch.sqrt)
    q = (epsilon.double() / 4).unsqueeze(-1)
    inner = _matrix_function(root @ cov_b @ root, lambda s: 1 / ((s + q**2).sqrt() + q))
    slope = root @ inner @ root

    axes = [placed(c, b.device) for c in geom.target_coordinates]
    g = torch.zeros(b.shape, dtype=torch.float64, device=b.device)
    offset = [_along(x, i, len(axes)) - _per_problem(mean_b[:, i], g) for i, x in enumerate(axes)]
    # |y|^2 - 2 m_a . y - (y - m_b)^T A (y - m_b), up to a constant
    for i, x in enumerate(axes):
        x = _along(x, i, len(axes))
        g = g + x * x - 2 * _per_problem(mean_a[:, i], g) * x
        for j in range(len(axes)):
            g = g - _per_problem(slope[:, i, j], g) * offset[i] * offset[j]
    return g - _per_problem((g * b.double()).flatten(1).sum(1), g)


def _along(x: Tensor, axis: int, ndim: int) -> Tensor:
    return x.view(1, *(-1 if k == axis else 1 for k in range(ndim)))


def _per_problem(x: Tensor, like: Tensor) -> Tensor:
    return x.view(-1, *(1,) * (like.ndim - 1))


def _moments(mass: Tensor, coordinates: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Mean (B, d) and covariance (B, d, d), from one- and two-axis marginals."""
    d = len(coordinates)
    axes = [placed(c, mass.device) for c in coordinates]
    marginals = [mass.sum([k + 1 for k in range(d) if k != i]) if d > 1 else mass for i in range(d)]
    mean = torch.stack([p @ x for p, x in zip(marginals, axes, strict=True)], -1)
    cov = mass.new_zeros((mass.shape[0], d, d))
    for i in range(d):
        centred = axes[i] - mean[:, i : i + 1]
        cov[:, i, i] = (marginals[i] * centred**2).sum(1)
        for j in range(i):
            rest = [k + 1 for k in range(d) if k not in (i, j)]
            joint = mass.sum(rest) if rest else mass  # (B, n_j, n_i)
            other = axes[j] - mean[:, j : j + 1]
            cov[:, i, j] = cov[:, j, i] = torch.einsum("bji,bj,bi->b", joint, other, centred)
    return mean, cov


def _matrix_function(matrix: Tensor, function) -> Tensor:
    """A function of symmetric matrices without negative eigenvalues, (B, d, d), by those."""
    if matrix.shape[-1] == 2:  # as `eigh` is no part of a CUDA graph
        x, y, z = matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 0, 1]
        middle, radius = (x + y) / 2, torch.hypot((x - y) / 2, z)
        values = torch.stack([middle - radius, middle + radius], -1).clamp_min(0)
        low, high = function(values).unbind(-1)
        slope = torch.where(radius > 0, (high - low) / (2 * radius), 0.0)[:, None, None]
        shift = (low + high)[:, None, None] / 2 - slope * middle[:, None, None]
        return slope * matrix + shift * torch.eye(2, dtype=matrix.dtype, device=matrix.device)
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * function(values.clamp_min(0)).unsqueeze(-2) @ vectors.mT
