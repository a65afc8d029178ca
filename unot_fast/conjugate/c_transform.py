"""The c-transform of a potential and its derivatives by the envelope theorem."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from unot_fast.conjugate.anderson import Anderson
from unot_fast.conjugate.barzilai_borwein import BarzilaiBorwein
from unot_fast.conjugate.cost import Cost
from unot_fast.conjugate.first_order import first_order
from unot_fast.conjugate.fixed_step import FixedStep
from unot_fast.conjugate.lbfgs import LBFGS
from unot_fast.conjugate.nesterov import Nesterov
from unot_fast.conjugate.objective import Objective
from unot_fast.conjugate.saddles import leave_saddles
from unot_fast.conjugate.search import Method, above, search
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
        Whether the residual is at most ``tol (1 + |z|)``, all is finite and, where the potential
        is not convex by construction, the value not above that of the start and no negative
        curvature was seen. Where it is not, y and the value are only where the search ended.
        Without convexity a minimum may be one of several.
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
    cost: Cost | None = None,
    verify: bool = True,
    backend: str = "auto",
) -> CTransform:
    r"""The c-transform of a potential; of quadratic cost, a prox at every point.

    .. math::

        g^c(z) = \min_y \tfrac12 |z - y|^2 + g(y), \qquad
        y^*(z) - z + \nabla g(y^*(z)) = 0

    By the envelope theorem the value's derivative in a parameter is that of g at y*, and in z it
    is z - y*: the search leaves no graph, and memory does not grow with its length. Second
    derivatives would need one, and raise an error.

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
        ``"lbfgs"`` converges for every strongly convex u. Of others the search in torch takes no
        step uphill; the compiled ones look at slopes alone, and what ends above its start is put
        back there. The other methods are there to compare, and need not converge: ``"picard"`` is
        the published iteration with its step 0.1 / L, 1 at most, L the greatest curvature of g at
        the start, and diverges where g is much more curved elsewhere, as that of a
        `NeuralPotential` may be; ``"gradient"`` has the best fixed step; ``"nesterov"``,
        ``"barzilai-borwein"``, ``"anderson"``.
    memory : int
        Steps that ``"lbfgs"`` (1 to 16) and ``"anderson"`` remember.
    preconditioner : Tensor, shape (d, d), optional
        For ``"lbfgs"``: symmetric, positive definite, about the inverse of the Hessian of u.
    bounds : tuple of float, optional
        Least and greatest curvature of u = |x|^2/2 + g, for the methods with steps of fixed
        length; found at up to 256 of the starts if None.
    cost : Cost, optional
        In place of half the squared distance, for ``"lbfgs"`` in torch: a `PowerCost`, or what has
        its three methods.
    verify : bool
        Whether potentials that are not convex by construction are asked for their curvature where
        a search ended: where it is negative the search goes on downhill, and has not converged if
        it stays so. Some 16 gradients a point; it sees the most negative directions, and all up to
        8 dimensions.
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
    if cost is not None and method != "lbfgs":
        raise ValueError(f"method must be 'lbfgs' for a cost of its own; got {method!r}")
    backend = _resolve(potential, z, method, backend, cost)
    tol = (1e-8 if z.dtype is torch.float64 else 1e-4) if tol is None else tol
    lead, flat = z.shape[:-1], z.reshape(-1, potential.dim)
    labels = None if labels is None else labels.reshape(-1)
    point = flat.detach()
    begin = point if start is None else start.detach().reshape(-1, potential.dim)
    tolerance = tol * (1 + point.norm(dim=1)).clamp_max(torch.finfo(z.dtype).max)
    objective = Objective(potential, point, labels, cost)

    def descend(begin: Tensor, rows: Tensor | slice, closer: float = 1.0) -> Minimum:
        own, near = objective.at(rows), closer * tolerance[rows]
        if backend != "torch":
            return _fused(own, begin, near, preconditioner, memory, max_iter, backend)
        rule = _method(method, potential, begin, own.labels, memory, preconditioner, bounds)
        guarded = method == "lbfgs" and not own.convex
        return search(
            rule, lambda y, some: own.at(some).gradient(y), begin, near, max_iter,
            value=(lambda y, some: own.at(some).value(y)) if guarded else None,
        )  # fmt: skip

    with torch.no_grad():
        if cost is not None:
            rest = _at_rest(objective, begin)
            begin = torch.where(rest[:, None], point, begin)
            tolerance = tolerance.masked_fill(rest, torch.inf)
        found = descend(begin, slice(None))
        if not objective.convex:
            if verify:
                found = leave_saddles(objective, found, tolerance, descend)
            found = _not_above(objective, found, begin)
        if cost is not None:
            rest = _at_rest(objective, found.y)
            found = Minimum(
                torch.where(rest[:, None], point, found.y), found.residual.masked_fill(rest, 0.0),
                found.n_iters, found.converged | rest | _rounded(objective, found.y),
            )  # fmt: skip
    value = dataclasses.replace(objective, z=flat).value(found.y)
    sound = value.detach().isfinite() & found.residual.isfinite()
    return CTransform(
        found.y.view(z.shape), first_order(value, flat, *potential.parameters()).view(lead),
        found.residual.view(lead), found.n_iters.view(lead), (found.converged & sound).view(lead),
        backend,
    )  # fmt: skip


