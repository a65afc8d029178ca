"""How far a map is from the optimal one, and one measure from another."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.neural_ot import symmetric_power


def l2_uvp(found: Tensor, exact: Tensor, variance: float) -> float:
    r"""Unexplained variance of a map, in percent.

    .. math:: 100\; \mathbb E |T(x) - T^*(x)|^2 / \mathrm{Var}(\nu)

    0 for the optimal map, 100 for the constant one.

    Parameters
    ----------
    found, exact : Tensor, shape (N, d)
        T and the optimal T at the same points.
    variance : float
        Of the measure that the map goes to: the trace of its covariance.

    References
    ----------
    Korotin et al., "Do neural optimal transport solvers work?", NeurIPS 2021.
    """
    return float(100 * (found - exact).double().square().sum(1).mean() / variance)


def cosine(x: Tensor, found: Tensor, exact: Tensor) -> float:
    """Cosine of the angle between two displacement fields, 1 for the optimal map; same source."""
    moved, right = (found - x).double(), (exact - x).double()
    length = moved.square().sum().sqrt() * right.square().sum().sqrt()
    return float((moved * right).sum() / length.clamp_min(torch.finfo(torch.float64).tiny))


def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""Squared Wasserstein-2 distance of the Gaussians with the moments of two sets of points.

    .. math:: |m_x - m_y|^2 + \mathrm{tr}(S_x + S_y - 2 (S_x^{1/2} S_y S_x^{1/2})^{1/2})

    Parameters
    ----------
    x, y : Tensor, shapes (N, d) and (M, d)

    References
    ----------
    Dowson and Landau, "The Frechet distance between multivariate normal distributions", 1982.
    """
    x, y = x.double(), y.double()
    first, second = torch.cov(x.T), torch.cov(y.T)
    root = symmetric_power(first, 0.5)
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    means = (x.mean(0) - y.mean(0)).square().sum()
    return max(float(means + first.trace() + second.trace() - 2 * cross), 0.0)
