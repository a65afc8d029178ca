"""A whole Sinkhorn solve on a separable cost, for a batch of problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unot_fast.ops.autocast import keep_single
from unot_fast.ops.backends import implementation
from unot_fast.ops.folding import folding
from unot_fast.ops.implicit import potentials_vjp
from unot_fast.ops.shapes import expect, expect_alike
from unot_fast.ops.shortcut import shortcut

torch.library.define(
    "unot_fast::sinkhorn_separable",
    "(Tensor a, Tensor b, Tensor[] costs, Tensor epsilon, Tensor g, float tol, str criterion, "
    "int max_iter, float? overrelaxation, str backend) -> (Tensor f, Tensor g_out, Tensor cost, "
    "Tensor value, Tensor marginal_error, Tensor n_iters, Tensor converged, Tensor log_domain)",
    tags=torch.Tag.pt2_compliant_tag,
)

_MODULES = {
    "cpu": "unot_fast.ops._cpu",
    "cuda": "unot_fast.ops._cuda",
    "triton": "unot_fast.kernels.sinkhorn_separable",
    "reference": "unot_fast.reference.sinkhorn_separable",
}


class Solution(NamedTuple):
    """What `sinkhorn_separable` returns; every scalar is one per problem, shape (B,).

    The plan is ``P(x, y) = a(x) b(y) exp((f(x) + g(y) - C(x, y)) / epsilon)``; the free constant
    of the potentials is such that ``<g, b> = 0``.
    """

    f: Tensor
    g: Tensor
    cost: Tensor
    value: Tensor
    marginal_error: Tensor
    n_iters: Tensor
    converged: Tensor
    log_domain: Tensor


def _impl(a, b, costs, epsilon, g, tol, criterion, max_iter, overrelaxation, backend):
    shapes = zip(*(c.shape for c in costs), strict=True)
    check_problems("sinkhorn_separable", a, b, epsilon, g, *shapes)
    solve = implementation("sinkhorn_separable", backend, _MODULES)
    return solve(a, b, costs, epsilon, g, tol, criterion, max_iter, overrelaxation)


torch.library.impl("unot_fast::sinkhorn_separable", "CompositeExplicitAutograd", _impl)


def check_problems(
    operator: str,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    g: Tensor | None,
    shape: Sequence[int],
    target_shape: Sequence[int],
) -> None:
    """Raise unless the problems are of one batch, on a geometry of these shapes."""
    batch = a.shape[:1]
    expect_alike(operator, a=a, b=b)
    expect(operator, a=(a, (*batch, *shape)), b=(b, (*batch, *target_shape)))
    expect(operator, epsilon=(epsilon, batch), g=(g, b.shape))


def fake_solution(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Empty results of the right shapes and types."""
    batch = a.shape[0]
    scalars = [a.new_empty(batch) for _ in range(3)]
    flags = [a.new_empty(batch, dtype=t) for t in (torch.int32, torch.bool, torch.bool)]
    return a.new_empty(a.shape), a.new_empty(b.shape), *scalars, *flags


@torch.library.register_fake("unot_fast::sinkhorn_separable")
def _fake(a, b, *_):
    return fake_solution(a, b)


def save_solution(
    ctx, a, b, costs, epsilon, output, backend: str, structure: str = "separable"
) -> None:
    """Keep what `gradients` needs; all but f, g, cost and value carry no gradient."""
    f, g, cost, value, *diagnostics = output
    ctx.backend, ctx.structure = backend, structure
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*diagnostics)
    ctx.save_for_backward(a, b, epsilon, f, g, cost, value, *costs)


def gradients(ctx, with_epsilon: bool, grad_f, grad_g, grad_cost, grad_value, *_) -> tuple:
    """Gradients in a, b and epsilon of a solution saved by `save_solution`; costs have none."""
    a, b, epsilon, f, g, cost, value, *costs = ctx.saved_tensors
    grad_a = grad_b = grad_epsilon = None
    if not (grad_f is None and grad_g is None and grad_cost is None):
        grad_f = torch.zeros_like(f) if grad_f is None else grad_f
        grad_g = torch.zeros_like(g) if grad_g is None else grad_g
        grad_cost = a.new_zeros(a.shape[0]) if grad_cost is None else grad_cost
        grad_a, grad_b, grad_epsilon = potentials_vjp(
            a, b, costs, epsilon, f, g, grad_f, grad_g, grad_cost, with_epsilon, ctx.structure,
            ctx.backend,
        )  # fmt: skip
    if grad_value is not None:  # Danskin; f and g are still attached, for a second derivative
        weight = grad_value.view(-1, *(1,) * (a.ndim - 1))
        grad_a = weight * f if grad_a is None else grad_a + weight * f
        grad_b = weight * g if grad_b is None else grad_b + weight * g
        if with_epsilon:  # the relative entropy of the plan
            own = grad_value * (value - cost) / epsilon
            grad_epsilon = own if grad_epsilon is None else grad_epsilon + own
    return grad_a, grad_b, grad_epsilon if with_epsilon else None


