"""The public solver."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.geometry import Geometry
from unot_fast.ops.autocast import in_full_precision
from unot_fast.ops.folding import all_values
from unot_fast.ops.tangents import refuse_tangents
from unot_fast.solver.dispatch import backend_for, costs_on, solve
from unot_fast.solver.gaussian import gaussian_start
from unot_fast.solver.multiscale import Pyramid, multiscale_start, solve_multiscale
from unot_fast.solver.result import OTResult
from unot_fast.solver.starts import Start, find_start, registered
from unot_fast.solver.validation import Problems, check_options, prepare


@in_full_precision
def sinkhorn(
    a: Tensor,
    b: Tensor,
    geom: Geometry,
    epsilon: float | Tensor,
    *,
    init: str | Tensor | Start = "multiscale",
    tol: float = 1e-3,
    criterion: str = "marginal",
    max_iter: int = 10_000,
    overrelaxation: str | float = "auto",
    normalize: bool = False,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    pyramid: Pyramid | None = None,
    validate: bool = True,
) -> OTResult:
    r"""Entropic optimal transport between measures on grids.

    Solves, for each pair of a batch,

    .. math:: \min_{P \ge 0} \; \langle C, P \rangle
              + \varepsilon\, \mathrm{KL}(P \,|\, a \otimes b)
              \quad \text{subject to} \quad P 1 = a,\; P^\top 1 = b,

    by Sinkhorn's iteration. The plan is
    :math:`P(x, y) = a(x)\, b(y)\, e^{(f(x) + g(y) - C(x, y)) / \varepsilon}`: potentials are
    relative to the marginals, hence finite and smooth on empty pixels too.

    Parameters
    ----------
    a : Tensor, shape (\*batch, \*geom.shape)
        Source masses: finite, non-negative, floating point; zeros are allowed.
    b : Tensor, shape (\*batch, \*geom.target_shape)
        Target masses, with the totals of ``a``. Leading dimensions of ``a``, ``b`` and
        ``epsilon`` broadcast, so one measure can meet many.
    geom : Geometry
        The grids and the cost, e.g. `unot_fast.Grid`.
    epsilon : float or Tensor, shape broadcastable to (\*batch)
        Regularisation, positive, in units of cost; the cost is not rescaled.
    init : {"multiscale", "auto", "unot", "gaussian", "zeros"}, Tensor or callable
        Start of g. ``"multiscale"`` solves coarser problems first (see `Pyramid`); ``"unot"`` is
        the trained network for the cost (see `UNOT`); ``"auto"`` is whichever of these two takes
        less time to the answer where it was measured, so far ``"multiscale"`` everywhere;
        ``"gaussian"`` is the solution between Gaussians of the same moments. A tensor,
        broadcastable to the shape of ``b``, is g itself, in units of cost. A callable is called
        as ``init(a, b, geom, epsilon)`` with the flattened batch (masses of total 1) and returns
        g of the shape of its ``b``.
    tol : float
        Threshold of the criterion; 0 is never met and runs ``max_iter`` iterations.
    criterion : {"marginal", "cost"}
        ``"marginal"`` stops at :math:`\|P1 - a\|_1 + \|P^\top 1 - b\|_1 < \mathrm{tol}` (for
        masses of total 1); ``"cost"`` at a relative change of :math:`\langle C, P \rangle` over
        one iteration below ``tol``, twice in a row. Each problem of the batch stops on its own.
    max_iter : int
        Most iterations (updates of f and g) on the grid of ``geom``.
    overrelaxation : "auto" or float in [1, 2)
        Weight of the overrelaxed updates; 1 is the plain iteration. ``"auto"`` begins with a
        plain one, adapts the weight per problem to the observed rate and falls back to 1 when the
        error grows.
    normalize : bool
        Scale both totals to 1. Otherwise unequal totals are an error, and a common total M scales
        the plan, ``cost`` and ``value``.
    backend : {"auto", "cpu", "cuda", "triton", "reference"}
        ``"auto"`` takes the fastest for the cost on the tensors' device, and ``result.backend``
        says which that was; see `unot_fast.backends`.
    dtype : torch.dtype, optional
        Of the results; default: that of ``a`` and ``b``, at least float32. For float32 the CPU
        backend computes in single precision until the marginal error nears its rounding (3e-6 for
        64 x 64) or the range ends, and goes on in float64; masses below 1e-38 of the total count
        as zero. The CUDA backend does the same in tf32, until 3e-4, and never ends a solve or
        judges it in tf32.
    pyramid : Pyramid, optional
        Settings of the multiscale start.
    validate : bool
        Check the values of ``a``, ``b``, ``epsilon`` and ``init``, which reads from their device.
        Switch off inside ``torch.compile`` or a CUDA graph, for inputs known to be valid. Inside
        ``torch.vmap`` they are checked for all indices at once.

    Returns
    -------
    OTResult
        Potentials, costs and diagnostics per problem. ``converged`` says where ``tol`` was met;
        nothing is raised where it was not.

    Raises
    ------
    TypeError, ValueError
        An argument is invalid; the message names it.
    RuntimeError
        The backend asked for cannot run here.

    Notes
    -----
    ``value``, ``cost``, ``f`` and ``g`` are differentiable in ``a``, ``b`` and ``epsilon``:
    ``value`` by Danskin's theorem (its gradients are the potentials and the relative entropy of
    the plan), everything else by the implicit function theorem; no iteration is kept for it.
    Gradients are those at the returned potentials, so solve to a small ``tol`` for them. The start
    and the diagnostics carry no gradient. Where a measure has no mass its potential is the
    half-step from the other one's. ``torch.autocast`` changes nothing.

    References
    ----------
    Cuturi, "Sinkhorn distances", 2013. Thibault et al., "Overrelaxed Sinkhorn-Knopp algorithm for
    regularized optimal transport", 2017. Lehmann et al., "A note on overrelaxation in the Sinkhorn
    algorithm", 2021.

    Examples
    --------
    >>> import torch, unot_fast
    >>> a, b = torch.rand(2, 8, 64, 64, dtype=torch.float64)
    >>> result = unot_fast.sinkhorn(a, b, unot_fast.Grid((64, 64)), 0.01, normalize=True)
    >>> result.cost.shape, bool(result.converged.all())
    (torch.Size([8]), True)
    """
    refuse_tangents("sinkhorn", *(x for x in (a, b, epsilon) if isinstance(x, Tensor)))
    problems = prepare(a, b, geom, epsilon, normalize, dtype, validate)
    tol, criterion, max_iter, weight = check_options(tol, criterion, max_iter, overrelaxation)
    backend = backend_for(backend, geom, problems.a.device)
    structure, _ = costs_on(geom, problems.a.device)
    options = {
        "tol": tol,
        "criterion": criterion,
        "max_iter": max_iter,
        "overrelaxation": weight,
        "backend": backend,
    }
    init = "multiscale" if isinstance(init, str) and init == "auto" else init
    measures, pyramid = (problems.a, problems.b), (pyramid or Pyramid()).of_solve(tol, criterion)
    fused = structure == "separable" and backend in ("cpu", "cuda")
    if isinstance(init, str) and init == "multiscale" and fused:
        solution, coarse_work = solve_multiscale(
            *measures, geom, problems.epsilon, pyramid, **options
        )
    else:
        with torch.no_grad():
            g, coarse_work = _start(init, problems, geom, backend, pyramid, validate)
        solution = solve(*measures, geom, problems.epsilon, g, **options)
    return OTResult.from_solution(solution, problems, geom, backend, coarse_work)


def _start(
    init: str | Tensor | Start,
    problems: Problems,
    geom: Geometry,
    backend: str,
    pyramid: Pyramid,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    """The start g, shape (B, \\*target_shape), and the work that it took."""
    a, b, epsilon = problems.a.detach(), problems.b.detach(), problems.epsilon
    free = torch.zeros_like(epsilon)
    if isinstance(init, str):
        if init == "multiscale":
            return multiscale_start(a, b, geom, epsilon, backend, pyramid)
        if init == "gaussian":
            return gaussian_start(a, b, geom, epsilon).to(b.dtype), free
        if init == "zeros":
            return torch.zeros_like(b), free
        if (start := find_start(init)) is None:
            names = ", ".join(map(repr, ["multiscale", "auto", *registered(), "gaussian", "zeros"]))
            raise ValueError(f"init must be {names}, a tensor or a callable; got {init!r}")
        init = start
    if isinstance(init, Tensor):
        full = (*problems.batch_shape, *geom.target_shape)
        try:
            g = init.detach().expand(full).reshape(b.shape)
        except RuntimeError:
            raise ValueError(
                f"init must be broadcastable to {full}; got {tuple(init.shape)}"
            ) from None
    elif callable(init):
        g = init(a, b, geom, epsilon)
        if not isinstance(g, Tensor) or g.shape != b.shape:
            got = tuple(g.shape) if isinstance(g, Tensor) else type(g).__name__
            raise ValueError(f"init must return a tensor of shape {tuple(b.shape)}; got {got}")
    else:
        raise TypeError(f"init must be a name, a tensor or a callable; got {type(init).__name__}")
    if validate and not bool(all_values(g).isfinite().all()):
        raise ValueError("init must be finite")
    return g.to(device=b.device, dtype=b.dtype).contiguous(), free
