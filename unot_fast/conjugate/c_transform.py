"""The c-transform of a potential and its derivatives by the envelope theorem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unot_fast.conjugate.anderson import Anderson
from unot_fast.conjugate.barzilai_borwein import BarzilaiBorwein
from unot_fast.conjugate.cost import PowerCost
from unot_fast.conjugate.fixed_step import FixedStep
from unot_fast.conjugate.lbfgs import LBFGS
from unot_fast.conjugate.nesterov import Nesterov
from unot_fast.conjugate.search import Method, search
from unot_fast.models import NeuralPotential, Potential
from unot_fast.ops import Minimum
from unot_fast.ops import c_transform as fused
from unot_fast.ops.backends import available, resolve

METHODS = ("lbfgs", "picard", "gradient", "nesterov", "barzilai-borwein", "anderson")
_BACKENDS = ("auto", "cpu", "triton", "torch", "reference")


@dataclass(frozen=True)
class CTransform:
    """What `c_transform` returns.

    Attributes
    ----------
    y : Tensor, shape (..., d)
        Where the minimum is: the prox of g at z, the inverse map where u is convex. Without
        derivatives.
    value : Tensor, shape (...)
        The c-transform, differentiable in z and in the parameters of the potential.
    residual : Tensor, shape (...)
        Length of y - z + grad g(y): 0 at the minimum.
    n_iters : Tensor, shape (...), int32
        Gradients that were taken.
    converged : Tensor, shape (...), bool
        Whether the residual is at most ``tol (1 + |z|)`` and, where the potential is not convex by
        construction, the value below that of the start. Where it is not, y and the value are only
        where the search ended. Without convexity a minimum may be one of several.
    backend : str
        What ran: ``"cpu"``, ``"triton"``, ``"torch"`` or ``"reference"``.
    """

    y: Tensor
    value: Tensor
    residual: Tensor
    n_iters: Tensor
    converged: Tensor
    backend: str

    def __repr__(self) -> str:
        left = int((~self.converged).sum())
        worst = float(self.residual.max()) if self.residual.numel() else 0.0
        mean = float(self.n_iters.float().mean()) if self.residual.numel() else 0.0
        return (
            f"CTransform({self.converged.numel()} points, {left} not converged, "
            f"largest residual {worst:.1e}, {mean:.1f} gradients each, {self.backend!r})"
        )


def c_transform(
    potential: Potential,
    z: Tensor,
    labels: Tensor | None = None,
    *,
    start: Tensor | None = None,
    tol: float | None = None,
    max_iter: int = 200,
    method: str = "lbfgs",
    memory: int = 6,
    preconditioner: Tensor | None = None,
    bounds: tuple[float, float] | None = None,
    cost: PowerCost | None = None,
    backend: str = "auto",
) -> CTransform:
    r"""The c-transform of a potential; of quadratic cost, a prox at every point.

    .. math::

        g^c(z) = \min_y \tfrac12 |z - y|^2 + g(y), \qquad
        y^*(z) - z + \nabla g(y^*(z)) = 0

    By the envelope theorem the value's derivative in a parameter is that of g at y*, and in z it
    is z - y*: the search leaves no graph, and memory does not grow with its length.

    Parameters
    ----------
    potential : Potential
        g. `NeuralPotential` has a compiled search on the CPU and, on request, a Triton one on the
        GPU; any other runs in torch.
    z : Tensor, shape (..., d), float32 or float64
        Points of the target space, of about unit scale.
    labels : Tensor, shape (...), int64, optional
        The class of every point.
    start : Tensor, shape (..., d), optional
        Where the searches begin, such as the results of an earlier potential at the same points;
        ``z`` if None.
    tol : float, optional
        A point is done when its residual is at most ``tol (1 + |z|)``: 1e-4 by default, 1e-8 in
        float64.
    max_iter : int
        Gradients that a point may take.
    method : str
        ``"lbfgs"`` converges for every strongly convex u. The others are there to compare, and
        need not: ``"picard"`` is the published iteration with its step 0.1 / L, L the greatest
        curvature of g at the start; ``"gradient"`` has the best fixed step; ``"nesterov"``,
        ``"barzilai-borwein"``, ``"anderson"``.
    memory : int
        Steps that ``"lbfgs"`` (1 to 16) and ``"anderson"`` remember.
    preconditioner : Tensor, shape (d, d), optional
        For ``"lbfgs"``: symmetric, positive definite, about the inverse of the Hessian of u.
    bounds : tuple of float, optional
        Least and greatest curvature of u = |x|^2/2 + g, for the methods with steps of fixed
        length; found at up to 256 of the starts if None.
    cost : PowerCost, optional
        In place of half the squared distance, for ``"lbfgs"`` in torch.
    backend : str
        ``"auto"``, ``"cpu"``, ``"triton"`` (float32, never by itself), ``"torch"`` or
        ``"reference"``; all but ``"torch"`` are for ``"lbfgs"`` and a `NeuralPotential`.

    Returns
    -------
    CTransform

    Raises
    ------
    TypeError, ValueError
        The message names the argument; or u is not convex, for methods with steps of fixed length.
    RuntimeError
        The backend asked for cannot run this.

    References
    ----------
    Park et al., "Implicit neural optimal transport via fixed-point optimization", 2026.

    Examples
    --------
    >>> import torch, unot_fast
    >>> g = unot_fast.NeuralPotential(2)
    >>> found = unot_fast.c_transform(g, torch.randn(100, 2))
    >>> bool(found.converged.all())
    True
    """
    _check(potential, z, labels, start, tol, max_iter, method, memory, preconditioner)
    tol = (1e-8 if z.dtype is torch.float64 else 1e-4) if tol is None else tol
    lead, flat = z.shape[:-1], z.reshape(-1, potential.dim)
    labels = None if labels is None else labels.reshape(-1)
    point = flat.detach()
    begin = point if start is None else start.detach().reshape(-1, potential.dim)
    tolerance = tol * (1 + point.norm(dim=1))
    if cost is not None and method != "lbfgs":
        raise ValueError(f"method must be 'lbfgs' for a cost of its own; got {method!r}")
    backend = _resolve(potential, z, method, backend, cost)
    with torch.no_grad():
        if backend == "torch":
            rule = _method(method, potential, begin, labels, memory, preconditioner, bounds)
            slope = _gradient(potential, point, labels, cost)
            found = search(rule, slope, begin, tolerance, max_iter)
        else:
            found = _fused(
                potential, point, labels, begin, tolerance, preconditioner, memory, max_iter,
                backend,
            )  # fmt: skip
    value = _objective(potential, flat, found.y, labels, cost)
    converged = found.converged
    if cost is not None or not potential.convex:
        # Where the gradient is zero there may be a maximum.
        with torch.no_grad():
            before = _objective(potential, point, begin, labels, cost)
        converged = converged & (value.detach() <= before + 1e-5 * (1 + before.abs()))
    return CTransform(
        found.y.view(z.shape), value.view(lead), found.residual.view(lead),
        found.n_iters.view(lead), converged.view(lead), backend,
    )  # fmt: skip


def _objective(potential: Potential, z: Tensor, y: Tensor, labels, cost) -> Tensor:
    apart = (z - y).square().sum(1) / 2 if cost is None else cost.value(y, z)
    return apart + potential(y, labels)


def _fused(
    potential: NeuralPotential, z, labels, start, tolerance, preconditioner, memory, max_iter,
    backend,
) -> Minimum:  # fmt: skip
    weights = {
        k: [v.detach() for v in x] if isinstance(x, list) else x.detach() if isinstance(x, Tensor)
        else x
        for k, x in potential.weights().items()
    }  # fmt: skip
    labels = labels if potential.classes > 1 else None
    return fused(
        z, labels, start, tolerance, **weights, preconditioner=preconditioner, memory=memory,
        max_iter=max_iter, backend=backend,
    )  # fmt: skip


def _gradient(potential: Potential, z: Tensor, labels: Tensor | None, cost) -> Callable:
    def gradient(y: Tensor, rows: Tensor) -> Tensor:
        own = None if labels is None else labels[rows]
        if cost is not None:
            return cost.gradient(y, z[rows]) + potential.gradient(y, own)
        return potential.transport(y, own) - z[rows]

    return gradient


def _method(
    name: str, potential: Potential, start, labels, memory, preconditioner, bounds
) -> Method:
    if name == "lbfgs":
        return LBFGS(memory, preconditioner)
    if bounds is None:
        few = slice(None, None, max(1, len(start) // 256))
        own = None if labels is None else labels[few]
        least, greatest = potential.curvature(start[few], own)
        bounds = float(least.min()), float(greatest.max())
    least, greatest = bounds
    if name != "picard" and least <= 0:
        raise ValueError(
            f"potential is not convex: u has a curvature of {least:.2g} at a start, and no step of "
            "fixed length leads to a minimum; method 'lbfgs' goes downhill"
        )
    best = 2 / (least + greatest)
    if name == "picard":
        return FixedStep(0.1 / (max(abs(least - 1), abs(greatest - 1)) + 1e-8))
    if name == "gradient":
        return FixedStep(best)
    if name == "nesterov":
        return Nesterov(max(least, 1e-6 * greatest), greatest)
    if name == "anderson":
        return Anderson(best, memory)
    return BarzilaiBorwein(best)


def _resolve(potential: Potential, z: Tensor, method: str, backend: str, cost) -> str:
    if backend not in _BACKENDS:
        raise ValueError(f"backend must be one of {_BACKENDS}; got {backend!r}")
    compiled = isinstance(potential, NeuralPotential) and method == "lbfgs" and cost is None
    if backend == "auto":
        return "cpu" if compiled and z.device.type == "cpu" and available("cpu") else "torch"
    if backend != "torch" and not compiled:
        raise RuntimeError(
            f"backend {backend!r} searches by 'lbfgs', for a NeuralPotential and the quadratic "
            f"cost; got {method!r}, a {type(potential).__name__} and {cost or 'that cost'}"
        )
    return resolve(backend, z.device)


def _check(potential, z, labels, start, tol, max_iter, method, memory, preconditioner) -> None:
    if not isinstance(potential, Potential):
        raise TypeError(f"potential must be a Potential; got {type(potential).__name__}")
    dim = potential.dim
    if z.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"z must be float32 or float64; got {z.dtype}")
    if z.ndim < 1 or z.shape[-1] != dim:
        raise ValueError(f"z must have shape (..., {dim}); got {tuple(z.shape)}")
    if not z.isfinite().all():
        raise ValueError("z must be finite")
    if potential.classes > 1 and labels is None:
        raise ValueError(f"labels are needed, for {potential.classes} classes")
    if labels is not None and labels.shape != z.shape[:-1]:
        raise ValueError(f"labels must have shape {tuple(z.shape[:-1])}; got {tuple(labels.shape)}")
    if start is not None and start.shape != z.shape:
        raise ValueError(f"start must have shape {tuple(z.shape)}; got {tuple(start.shape)}")
    if tol is not None and not tol > 0:
        raise ValueError(f"tol must be positive; got {tol}")
    if max_iter < 1:
        raise ValueError(f"max_iter must be positive; got {max_iter}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}; got {method!r}")
    if memory < 1 or (method == "lbfgs" and memory > 16):
        raise ValueError(f"memory must be in 1..16; got {memory}")
    if preconditioner is not None and preconditioner.shape != (dim, dim):
        raise ValueError(
            f"preconditioner must have shape {(dim, dim)}; got {tuple(preconditioner.shape)}"
        )