def _setup_context(ctx, inputs, output):
    a, b, costs, epsilon, *_, backend = inputs
    ctx.axes = len(costs)
    save_solution(ctx, a, b, costs, epsilon, output, backend)


def _backward(ctx, *grads):
    grad_a, grad_b, grad_epsilon = gradients(ctx, ctx.needs_input_grad[3], *grads)
    return grad_a, grad_b, [None] * ctx.axes, grad_epsilon, *[None] * 6


torch.library.register_autograd(
    "unot_fast::sinkhorn_separable", _backward, setup_context=_setup_context
)


def _vmap(info, in_dims, a, b, costs, epsilon, g, *options):
    if any(d is not None for d in in_dims[2]):
        raise ValueError("sinkhorn_separable: the costs are shared and cannot be vmapped over")
    fold = folding(info, in_dims[0], in_dims[1], in_dims[3], in_dims[4])
    a, b, epsilon, g = fold(a, b, epsilon, g)
    out = torch.ops.unot_fast.sinkhorn_separable(a, b, costs, epsilon, g, *options)
    return tuple(t.unflatten(0, (info.batch_size, -1)) for t in out), (0,) * len(out)


torch.library.register_vmap("unot_fast::sinkhorn_separable", _vmap)
keep_single("sinkhorn_separable")


def sinkhorn_separable(
    a: Tensor,
    b: Tensor,
    costs: Sequence[Tensor],
    epsilon: Tensor,
    g: Tensor,
    *,
    tol: float,
    criterion: str,
    max_iter: int,
    overrelaxation: float | None,
    backend: str,
) -> Solution:
    r"""Run Sinkhorn's iteration from ``g``, all iterations of a problem in one call.

    One iteration is :math:`f \leftarrow -\varepsilon \log \sum_y b(y) e^{(g(y) - C(x, y)) /
    \varepsilon}`, then the same for ``g`` with the sides exchanged, each overrelaxed except the
    first update of ``f``. The marginal error is :math:`\|P 1 - a\|_1 + \|P^\top 1 - b\|_1`.

    Parameters
    ----------
    a, b : Tensor, shapes (B, n_1, ..., n_d) and (B, m_1, ..., m_d)
        Non-negative, each problem of total mass 1.
    costs : sequence of d Tensors, shape (n_k, m_k)
        Cost along each axis, d <= 3.
    epsilon : Tensor, shape (B,)
        Positive regularisation, in units of cost.
    g : Tensor, shape of b
        Start, in units of cost.
    tol : float
        The criterion is met strictly below it; 0 runs ``max_iter`` iterations.
    criterion : str
        ``"marginal"``: the marginal error. ``"cost"``: relative change of ``<C, P>`` over an
        iteration, twice in a row.
    max_iter : int
        Most iterations, at least 1.
    overrelaxation : float or None
        Weight in [1, 2), or None to adapt it per problem.
    backend : str
        ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"reference"``.

    Returns
    -------
    Solution
        Potentials in units of cost, and per problem: ``<C, P>``, dual objective, marginal error,
        iterations done, whether the criterion was met, whether the log domain was used.

    Notes
    -----
    Differentiable in ``a``, ``b`` and ``epsilon``: ``value`` by Danskin's theorem, ``f``, ``g`` and
    ``cost`` by the implicit function theorem at the returned potentials (see
    `unot_fast.ops.implicit`); nothing is unrolled.
    """
    run = shortcut(torch.ops.unot_fast.sinkhorn_separable, _impl, a, b, epsilon, g)
    out = run(a, b, list(costs), epsilon, g, tol, criterion, max_iter, overrelaxation, backend)
    return Solution(*out)
