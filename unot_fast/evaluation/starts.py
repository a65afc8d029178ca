"""The starts that are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unot_fast.geometry import Geometry, Grid, Structure

Potential = Callable[[Tensor, Tensor, Geometry, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Start:
    """A start of Sinkhorn's iteration, and what tables call it.

    Attributes
    ----------
    name : str
    start : str, Tensor or callable
        As ``sinkhorn(init=...)`` takes it: a name of the solver, the potential, or a function
        ``start(mu, nu, geom, epsilon)`` of it, such as a network.
    side : {"target", "source"}
        Whose potential it is. From g the iteration updates f, then g. From f it updates g, then
        f: the same with the two sides exchanged.
    """

    name: str
    start: str | Tensor | Potential
    side: str = "target"

    def __post_init__(self):
        if self.side not in ("target", "source"):
            raise ValueError(f"side must be 'target' or 'source'; got {self.side!r}")


def ones(mu: Tensor, nu: Tensor, geom: Geometry, epsilon: Tensor) -> Tensor:
    r"""The default of most codes: scaling v = 1, which is :math:`g = -\varepsilon \log \nu`.

    The solver's ``init="zeros"`` is g = 0, the scaling :math:`v = \nu`.
    """
    return -epsilon.view(-1, *(1,) * (nu.ndim - 1)) * nu.clamp_min(_tiny(nu)).log()


def published_gaussian(mu: Tensor, nu: Tensor, geom: Geometry, epsilon: Tensor) -> Tensor:
    r"""Start of Thornton & Cuturi, as the published evaluation has it.

    The Brenier potential between Gaussians of the same moments,
    :math:`f(x) = |x|^2 - (x - m_\mu)^\top A (x - m_\mu) - 2 x^\top m_\nu` with
    :math:`A = S_\mu^{-1/2} (S_\mu^{1/2} S_\nu S_\mu^{1/2})^{1/2} S_\mu^{-1/2}`, for the scaling
    :math:`u = e^{f / \varepsilon}` of the source. The solver's ``init="gaussian"`` has the
    entropic potential, on the side of the target.

    References
    ----------
    Thornton & Cuturi, "Rethinking initialization of the Sinkhorn algorithm", 2022.
    """
    if geom.structure is not Structure.SEPARABLE or not isinstance(geom, Grid) or geom.p != 2:
        raise ValueError("the Gaussian start needs the squared Euclidean cost on a grid")
    x = geom.points("source").to(mu.device).reshape(-1, geom.ndim)
    y = geom.points("target").to(mu.device).reshape(-1, geom.ndim)
    mean_mu, cov_mu = _moments(mu.double().flatten(1), x)
    mean_nu, cov_nu = _moments(nu.double().flatten(1), y)
    root = _power(cov_mu, 0.5)
    inverse = _power(cov_mu, -0.5)
    slope = inverse @ _power(root @ cov_nu @ root, 0.5) @ inverse
    offset = x - mean_mu[:, None]
    f = x.square().sum(-1) - (offset @ slope * offset).sum(-1) - 2 * mean_nu @ x.T
    f = (f - f.mean(1, keepdim=True)).view(mu.shape)
    # From the scaling u to the potential relative to the marginals.
    return f + ones(nu, mu, geom, epsilon.double())


def _moments(mass: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance, that with the correction of weighted samples."""
    mean = mass @ x
    offset = x - mean[:, None]
    cov = (mass[:, None] * offset.mT) @ offset
    correction = (1 - mass.square().sum(1)).clamp_min(_tiny(mass))
    return mean, cov / correction[:, None, None]


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(1e-12).pow(exponent).unsqueeze(-2) @ vectors.mT


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny


ONES = Start("ones", ones)
GAUSS = Start("Gauss", published_gaussian, side="source")
MULTISCALE = Start("multiscale", "multiscale")
