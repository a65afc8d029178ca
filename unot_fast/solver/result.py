"""What a solve returns, and what can be done with it without forming the plan."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from unot_fast.geometry import Geometry
from unot_fast.ops import Solution
from unot_fast.ops.autocast import in_full_precision
from unot_fast.ops.scaled_kernel import ScaledKernel, scaled_kernel
from unot_fast.solver.displacement import displacement_interpolation
from unot_fast.solver.validation import Problems

_LARGEST_PLAN = 8 * 2**30  # bytes


@dataclasses.dataclass(frozen=True, repr=False)
class OTResult:
    r"""Solution of a batch of entropic transport problems.

    The plan is :math:`P(x, y) = a(x)\, b(y)\, e^{(f(x) + g(y) - C(x, y)) / \varepsilon}` for masses
    of total 1; the potentials' free constant is fixed by :math:`\langle g, b \rangle = 0`.
    Everything is on the device of the inputs; scalars have the batch shape.

    Attributes
    ----------
    f : Tensor, shape (\*batch, \*geom.shape)
        Source potential, in units of cost; finite on empty pixels.
    g : Tensor, shape (\*batch, \*geom.target_shape)
        Target potential.
    cost : Tensor
        Transport cost :math:`\langle C, P \rangle`, without the entropy.
    value : Tensor
        Dual objective of the entropic problem, a lower bound that is tight at convergence.
    marginal_error : Tensor
        :math:`\|P 1 - a\|_1 + \|P^\top 1 - b\|_1` for masses of total 1.
    n_iters : Tensor of int32
        Full iterations (f and g) on the grid.
    coarse_work : Tensor
        Arithmetic spent on coarser grids before, in iterations on the grid.
    converged : Tensor of bool
        Whether the criterion was met.
    log_domain : Tensor of bool
        Whether the problem needed the log domain.
    backend : str
        What ran.
    geom : Geometry
    epsilon : Tensor
        One per problem.
    """

    f: Tensor
    g: Tensor
    cost: Tensor
    value: Tensor
    marginal_error: Tensor
    n_iters: Tensor
    coarse_work: Tensor
    converged: Tensor
    log_domain: Tensor
    backend: str
    geom: Geometry
    epsilon: Tensor
    _a: Tensor
    _b: Tensor
    _total: Tensor

    @classmethod
    def from_solution(
        cls,
        solution: Solution,
        problems: Problems,
        geom: Geometry,
        backend: str,
        coarse_work: Tensor,
    ) -> OTResult:
        total = problems.total.to(problems.a)

        def batched(x: Tensor) -> Tensor:
            if len(problems.batch_shape) == 1:
                return x
            return x.reshape((*problems.batch_shape, *x.shape[1:]))

        return cls(
            f=batched(solution.f),
            g=batched(solution.g),
            cost=batched(solution.cost * total),
            value=batched(solution.value * total),
            marginal_error=batched(solution.marginal_error),
            n_iters=batched(solution.n_iters),
            coarse_work=batched(coarse_work),
            converged=batched(solution.converged),
            log_domain=batched(solution.log_domain),
            backend=backend,
            geom=geom,
            epsilon=batched(problems.epsilon),
            _a=problems.a.detach(),
            _b=problems.b.detach(),
            _total=total.detach(),
        )

    @in_full_precision
    def apply(self, x: Tensor, *, transpose: bool = False) -> Tensor:
        r"""The plan times data, without forming it.

        Parameters
        ----------
        x : Tensor, shape (\*batch, \*channels, \*geom.target_shape)
            Functions on the target space, of any sign; any number of channel dimensions.
        transpose : bool
            Apply the transposed plan to functions on the source space instead.

        Returns
        -------
        Tensor, shape (\*batch, \*channels, \*geom.shape)
            :math:`\sum_y P(x, y)\, x(y)`. Carries no gradient.
        """
        mass = self._a if transpose else self._b
        outer = self._b if transpose else self._a
        flat, channels = self._flatten(x, mass)
        flat = flat * mass[:, None]
        out = self._kernel.backward(flat) if transpose else self._kernel.forward(flat)
        out = out * (outer * _column(self._total, outer))[:, None]
        return self._unflatten(out, channels).to(self.f.dtype)

    @in_full_precision
    def barycentric_map(self) -> Tensor:
        r"""Conditional mean of the target point given the source point.

        Returns
        -------
        Tensor, shape (\*batch, \*geom.shape, d)
            :math:`T(x) = \sum_y P(x, y)\, y / \sum_y P(x, y)`, in the units of the grid's
            coordinates; defined on empty pixels too. On a sphere the mean of unit vectors, which
            lies inside. Carries no gradient.
        """
        points = self.geom.points("target").to(self._b.device).movedim(-1, 0)
        data = torch.cat([points, torch.ones_like(points[:1])])
        sums = self._kernel.forward(self._b[:, None].double() * data)
        mean = (sums[:, :-1] / sums[:, -1:]).movedim(1, -1)
        return mean.reshape((*self.cost.shape, *mean.shape[1:])).to(self.f.dtype)

    @in_full_precision
    def plan(self) -> Tensor:
        r"""The dense plan.

        Returns
        -------
        Tensor, shape (\*batch, \*geom.shape, \*geom.target_shape)

        Raises
        ------
        MemoryError
            It would take more than 8 GiB; the message says how much. `apply`,
            `barycentric_map` and `interpolate` do not need it.
        """
        need = self.geom.plan_bytes(self.f.dtype) * self._a.shape[0]
        if need > _LARGEST_PLAN:
            raise MemoryError(
                f"the dense plan of {self._a.shape[0]} problem(s) on {self.geom!r} would take "
                f"{need / 2**30:.1f} GiB (limit {_LARGEST_PLAN / 2**30:.0f} GiB); use apply(), "
                "barycentric_map() or interpolate()"
            )
        cost = self.geom.cost_matrix().to(self._a.device)
        plans = []
        for a, b, f, g, eps, total in zip(
            self._a, self._b, *self._potentials, self.epsilon.reshape(-1), self._total, strict=True
        ):
            # Masses join the exponent: between empty pixels the rest of it may overflow.
            rows = (f / eps + a.double().log()).reshape(-1, 1)
            columns = (g / eps + b.double().log()).reshape(1, -1)
            plans.append((total * torch.exp(rows + columns - cost / eps)).to(self.f.dtype))
        shape = (*self.cost.shape, *self.geom.shape, *self.geom.target_shape)
        return torch.stack(plans).reshape(shape) if plans else self.f.new_empty(shape)

    @in_full_precision
    def interpolate(self, t: float) -> Tensor:
        r"""Displacement interpolation at time ``t`` as an image.

        Every grain of mass that the plan sends from x to y stands at (1 - t) x + t y, on a sphere
        on the great circle between them, and is shared linearly among the neighbouring pixels.
        The image is on the source grid's points for t = 0 and moves to the target grid's where
        they differ.

        Parameters
        ----------
        t : float
            In [0, 1]; 0 gives ``a`` and 1 gives ``b``, up to the marginal error.

        Returns
        -------
        Tensor, shape (\*batch, \*geom.shape)
            Masses with the total of ``a``. Carries no gradient.
        """
        if not 0 <= t <= 1:
            raise ValueError(f"t must be in [0, 1]; got {t!r}")
        f, g = self._potentials
        image = displacement_interpolation(
            self._a, self._b, f, g, self.geom, self.epsilon.reshape(-1), float(t)
        )
        image = image * _column(self._total, image)
        return image.reshape((*self.cost.shape, *image.shape[1:])).to(self.f.dtype)

    @property
    def _potentials(self) -> tuple[Tensor, Tensor]:
        return (
            self.f.detach().reshape(self._a.shape).double(),
            self.g.detach().reshape(self._b.shape).double(),
        )

    @functools.cached_property
    def _kernel(self) -> ScaledKernel:
        structure, costs = self.geom.kernel_costs
        costs = [c.to(self._a.device) for c in costs]
        epsilon = self.epsilon.reshape(-1)
        return scaled_kernel(*self._potentials, costs, epsilon, structure, self.backend)

    def _flatten(self, x: Tensor, mass: Tensor) -> tuple[Tensor, torch.Size]:
        d, lead = mass.ndim - 1, self.cost.ndim
        ok = x.ndim >= lead + d and x.shape[x.ndim - d :] == mass.shape[1:]
        if not ok or x.shape[:lead] != self.cost.shape:
            want = ", ".join(["*batch", "*channels", *map(str, mass.shape[1:])])
            raise ValueError(
                f"x must have shape ({want}) with batch {tuple(self.cost.shape)}; "
                f"got {tuple(x.shape)}"
            )
        channels = x.shape[lead : x.ndim - d]
        return x.detach().double().reshape(len(mass), channels.numel(), *mass.shape[1:]), channels

    def _unflatten(self, x: Tensor, channels: torch.Size) -> Tensor:
        return x.reshape((*self.cost.shape, *channels, *x.shape[2:]))

    def __repr__(self) -> str:
        done = int(self.converged.sum())
        iters = self.n_iters.double().mean() if self.n_iters.numel() else 0.0
        return (
            f"OTResult({self.converged.numel()} problem(s) on {self.geom!r}, {done} converged, "
            f"{float(iters):.1f} iterations on average, backend {self.backend!r})"
        )


def _column(x: Tensor, like: Tensor) -> Tensor:
    return x.view(-1, *(1,) * (like.ndim - 1))
