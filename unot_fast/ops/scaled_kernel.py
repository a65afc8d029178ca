"""Products with exp((f(x) + g(y) - C(x, y)) / epsilon), never formed."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops.folding import all_values
from unot_fast.ops.separable_lse import separable_lse
from unot_fast.ops.stationary_lse import stationary_lse

_SAFE_EXPONENT = 600.0  # of float64's 708


def scaled_kernel(
    f: Tensor, g: Tensor, costs: Sequence[Tensor], epsilon: Tensor, structure: str, backend: str
) -> ScaledKernel:
    """The kernel of a cost.

    Parameters
    ----------
    f, g : Tensor, shapes (B, n_1, ..., n_d) and (B, m_1, ..., m_d)
        Potentials, in units of cost.
    costs : sequence of Tensors
        Of a ``"separable"`` structure the cost along each axis, shapes (n_k, m_k); of a
        ``"stationary"`` one the table and the row classes of `unot_fast.geometry.LineCost`.
    epsilon : Tensor, shape (B,)
    structure : str
    backend : str
        Backend of the log-sum-exp.
    """
    kind = {"separable": SeparableKernel, "stationary": StationaryKernel}[structure]
    return kind(f, g, costs, epsilon, backend)


class ScaledKernel(ABC):
    r"""The linear map with entries :math:`M(x, y) = e^{(f(x) + g(y) - C(x, y)) / \varepsilon}`.

    With converged potentials, ``M(x, y) a(x) b(y)`` is the plan. Sums of signed data are exact to
    rounding of their positive and negative parts. Runs in float64.
    """

    epsilon: Tensor
    _f: Tensor  # in nats
    _g: Tensor

    @abstractmethod
    def forward(self, y: Tensor) -> Tensor:
        """``sum_y M(x, y) y(y)`` for data of shape (B, C, m_1, ..., m_d)."""

    @abstractmethod
    def backward(self, x: Tensor) -> Tensor:
        """``sum_x M(x, y) x(x)`` for data of shape (B, C, n_1, ..., n_d)."""

    @abstractmethod
    def forward_cost(self, y: Tensor, power: int = 1) -> Tensor:
        """``sum_y C(x, y)^power M(x, y) y(y)``, for powers 1 and 2."""

    @abstractmethod
    def backward_cost(self, x: Tensor) -> Tensor:
        """``sum_x C(x, y) M(x, y) x(x)``."""


def _by_lse(data: Tensor, outer: Tensor, inner: Tensor, log_sum_exp) -> Tensor:
    """Products of signed data in logarithms; log_sum_exp takes (B C, ...) data."""

    def part(values: Tensor) -> Tensor:
        lse = log_sum_exp((inner[:, None] + values.log()).flatten(0, 1))
        return torch.exp(outer[:, None] + lse.unflatten(0, values.shape[:2]))

    positive = part(data.clamp_min(0))
    signed = bool(all_values(data < 0).any())
    return positive - part((-data).clamp_min(0)) if signed else positive


class SeparableKernel(ScaledKernel):
    """Of a sum of costs along the axes: matrix products where the potentials' range allows it."""

    def __init__(
        self, f: Tensor, g: Tensor, costs: Sequence[Tensor], epsilon: Tensor, backend: str
    ):
        self.epsilon = epsilon.detach().double()
        self.costs = [c.detach().double() for c in costs]
        self.backend = backend
        self._f = _per_problem(f.detach().double(), 1 / self.epsilon)
        self._g = _per_problem(g.detach().double(), 1 / self.epsilon)
        flat_g = self._g.flatten(1)
        centre = (flat_g.amax(1) + flat_g.amin(1)) / 2
        shape = (-1,) + (1,) * len(self.costs)
        self._f = self._f + centre.view(shape)
        self._g = self._g - centre.view(shape)
        # A factor that is zero in float64 may stand between scalings that make up for it.
        exponents = [self._f.abs(), self._g.abs(), *(c.max() / self.epsilon for c in self.costs)]
        self.in_range = all(bool((all_values(x) < _SAFE_EXPONENT).all()) for x in exponents)
        if self.in_range:
            self._u, self._v = self._f.exp(), self._g.exp()
            same = bool(all_values(self.epsilon == self.epsilon[:1]).all())
            eps = self.epsilon[:1] if same else self.epsilon
            self._factors = [torch.exp(-c / eps.view(-1, 1, 1)) for c in self.costs]

    def forward(self, y: Tensor) -> Tensor:
        if self.in_range:
            return self._u[:, None] * _contract(self._factors, self._v[:, None] * y, False)
        return self._in_logarithms(y, self._f, self._g, self.costs)

    def backward(self, x: Tensor) -> Tensor:
        if self.in_range:
            return self._v[:, None] * _contract(self._factors, self._u[:, None] * x, True)
        return self._in_logarithms(x, self._g, self._f, [c.T for c in self.costs])

    def forward_cost(self, y: Tensor, power: int = 1) -> Tensor:
        return self._with_cost(y, False, power)

    def backward_cost(self, x: Tensor) -> Tensor:
        return self._with_cost(x, True, 1)

    def _with_cost(self, data: Tensor, transpose: bool, power: int) -> Tensor:
        # C^power is a sum of products of costs of an axis each; each of these is one product, with
        # those axes' factors times their costs.
        terms = list(itertools.product(range(len(self.costs)), repeat=power))
        if self.in_range:
            inner, outer = (self._u, self._v) if transpose else (self._v, self._u)
            total = 0
            for axes in terms:
                factors = list(self._factors)
                for k in axes:
                    factors[k] = factors[k] * self.costs[k]
                total = total + _contract(factors, inner[:, None] * data, transpose)
            return outer[:, None] * total
        parts = []
        for i, eps in enumerate(
            self.epsilon
        ):  # log(C) joins the exponent, which depends on epsilon
            f, g, one = self._f[i : i + 1], self._g[i : i + 1], self.epsilon[i : i + 1]
            total = 0
            for axes in terms:
                costs = list(self.costs)
                for k in axes:
                    costs[k] = costs[k] - eps * self.costs[k].log()
                if transpose:
                    f_, g_, costs = g, f, [c.T for c in costs]
                else:
                    f_, g_ = f, g
                total = total + self._in_logarithms(data[i : i + 1], f_, g_, costs, one)
            parts.append(total)
        return torch.cat(parts)

    def _in_logarithms(
        self,
        data: Tensor,
        outer: Tensor,
        inner: Tensor,
        costs: Sequence[Tensor],
        epsilon: Tensor | None = None,
    ) -> Tensor:
        epsilon = self.epsilon if epsilon is None else epsilon
        epsilon = epsilon.repeat_interleave(data.shape[1])
        costs = [c.contiguous() for c in costs]
        return _by_lse(
            data, outer, inner, lambda h: separable_lse(h, costs, epsilon, backend=self.backend)
        )


