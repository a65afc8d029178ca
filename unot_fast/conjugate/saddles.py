"""Ways down from points that are stationary and no minima."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unot_fast.conjugate.objective import Objective
from unot_fast.ops import Minimum

_STEPS = 8  # of Lanczos
_ROUNDS = 3
_NUDGE = 0.1
_FLAT = 1e-3  # of the greatest curvature: what differences of gradients cannot tell from 0


def leave_saddles(
    objective: Objective,
    found: Minimum,
    tolerance: Tensor,
    descend: Callable[[Tensor, Tensor, float], Minimum],
) -> Minimum:
    """Go on from points at which the curvature is negative, downhill on the better side.

    Parameters
    ----------
    objective : Objective
    found : Minimum
        Where searches ended. Those that converged are looked at.
    tolerance : Tensor, shape (B,)
        Of the residuals. A search that goes on has a tenth of it, and a tenth of that: where all is
        flat it would end at once.
    descend : callable
        A search, from starts, the rows of ``found`` that they belong to, and the part of the
        tolerance.

    Returns
    -------
    Minimum
        With ``converged`` false where the curvature stays negative.
    """
    found = Minimum(*(t.clone() for t in found))
    rows = torch.nonzero(found.converged)[:, 0]
    for k in range(_ROUNDS):
        own = objective.at(rows)
        curved, direction = _downwards(own, found.y[rows])
        if not curved.any():
            break
        rows, own, direction = rows[curved], own.at(curved), direction[curved]
        if k == _ROUNDS - 1:
            found.converged[rows] = False
            break
        again = descend(_nudged(own, found.y[rows], direction), rows, 0.1 ** (k + 1))
        converged = again.residual <= tolerance[rows]
        found.y[rows], found.residual[rows] = again.y, again.residual
        found.converged[rows] = converged
        found.n_iters[rows] += again.n_iters
        rows = rows[converged]
    return found


def _nudged(objective: Objective, y: Tensor, direction: Tensor) -> Tensor:
    step = _NUDGE * (1 + y.norm(dim=1, keepdim=True)) * direction
    ahead, behind = y + step, y - step
    return torch.where((objective.value(ahead) < objective.value(behind))[:, None], ahead, behind)


def _downwards(objective: Objective, y: Tensor) -> tuple[Tensor, Tensor]:
    """Where a direction of negative curvature was found, and the directions, by Lanczos steps."""
    batch, dim = y.shape
    steps = min(_STEPS, dim)
    random = torch.Generator("cpu").manual_seed(0)
    # One direction for all, so that a point does not see the batch.
    v = torch.randn(dim, generator=random, dtype=torch.float64, device="cpu").to(y)
    v = (v / v.norm()).expand(batch, dim)
    basis, images = [], []
    for _ in range(steps):
        basis.append(v)
        images.append(_curved(objective, y, v))
        v = images[-1]
        for _ in range(2):  # the second time for what rounding left
            for b in basis:
                v = v - (v * b).sum(1, keepdim=True) * b
        length = v.norm(dim=1, keepdim=True)
        v = torch.where(length > 1e-6 * images[-1].norm(dim=1, keepdim=True), v / length, 0.0)
    q, h = torch.stack(basis, 1), torch.stack(images, 1)  # (B, steps, d)
    small = q @ h.mT
    sound = small.isfinite().all(dim=(1, 2))
    small = torch.where(
        sound[:, None, None], small, torch.eye(steps, device=small.device).to(small)
    )
    values, vectors = torch.linalg.eigh((small + small.mT) / 2)
    greatest = values.abs().amax(1).clamp_min(1.0)
    direction = (vectors[:, None, :, 0] @ q)[:, 0]
    direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return sound & (values[:, 0] < -_FLAT * greatest), direction


def _curved(objective: Objective, y: Tensor, v: Tensor) -> Tensor:
    """The Hessian times v, by differences: a potential of one's own may have no more."""
    step = torch.finfo(y.dtype).eps ** (1 / 3) * (1 + y.norm(dim=1, keepdim=True))
    ahead, behind = (objective.gradient(y + sign * step * v) for sign in (1, -1))
    return (ahead - behind) / (2 * step)
