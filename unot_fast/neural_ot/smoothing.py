"""Rows taken for a density, where there are few of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unot_fast.neural_ot.linear_map import class_means, of_class

_SHARE, _ENOUGH = 1 / 3, 1000
"""Of the likeliest bandwidth, which blurs what a map can still tell apart: at most a third, and
less where a class has more than three thousand rows, which a network does not learn by heart."""
_ROWS, _HELD = 10_000, 256  # that the likelihood is computed from, at most


@dataclass(frozen=True)
class Smoothing:
    r"""Noise on rows that leaves their means and their covariance within classes as they are.

    .. math:: m + \frac{x - m + h e}{\sqrt{1 + h^2}}, \qquad e \sim N(0, S)

    Rows themselves for h = 0, Gaussians for great h.
    """

    bandwidth: float  # h
    means: Tensor  # (classes, d)
    root: Tensor  # (d, d), of S

    def __call__(self, x: Tensor, labels: Tensor | None, random: torch.Generator) -> Tensor:
        if not self.bandwidth:
            return x
        mean = of_class(self.means, labels)
        noise = torch.randn(x.shape, generator=random) @ self.root
        return mean + (x - mean + self.bandwidth * noise) / math.sqrt(1 + self.bandwidth**2)


def smoothing(
    x: Tensor, labels: Tensor | None, held: Tensor, held_labels: Tensor | None,
    bandwidth: float | None,
) -> Smoothing:  # fmt: skip
    """For these rows; by a share of the bandwidth that makes rows held back likeliest, if None.

    Parameters
    ----------
    x, held : Tensor, shapes (N, d) and (M, d)
    labels, held_labels : Tensor, shapes (N,) and (M,), optional
    bandwidth : float, optional

    References
    ----------
    Silverman, "Density estimation for statistics and data analysis", 1986, for kernel estimates
    whose covariance is that of the rows.
    """
    classes = 1 if labels is None else int(labels.max()) + 1
    means = class_means(x, labels, classes)
    apart = (x - of_class(means, labels)).double()
    values, vectors = torch.linalg.eigh(apart.T @ apart / len(x))
    values = values.clamp_min(1e-6 * values[-1])
    if bandwidth is None:
        scale = (vectors / values.sqrt()).to(x)
        few = slice(None, None, max(1, len(x) // _ROWS))
        likeliest = _likeliest(
            apart[few].to(x) @ scale, None if labels is None else labels[few],
            (held - of_class(means, held_labels))[:_HELD] @ scale,
            None if labels is None else held_labels[:_HELD],
        )  # fmt: skip
        bandwidth = min(_SHARE, _ENOUGH * classes / len(x)) * likeliest
    return Smoothing(bandwidth, means, ((vectors * values.sqrt()) @ vectors.T).to(x))


def _likeliest(x: Tensor, labels: Tensor | None, held: Tensor, held_labels: Tensor | None) -> float:
    """The bandwidth of the greatest likelihood of ``held``, of white rows."""
    other = None if labels is None else held_labels[:, None] != labels

    def likelihood(h: float) -> float:
        width = h / math.sqrt(1 + h * h)
        exponent = -(torch.cdist(held, x * (width / h)) / width).square() / 2
        if other is not None:
            exponent = exponent.masked_fill(other, -torch.inf)
        return float(exponent.logsumexp(1).mean()) - x.shape[1] * math.log(width)

    return max(torch.logspace(-2, 0.5, 16).tolist(), key=likelihood)
