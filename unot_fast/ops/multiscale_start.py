"""The multiscale start as one call: all levels of a problem while it is in cache (CPU only)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops import _cpu

torch.library.define(
    "unot_fast::multiscale_start",
    "(Tensor a, Tensor b, Tensor epsilon, Tensor[] costs, Tensor[] prolongations, "
    "Tensor[] pools_source, Tensor[] pools_target, Tensor[] coordinates, float[] epsilon_floors, "
    "float[] work, bool gaussian, float tol, int max_iter) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl("unot_fast::multiscale_start", "CPU")
def _impl(a, b, epsilon, *levels):
    return _cpu.multiscale_start(a, b, epsilon, *levels)


@torch.library.register_fake("unot_fast::multiscale_start")
def _fake(a, b, epsilon, *levels):
    return b.new_empty(b.shape), epsilon.new_empty(epsilon.shape)


def _vmap(info, in_dims, a, b, epsilon, *levels):
    """Fold the mapped dimension into the batch that the operator has anyway."""
    size = info.batch_size

    def fold(x, dim):
        x = x.movedim(dim, 0) if dim is not None else x.expand(size, *x.shape)
        return x.flatten(0, 1)

    folded = [fold(x, dim) for x, dim in zip((a, b, epsilon), in_dims, strict=False)]
    out = torch.ops.unot_fast.multiscale_start(*folded, *levels)
    return tuple(t.unflatten(0, (size, -1)) for t in out), (0, 0)


torch.library.register_vmap("unot_fast::multiscale_start", _vmap)


def multiscale_start(
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    *,
    costs: Sequence[Tensor],
    prolongations: Sequence[Tensor],
    pools_source: Sequence[Tensor],
    pools_target: Sequence[Tensor],
    coordinates: Sequence[Tensor],
    epsilon_floors: Sequence[float],
    work: Sequence[float],
    gaussian: bool,
    tol: float,
    max_iter: int,
) -> tuple[Tensor, Tensor]:
    """Solve a pyramid of coarser problems and evaluate the last solution on the grid.

    The algorithm is that of `unot_fast.solver.multiscale`. Levels run from the finest to the
    coarsest; lists of matrices are level by level and, within a level, axis by axis. Not
    differentiable.

    Parameters
    ----------
    a, b : Tensor, shapes (B, n_1, ..., n_d) and (B, m_1, ..., m_d)
        Masses of total 1, on the CPU.
    epsilon : Tensor, shape (B,)
    costs : sequence of L d Tensors, shape (n_k, m_k) of the level
    prolongations : sequence of L d Tensors, shape (m_k of the next finer level, n_k)
        Cost between the points of the next finer target and the cells of the level's source.
    pools_source, pools_target : sequence of L d Tensors, shape (n_k, n_k of the next finer level)
        Share of each finer cell in each cell.
    coordinates : sequence of 2 d Tensors
        Of the source and the target of the coarsest level.
    epsilon_floors : sequence of L floats
        Smallest epsilon that each level is solved at.
    work : sequence of L floats
        Arithmetic of one iteration of each level, in iterations on the grid.
    gaussian : bool
        Start the coarsest level from `unot_fast.solver.gaussian`, else from zeros.
    tol, max_iter : float, int
        Stopping of every level, by the marginal error.

    Returns
    -------
    g : Tensor, shape of b, in units of cost
    work : Tensor, shape (B,), in iterations on the grid
    """
    return torch.ops.unot_fast.multiscale_start(
        a,
        b,
        epsilon,
        list(costs),
        list(prolongations),
        list(pools_source),
        list(pools_target),
        list(coordinates),
        list(epsilon_floors),
        list(work),
        gaussian,
        tol,
        max_iter,
    )
