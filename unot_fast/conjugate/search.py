"""A search for the zero of a gradient, for many points at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from unot_fast.ops import Minimum


class Method(Protocol):
    """Where to look next. Rows are points; ``f`` is the gradient at ``y``."""

    def propose(self, y: Tensor, f: Tensor) -> Tensor:
        """The trial points."""

    def learn(
        self, y: Tensor, f: Tensor, trial: Tensor, g: Tensor, uphill: Tensor | None = None
    ) -> Tensor:
        """Take note of the gradient ``g`` at ``trial``, and say which trials are taken.

        ``uphill`` says where the value is greater there, if values are looked at.
        """

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""


def search(
    method: Method,
    gradient: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    tolerance: Tensor,
    max_iter: int,
    value: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Minimum:
    """Run a method until the gradient of every point is shorter than its tolerance.

    Points that are done leave the batch. On a GPU that is looked at every few iterations only,
    because looking means to wait; what is done stays where it is meanwhile.

    Parameters
    ----------
    method : Method
    gradient : callable
        From points and the rows of ``start`` that they belong to.
    start : Tensor, shape (B, d)
    tolerance : Tensor, shape (B,)
    max_iter : int
        Gradients that a point may take.
    value : callable, optional
        Of the same arguments: what must not grow, beyond rounding. For methods that cut their
        steps; a convex function does without.
    """
    look_every = 1 if start.device.type == "cpu" else 8
    rows = torch.arange(len(start), device=start.device)
    y, f = start.clone(), gradient(start, rows)
    height = None if value is None else value(start, rows)
    out = Minimum(
        start.clone(), f.norm(dim=1), torch.ones_like(rows, dtype=torch.int32), tolerance < 0
    )
    done = out.residual <= tolerance
    out.converged.copy_(done)
    for k in range(1, max_iter):
        if k % look_every == 1 % look_every and (left := ~done).logical_not().any():
            if not left.any():
                break
            rows, y, f, done = rows[left], y[left], f[left], done[left]
            height = None if height is None else height[left]
            method.keep(left)
        trial = method.propose(y, f)
        g = gradient(trial, rows)
        length = g.norm(dim=1)
        solved, uphill = length <= tolerance[rows], None
        if height is not None:
            reached = value(trial, rows)
            uphill = above(reached, height)
            solved = solved & ~uphill
        taken = (method.learn(y, f, trial, g, uphill) | solved) & ~done & length.isfinite()
        y = torch.where(taken[:, None], trial, y)
        f = torch.where(taken[:, None], g, f)
        height = None if height is None else torch.where(taken, reached, height)
        out.n_iters[rows] += (~done).int()
        done = done | (solved & taken)
        out.y[rows], out.residual[rows], out.converged[rows] = y, f.norm(dim=1), done
    return out


def above(value: Tensor, before: Tensor) -> Tensor:
    """Where a value is greater than another, or none at all, by more than rounding makes of it."""
    return ~(value <= before + 100 * torch.finfo(value.dtype).eps * (1 + before.abs()))
