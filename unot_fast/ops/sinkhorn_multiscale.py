"""The multiscale start and the solve from it in one call, all of a problem in cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops import sinkhorn_separable as plain
from unot_fast.ops.autocast import keep_single
from unot_fast.ops.backends import implementation
from unot_fast.ops.folding import folding
from unot_fast.ops.shortcut import shortcut

torch.library.define(
    "unot_fast::sinkhorn_multiscale",
    "(Tensor a, Tensor b, Tensor[] costs, Tensor epsilon, Tensor matrices, int[] level_shapes, "
    "float[] level_epsilons, float[] level_work, bool gaussian, float level_tol, "
    "int level_max_iter, float tol, str criterion, int max_iter, float? overrelaxation, "
    "str backend) -> "
    "(Tensor f, Tensor g, Tensor cost, Tensor value, Tensor marginal_error, Tensor n_iters, "
    "Tensor converged, Tensor log_domain, Tensor coarse_work)",
    tags=torch.Tag.pt2_compliant_tag,
)


_MODULES = {"cpu": "unot_fast.ops._cpu", "cuda": "unot_fast.ops._cuda"}


def _impl(*args):
    *inputs, backend = args
    a, b, costs, epsilon, *_ = inputs
    shapes = zip(*(c.shape for c in costs), strict=True)
    plain.check_problems("sinkhorn_multiscale", a, b, epsilon, None, *shapes)
    return implementation("sinkhorn_multiscale", backend, _MODULES)(*inputs)


torch.library.impl("unot_fast::sinkhorn_multiscale", "CompositeExplicitAutograd", _impl)


@torch.library.register_fake("unot_fast::sinkhorn_multiscale")
def _fake(a, b, costs, epsilon, *_):
    return *plain.fake_solution(a, b), epsilon.new_empty(epsilon.shape)


def _setup_context(ctx, inputs, output):
    a, b, costs, epsilon, _, shapes, *_, backend = inputs
    ctx.axes = len(costs)
    ctx.no_list = None if shapes else []  # torch takes an empty list for one of tensors
    plain.save_solution(ctx, a, b, costs, epsilon, output, backend)


def _backward(ctx, *grads):
    grad_a, grad_b, grad_epsilon = plain.gradients(ctx, ctx.needs_input_grad[3], *grads)
    own = grad_a, grad_b, [None] * ctx.axes, grad_epsilon
    return *own, None, *[ctx.no_list] * 3, *[None] * 8


torch.library.register_autograd(
    "unot_fast::sinkhorn_multiscale", _backward, setup_context=_setup_context
)


def _vmap(info, in_dims, a, b, costs, epsilon, *options):
    fold = folding(info, in_dims[0], in_dims[1], in_dims[3])
    a, b, epsilon = fold(a, b, epsilon)
    out = torch.ops.unot_fast.sinkhorn_multiscale(a, b, costs, epsilon, *options)
    return tuple(t.unflatten(0, (info.batch_size, -1)) for t in out), (0,) * len(out)


torch.library.register_vmap("unot_fast::sinkhorn_multiscale", _vmap)
keep_single("sinkhorn_multiscale")


def sinkhorn_multiscale(
    a: Tensor,
    b: Tensor,
    costs: Sequence[Tensor],
    epsilon: Tensor,
    *,
    matrices: Tensor,
    level_shapes: Sequence[int],
    level_epsilons: Sequence[float],
    level_work: Sequence[float],
    gaussian: bool,
    level_tol: float,
    level_max_iter: int,
    tol: float,
    criterion: str,
    max_iter: int,
    overrelaxation: float | None,
    backend: str,
) -> tuple[plain.Solution, Tensor]:
    """Solve a pyramid of coarser problems, then the problem from there.

    The start is that of `unot_fast.solver.multiscale`, the solve that of
    `unot_fast.ops.sinkhorn_separable`. Levels run from the finest to the coarsest.

    Parameters
    ----------
    a, b : Tensor, shapes (B, n_1, ..., n_d) and (B, m_1, ..., m_d)
        Masses of total 1.
    costs : sequence of d Tensors, shape (n_k, m_k)
    epsilon : Tensor, shape (B,)
    matrices : Tensor, 1-D
        All matrices of the pyramid, flattened and joined. Level by level, and axis by axis within
        each kind: the cost (n_k, m_k) of the level; the cost (m_k of the next finer level, n_k)
        between the points of the next finer target and the cells of the level's source; the share
        of each finer cell in each cell of the source (n_k, n_k of the next finer level) and of the
        target, which are equal blocks of the finer axis. Then the coordinates of source and target
        on the coarsest level, or on the grid where there is none. Axes that share one cost tensor
        share all of these.
    level_shapes : sequence of 2 L d ints
        Shapes of source and target, level by level.
    level_epsilons : sequence of 3 L floats
        Level by level the smallest epsilon that it is solved at, by how much its own is below that
        of the problem, and by how much that of the prolongation is.
    level_work : sequence of L floats
        Arithmetic of one iteration of each level, in iterations on the grid.
    gaussian : bool
        Start the coarsest level from `unot_fast.solver.gaussian`, else from zeros.
    level_tol, level_max_iter : float, int
        Stopping of every level, by the marginal error.
    tol, criterion, max_iter, overrelaxation
        Of the solve on the grid.
    backend : str
        ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    Solution
        With its gradients.
    coarse_work : Tensor, shape (B,), in iterations on the grid
    """
    operator = torch.ops.unot_fast.sinkhorn_multiscale
    run = shortcut(operator, _impl, a, b, epsilon)
    *solution, coarse_work = run(
        a,
        b,
        list(costs),
        epsilon,
        matrices,
        list(level_shapes),
        list(level_epsilons),
        list(level_work),
        gaussian,
        level_tol,
        level_max_iter,
        tol,
        criterion,
        max_iter,
        overrelaxation,
        backend,
    )
    return plain.Solution(*solution), coarse_work
