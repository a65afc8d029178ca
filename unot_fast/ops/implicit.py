r"""Gradients of converged potentials by the implicit function theorem.

At the solution, with :math:`M = e^{(f + g - C)/\varepsilon}`, the potentials satisfy
:math:`M b = 1` and :math:`M^\top a = 1`. Differentiating both and taking the adjoint leaves, for
cotangents :math:`\bar f, \bar g`,

.. math:: (I - M^\top a\, M\, b)\, y = M^\top (a\, M \bar g - \bar f), \qquad
          x = -M (\bar g + b\, y), \qquad \bar a = \varepsilon x, \quad \bar b = \varepsilon y,

where a and b act as diagonal matrices. The operator is self-adjoint and non-negative under the
inner product weighted by b, so conjugate gradients solve it; each step costs one Sinkhorn
iteration. Its kernel, the constants, is the free constant of the potentials.

With :math:`M_C = C M` and the multipliers :math:`\lambda = \bar f + a x` and
:math:`\mu = \bar g + b y` of the two equations, the same system gives

.. math:: \varepsilon \bar\varepsilon = \langle \lambda, f + M b g - M_C b \rangle
          + \langle \mu, g + M^\top a f - M_C^\top a \rangle.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops.autocast import keep_single
from unot_fast.ops.folding import folding
from unot_fast.ops.scaled_kernel import scaled_kernel

torch.library.define(
    "unot_fast::potentials_vjp",
    "(Tensor a, Tensor b, Tensor[] costs, Tensor epsilon, Tensor f, Tensor g, Tensor grad_f, "
    "Tensor grad_g, Tensor grad_cost, bool with_epsilon, str structure, str backend) -> "
    "(Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)

_RTOL, _MAX_STEPS, _CHECK_EVERY = 1e-12, 2000, 10


def potentials_vjp(
    a: Tensor,
    b: Tensor,
    costs: Sequence[Tensor],
    epsilon: Tensor,
    f: Tensor,
    g: Tensor,
    grad_f: Tensor,
    grad_g: Tensor,
    grad_cost: Tensor,
    with_epsilon: bool,
    structure: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pull cotangents of (f, g, <C, P>) back to (a, b, epsilon).

    Shapes are those of `unot_fast.ops.sinkhorn_separable`; ``grad_cost`` has shape (B,). The
    potentials are those with <g, b> = 0. ``costs`` and ``structure`` are those of
    `unot_fast.ops.scaled_kernel.scaled_kernel`. Without ``with_epsilon`` its gradient is zeros.
    """
    return torch.ops.unot_fast.potentials_vjp(
        a, b, list(costs), epsilon, f, g, grad_f, grad_g, grad_cost, with_epsilon, structure,
        backend,
    )  # fmt: skip


@torch.library.register_fake("unot_fast::potentials_vjp")
def _fake(a, b, costs, epsilon, *_):
    return a.new_empty(a.shape), b.new_empty(b.shape), epsilon.new_empty(epsilon.shape)


def _no_second_derivative(ctx, *grads):
    raise RuntimeError(
        "second derivatives of the potentials and of the transport cost are not available; "
        "those of the entropic value are"
    )


torch.library.register_autograd("unot_fast::potentials_vjp", _no_second_derivative)


def _vmap(info, in_dims, a, b, costs, *rest):
    """Many cotangents, or problems, at once: they join the batch that the operator has anyway."""
    if any(d is not None for d in in_dims[2]):
        raise ValueError("potentials_vjp: the costs are shared and cannot be vmapped over")
    *tensors, with_epsilon, structure, backend = a, b, *rest
    folded = folding(info, *in_dims[:2], *in_dims[3:-3])(*tensors)
    a, b, *tensors = folded
    out = torch.ops.unot_fast.potentials_vjp(
        a, b, costs, *tensors, with_epsilon, structure, backend
    )
    return tuple(t.unflatten(0, (info.batch_size, -1)) for t in out), (0,) * len(out)


torch.library.register_vmap("unot_fast::potentials_vjp", _vmap)
keep_single("potentials_vjp")


