r"""Gradients of converged potentials by the implicit function theorem.

At the solution, with :math:`M = e^{(f + g - C)/\varepsilon}`, the potentials satisfy
:math:`M b = 1` and :math:`M^\top a = 1`. Differentiating both and taking the adjoint leaves, for
cotangents :math:`\bar f, \bar g`,

.. math:: (I - M^\top a\, M\, b)\, y = M^\top (a\, M \bar g - \bar f), \qquad
          x = -M (\bar g + b\, y), \qquad \bar a = \varepsilon x, \quad \bar b = \varepsilon y,

where a and b act as diagonal matrices. The operator is self-adjoint and non-negative under the
inner product weighted by b, so conjugate gradients solve it; each step costs one Sinkhorn
iteration. Its kernel, the constants, is the free constant of the potentials.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops.scaled_kernel import scaled_kernel

torch.library.define(
    "unot_fast::potentials_vjp",
    "(Tensor a, Tensor b, Tensor[] costs, Tensor epsilon, Tensor f, Tensor g, Tensor grad_f, "
    "Tensor grad_g, Tensor grad_cost, str structure, str backend) -> (Tensor, Tensor)",
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
    structure: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Pull cotangents of (f, g, <C, P>) back to (a, b).

    Shapes are those of `unot_fast.ops.sinkhorn_separable`; ``grad_cost`` has shape (B,). The
    potentials are those with <g, b> = 0. ``costs`` and ``structure`` are those of
    `unot_fast.ops.scaled_kernel.scaled_kernel`.
    """
    return torch.ops.unot_fast.potentials_vjp(
        a, b, list(costs), epsilon, f, g, grad_f, grad_g, grad_cost, structure, backend
    )


@torch.library.register_fake("unot_fast::potentials_vjp")
def _fake(a, b, *_):
    return a.new_empty(a.shape), b.new_empty(b.shape)


def _no_second_derivative(ctx, *grads):
    raise RuntimeError(
        "second derivatives of the potentials and of the transport cost are not available; "
        "those of the entropic value are"
    )


torch.library.register_autograd("unot_fast::potentials_vjp", _no_second_derivative)


@torch.library.impl("unot_fast::potentials_vjp", "CompositeExplicitAutograd")
def _impl(a, b, costs, epsilon, f, g, grad_f, grad_g, grad_cost, structure, backend):
    if a.shape[0] == 0:
        return a.new_empty(a.shape), b.new_empty(b.shape)
    dtype = a.dtype
    a, b, g, epsilon = (t.detach().double() for t in (a, b, g, epsilon))
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
    grad_g = grad_g + excess * b
    if bool((grad_cost != 0).any()):  # <C, P> depends on a, b, f and g
        weight = grad_cost.view(per_problem)
        row = weight * kernel.forward_cost(b[:, None])[:, 0]
        column = weight * kernel.backward_cost(a[:, None])[:, 0]
        grad_a, grad_b = row, grad_b + column
        grad_f, grad_g = grad_f + a * row / eps, grad_g + b * column / eps

    rhs = backward(a * forward(grad_g) - grad_f)
    y = _conjugate_gradients(lambda y: y - backward(a * forward(b * y)), rhs, b)
    x = -forward(grad_g + b * y)
    return (grad_a + eps * x).to(dtype), (grad_b + eps * y).to(dtype)


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