class StationaryKernel(ScaledKernel):
    """Of a cost that depends on the last axis only through a shift, by log-sum-exp."""

    def __init__(
        self, f: Tensor, g: Tensor, costs: Sequence[Tensor], epsilon: Tensor, backend: str
    ):
        table, row_class = costs
        self.epsilon = epsilon.detach().double()
        self.backend = backend
        self._f = _per_problem(f.detach().double(), 1 / self.epsilon)
        self._g = _per_problem(g.detach().double(), 1 / self.epsilon)
        self._forward = table.detach().double(), row_class, f.shape[1:]
        self._backward = table.detach().double().flip(1), row_class.T.contiguous(), g.shape[1:]

    def forward(self, y: Tensor) -> Tensor:
        return self._product(y, self._f, self._g, self.epsilon, *self._forward)

    def backward(self, x: Tensor) -> Tensor:
        return self._product(x, self._g, self._f, self.epsilon, *self._backward)

    def forward_cost(self, y: Tensor, power: int = 1) -> Tensor:
        return self._with_cost(y, power, self._f, self._g, *self._forward)

    def backward_cost(self, x: Tensor) -> Tensor:
        return self._with_cost(x, 1, self._g, self._f, *self._backward)

    def _product(self, data, outer, inner, epsilon, table, row_class, shape) -> Tensor:
        epsilon = epsilon.repeat_interleave(data.shape[1])

        def log_sum_exp(h: Tensor) -> Tensor:
            return stationary_lse(h, table, row_class, 1, shape, epsilon, backend=self.backend)

        return _by_lse(data, outer, inner, log_sum_exp)

    def _with_cost(self, data, power, outer, inner, table, row_class, shape) -> Tensor:
        parts = []
        for i in range(len(data)):  # log(C) joins the exponent, which depends on epsilon
            one = slice(i, i + 1)
            logarithm = table.clamp_min(1e-250).log()
            weighted = table - power * self.epsilon[i] * logarithm
            parts.append(
                self._product(
                    data[one], outer[one], inner[one], self.epsilon[one], weighted, row_class, shape
                )
            )
        return torch.cat(parts) if parts else data.new_empty((*data.shape[:2], *shape))


def _per_problem(x: Tensor, scale: Tensor) -> Tensor:
    return x * scale.view(-1, *(1,) * (x.ndim - 1))


def _contract(factors: Sequence[Tensor], x: Tensor, transpose: bool) -> Tensor:
    """Apply one (1 or B, n_k, m_k) factor to every axis of (B, C, m_1, ..., m_d)."""
    for k, factor in enumerate(factors):
        factor = factor.mT if transpose else factor
        moved = x.movedim(2 + k, -1)
        flat = moved.flatten(1, -2) @ factor.mT
        x = flat.reshape(*moved.shape[:-1], flat.shape[-1]).movedim(-1, 2 + k)
    return x