@torch.library.impl("unot_fast::potentials_vjp", "CompositeExplicitAutograd")
def _impl(a, b, costs, epsilon, f, g, grad_f, grad_g, grad_cost, with_epsilon, structure, backend):
    if a.shape[0] == 0:
        return tuple(x.new_empty(x.shape) for x in (a, b, epsilon))
    dtype = a.dtype
    a, b, f, g, epsilon = (t.detach().double() for t in (a, b, f, g, epsilon))
    grad_f, grad_g, grad_cost = (t.detach().double() for t in (grad_f, grad_g, grad_cost))
    kernel = scaled_kernel(f, g, costs, epsilon, structure, backend)

    def forward(y):
        return kernel.forward(y[:, None])[:, 0]

    def backward(x):
        return kernel.backward(x[:, None])[:, 0]

    per_problem = (-1,) + (1,) * (a.ndim - 1)
    eps = epsilon.view(per_problem)
    # Fixing the constant adds <g, b> to f and takes it from g. What is left to pull back does not
    # see the constant, so that the linear system has a solution.
    excess = (grad_f.flatten(1).sum(1) - grad_g.flatten(1).sum(1)).view(per_problem)
    grad_a, grad_b = torch.zeros_like(a), excess * g
    grad_epsilon = torch.zeros_like(epsilon)
    grad_g = grad_g + excess * b
    if bool((grad_cost != 0).any()):  # <C, P> depends on a, b, f and g
        weight = grad_cost.view(per_problem)
        row = weight * kernel.forward_cost(b[:, None])[:, 0]
        column = weight * kernel.backward_cost(a[:, None])[:, 0]
        grad_a, grad_b = row, grad_b + column
        grad_f, grad_g = grad_f + a * row / eps, grad_g + b * column / eps
        if with_epsilon:  # and on epsilon itself, through h = (f + g - C) / epsilon
            mean_h = f * row + weight * kernel.forward_cost((b * g)[:, None])[:, 0]
            mean_h = mean_h - weight * kernel.forward_cost(b[:, None], power=2)[:, 0]
            grad_epsilon = -(a * mean_h).flatten(1).sum(1) / epsilon**2

    rhs = backward(a * forward(grad_g) - grad_f)
    y = _conjugate_gradients(lambda y: y - backward(a * forward(b * y)), rhs, b)
    multiplier = grad_g + b * y
    x = -forward(multiplier)
    if with_epsilon:
        on_source = f + forward(b * g) - kernel.forward_cost(b[:, None])[:, 0]
        on_target = g + backward(a * f) - kernel.backward_cost(a[:, None])[:, 0]
        both = ((grad_f + a * x) * on_source).flatten(1).sum(1)
        both = both + (multiplier * on_target).flatten(1).sum(1)
        grad_epsilon = grad_epsilon + both / epsilon
    return (grad_a + eps * x).to(dtype), (grad_b + eps * y).to(dtype), grad_epsilon


def _conjugate_gradients(operator, rhs: Tensor, weight: Tensor) -> Tensor:
    """Solve per problem in the ``weight`` inner product, orthogonally to the constants."""
    per_problem = (-1,) + (1,) * (rhs.ndim - 1)

    def dot(p, q):
        return (weight * p * q).flatten(1).sum(1).view(per_problem)

    def project(p):
        return p - dot(p, torch.ones_like(p)) / dot(torch.ones_like(p), torch.ones_like(p))

    rhs = project(rhs)
    target = _RTOL**2 * dot(rhs, rhs)
    solution, residual = torch.zeros_like(rhs), rhs
    direction, square = residual, dot(residual, residual)
    for step in range(_MAX_STEPS):
        if step % _CHECK_EVERY == 0 and bool((square <= target).all()):
            break
        image = project(operator(direction))
        curvature = dot(direction, image)
        active = (square > target) & (curvature > 0)
        alpha = torch.where(active, square / curvature, 0.0)
        solution = solution + alpha * direction
        residual = residual - alpha * image
        new_square = dot(residual, residual)
        beta = torch.where(active, new_square / square, 0.0)
        direction = torch.where(active, residual + beta * direction, direction)
        square = torch.where(active, new_square, square)
    else:
        left = float((square / target.clamp_min(1e-300)).sqrt().max()) * _RTOL
        warnings.warn(
            f"gradient of the potentials: conjugate gradients stopped after {_MAX_STEPS} steps "
            f"at relative residual {left:.1e}",
            RuntimeWarning,
            stacklevel=2,
        )
    return solution
