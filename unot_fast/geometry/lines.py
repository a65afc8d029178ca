"""Costs that depend on the last axis only through a shift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CELL_BLUR = 1 / 48
"""Share of the squared widths of a cell that is added to squared distances between cells.

The distance between the middles of two cells is less than that between their points: on average
by 1/12 of the squared widths under the root for cells far apart, and less where the plan prefers
the near points. 1/48 is the best of several on random fields: the error of the multiscale start is
a fifth to a tenth of that without. Between a cell and a point it is half as much.
"""

_DIGITS = 1e13  # keys of rows that agree to so many digits of the largest are one


@dataclass(frozen=True)
class LineCost:
    """The cost between two rows of points, for every pair of rows.

    With all leading axes flattened into rows, the cost between position j of row r and position l
    of row q is ``table[row_class[r, q], j - step * l + step * (m - 1)]``: a Toeplitz matrix, which
    all pairs of rows of a class share.

    Attributes
    ----------
    table : Tensor, shape (classes, n + step * (m - 1)), float64
    row_class : Tensor, shape (rows of the source, rows of the target), int32
    step : int
        Source positions from one target position to the next.
    """

    table: Tensor
    row_class: Tensor
    step: int = 1

    @classmethod
    def of(
        cls, key: Tensor, n: int, m: int, cost: Callable[[Tensor, Tensor], Tensor], step: int = 1
    ) -> LineCost:
        """Cost by a key of the two rows and a shift.

        Parameters
        ----------
        key : Tensor, shape (rows of the source, rows of the target, k)
            Rows with equal keys have equal costs.
        n, m : int
            Positions along the last axis.
        cost : callable
            From keys (classes, 1, k) and shifts (L,) to costs (classes, L).
        """
        flat = key.flatten(0, 1)
        scale = flat.abs().amax().clamp_min(1e-300)
        _, row_class = torch.unique((flat / scale * _DIGITS).round(), dim=0, return_inverse=True)
        classes = int(row_class.max()) + 1
        representative = flat.new_empty((classes, flat.shape[1]))
        representative[row_class] = flat
        shifts = torch.arange(-step * (m - 1), n, dtype=torch.float64)
        table = cost(representative[:, None], shifts)
        return cls(table, row_class.reshape(key.shape[:2]).to(torch.int32).contiguous(), step)


def pairs(n: int, halve: bool = True) -> Tensor:
    """Cells of two neighbours each, the last alone where n is odd, as a (cells, n) matrix."""
    if not halve:
        return torch.eye(n, dtype=torch.float64)
    points = torch.arange(n)
    return (points // 2 == torch.arange((n + 1) // 2)[:, None]).double()