def _not_above(objective: Objective, found: Minimum, begin: Tensor) -> Minimum:
    """The start itself, as not converged, in place of what is no lower."""
    back = above(objective.value(found.y), objective.value(begin))
    residual = objective.gradient(begin).norm(dim=1)
    return Minimum(
        torch.where(back[:, None], begin, found.y), torch.where(back, residual, found.residual),
        found.n_iters, found.converged & ~back,
    )  # fmt: skip


def _at_rest(objective: Objective, y: Tensor) -> Tensor:
    """Where z itself is the minimum up to rounding, and not above the value at y."""
    z = objective.z
    return _rounded(objective, z) & ~above(objective.value(z), objective.value(y))


def _rounded(objective: Objective, y: Tensor) -> Tensor:
    """Where rounding of y makes as much of the gradient as there is.

    Costs such as |x - z|^p with p < 2 have a curvature without bound near z, and a gradient that is
    never small at points that differ from it.
    """
    slope, z = objective.gradient(y), objective.z
    size = slope.norm(dim=1, keepdim=True)
    step = 10 * torch.finfo(y.dtype).eps * (1 + z.norm(dim=1, keepdim=True))
    beside = y - step * slope / size.clamp_min(torch.finfo(y.dtype).tiny)
    change = objective.cost.gradient(beside, z) - objective.cost.gradient(y, z)
    return change.norm(dim=1) >= size[:, 0]


def _fused(
    objective: Objective, start, tolerance, preconditioner, memory, max_iter, backend
) -> Minimum:
    potential = objective.potential
    weights = {
        k: [v.detach() for v in x] if isinstance(x, list) else x.detach() if isinstance(x, Tensor)
        else x
        for k, x in potential.weights().items()
    }  # fmt: skip
    labels = objective.labels if potential.classes > 1 else None
    return fused(
        objective.z, labels, start, tolerance, **weights, preconditioner=preconditioner,
        memory=memory, max_iter=max_iter, backend=backend,
    )  # fmt: skip


def _method(
    name: str, potential: Potential, start, labels, memory, preconditioner, bounds
) -> Method:
    if name == "lbfgs":
        return LBFGS(memory, preconditioner)
    if bounds is None:
        bounds = _curvatures(potential, start, labels)
    least, greatest = bounds
    if name != "picard" and least <= 0:
        raise ValueError(
            f"potential is not convex: u has a curvature of {least:.2g} at a start, and no step of "
            "fixed length leads to a minimum; method 'lbfgs' goes downhill"
        )
    if name == "picard":
        return FixedStep(0.1 / max(abs(least - 1), abs(greatest - 1), 0.1))
    best = 2 / (least + greatest)
    if name == "gradient":
        return FixedStep(best)
    if name == "nesterov":
        return Nesterov(max(least, 1e-6 * greatest), greatest)
    if name == "anderson":
        return Anderson(best, memory)
    return BarzilaiBorwein(best)


def _curvatures(potential: Potential, start, labels, points: int = 256) -> tuple[float, float]:
    """The least and the greatest of u at some of the starts."""
    if not len(start):
        return 1.0, 1.0
    few = slice(None, None, -(-len(start) // points))
    least, greatest = potential.curvature(start[few], None if labels is None else labels[few])
    return float(least.min()), float(greatest.max())


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
    if start is not None and not start.isfinite().all():
        raise ValueError("start must be finite")
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
