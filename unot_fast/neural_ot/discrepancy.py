"""How far two sets of points are from having one distribution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unot_fast.neural_ot.balance import balanced, one_class

_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # in units of the median squared distance


Labels = tuple[Tensor, Tensor]


def mmd(x: Tensor, y: Tensor, labels: Labels | None = None) -> Tensor:
    r"""Squared maximum mean discrepancy, unbiased: 0 in the mean for equal distributions.

    With the mean of five kernels :math:`\exp(-|x - y|^2 / 2 s)`, s being the median squared
    distance between both sets times 1/4 to 4; differentiable, s taken as a constant.

    Parameters
    ----------
    x, y : Tensor, shapes (N, d) and (M, d)
        Two points of each side at least.
    labels : tuple of Tensor, shapes (N,) and (M,), optional
        Classes, which are made as frequent on one side as on the other, see `balanced`.

    References
    ----------
    Gretton et al., "A kernel two-sample test", JMLR 2012.
    """
    _check(x, y)
    across = _squared(x, y)
    median = across.detach().median().clamp_min(torch.finfo(x.dtype).tiny)

    def kernel(squared: Tensor) -> Tensor:
        return torch.stack([(-squared / (2 * s * median)).exp() for s in _BANDWIDTHS]).mean(0)

    mean = _Means(x, y, labels)
    return mean.within(kernel(_squared(x, x)), kernel(_squared(y, y))) - 2 * mean.across(
        kernel(across)
    )


def energy_distance(x: Tensor, y: Tensor, labels: Labels | None = None) -> Tensor:
    r"""Squared energy distance :math:`2 E|x - y| - E|x - x'| - E|y - y'|`, unbiased.

    Arguments are those of `mmd`.

    References
    ----------
    Szekely and Rizzo, "Energy statistics", 2013.
    """
    _check(x, y)
    mean = _Means(x, y, labels)
    return 2 * mean.across(_distances(x, y)) - mean.within(_distances(x, x), _distances(y, y))


def sliced_w2(
    x: Tensor, y: Tensor, projections: int = 200, generator: torch.Generator | None = None
) -> Tensor:
    """Root of the mean squared Wasserstein-2 distance of projections on random directions.

    Parameters
    ----------
    x, y : Tensor, shapes (N, d) and (M, d)
        Quantiles of the larger set are taken where their numbers differ.
    """
    directions = torch.randn(x.shape[1], projections, generator=generator).to(x)
    directions = directions / directions.norm(dim=0)
    first, second = ((p @ directions).sort(0).values for p in (x, y))
    n = min(len(first), len(second))
    places = (torch.arange(n, device=x.device) + 0.5) / n
    a, b = (p[(places * len(p)).long()] for p in (first, second))
    return (a - b).square().mean().sqrt()


def by_class(
    discrepancy: Callable[[Tensor, Tensor], Tensor], x: Tensor, x_labels: Tensor, y: Tensor,
    y_labels: Tensor,
) -> Tensor:  # fmt: skip
    """The mean of a discrepancy over the classes that have two points on either side."""
    found = []
    for k in x_labels.unique():
        own, other = x[x_labels == k], y[y_labels == k]
        if min(len(own), len(other)) > 1:
            found.append(discrepancy(own, other))
    if not found:
        raise ValueError("labels: no class has two points on either side")
    return torch.stack(found).mean()


def _squared(x: Tensor, y: Tensor) -> Tensor:
    return _distances(x, y).square()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # By differences, and not |x|^2 + |y|^2 - 2 x y, which cancels.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


class _Means:
    """Means over pairs of different points, of either side and of both."""

    def __init__(self, x: Tensor, y: Tensor, labels: Labels | None) -> None:
        x_labels, y_labels = labels or (one_class(None, x), one_class(None, y))
        classes = 1 + int(max(x_labels.max(), y_labels.max()))
        self.labels = x_labels, y_labels
        self.weights = tuple(w.to(x) for w in balanced(x_labels, y_labels, classes))

    def across(self, matrix: Tensor) -> Tensor:
        return self.weights[0] @ matrix @ self.weights[1]

    def within(self, *matrices: Tensor) -> Tensor:
        sides = zip(matrices, self.labels, self.weights, strict=True)
        return sum(w @ (matrix * _apart(k).to(w)) @ w for matrix, k, w in sides)


def _apart(labels: Tensor) -> Tensor:
    """0 for a point and itself, and the more for others of its class, so that sums are unbiased."""
    same = labels[:, None] == labels
    count = same.sum(1, keepdim=True)
    return torch.where(same, count / (count - 1).clamp_min(1), 1.0).fill_diagonal_(0.0)


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"y must have as many columns as x; got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if min(len(x), len(y)) < 2:
        raise ValueError(f"x and y must have two points at least; got {len(x)} and {len(y)}")
