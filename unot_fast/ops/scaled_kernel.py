"""Products with exp((f(x) + g(y) - C(x, y)) / epsilon), never formed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops.separable_lse import separable_lse

_SAFE_EXPONENT = 600.0  # of float64's 708


class ScaledKernel:
    r"""The linear map with entries :math:`M(x, y) = e^{(f(x) + g(y) - C(x, y)) / \varepsilon}`.

    With converged potentials, ``M(x, y) a(x) b(y)`` is the plan. Sums of signed data are exact to
    rounding of their positive and negative parts. Runs in float64: as matrix products where the
    potentials' range allows it, by log-sum-exp otherwise.

    Parameters
    ----------
    f, g : Tensor, shapes (B, n_1, ..., n_d) and (B, m_1, ..., m_d)
        Potentials, in units of cost.
    costs : sequence of d Tensors, shape (n_k, m_k)
    epsilon : Tensor, shape (B,)
    backend : str
        Backend of the log-sum-exp.
    """

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
        reach = max(float(self._f.abs().max()), float(self._g.abs().max()))
        self.in_range = reach < _SAFE_EXPONENT
        if self.in_range:
            self._u, self._v = self._f.exp(), self._g.exp()
            same = bool((self.epsilon == self.epsilon[0]).all())
            eps = self.epsilon[:1] if same else self.epsilon
            self._factors = [torch.exp(-c / eps.view(-1, 1, 1)) for c in self.costs]

    def forward(self, y: Tensor) -> Tensor:
        """``sum_y M(x, y) y(y)`` for data of shape (B, C, m_1, ..., m_d)."""
        if self.in_range:
            return self._u[:, None] * _contract(self._factors, self._v[:, None] * y, False)
        return self._by_lse(y, self._f, self._g, self.costs)

    def backward(self, x: Tensor) -> Tensor:
        """``sum_x M(x, y) x(x)`` for data of shape (B, C, n_1, ..., n_d)."""
        if self.in_range:
            return self._v[:, None] * _contract(self._factors, self._u[:, None] * x, True)
        return self._by_lse(x, self._g, self._f, [c.T for c in self.costs])

    def forward_cost(self, y: Tensor) -> Tensor:
        """``sum_y C(x, y) M(x, y) y(y)``."""
        return self._with_cost(y, False)

    def backward_cost(self, x: Tensor) -> Tensor:
        """``sum_x C(x, y) M(x, y) x(x)``."""
        return self._with_cost(x, True)

    def _with_cost(self, data: Tensor, transpose: bool) -> Tensor:
        # C is a sum over the axes: one product per axis, with that axis' factor times its cost.
        if self.in_range:
            inner, outer = (self._u, self._v) if transpose else (self._v, self._u)
            total = 0
            for k, c in enumerate(self.costs):
                factors = list(self._factors)
                factors[k] = factors[k] * c
                total = total + _contract(factors, inner[:, None] * data, transpose)
            return outer[:, None] * total
        parts = []
        for i, eps in enumerate(
            self.epsilon
        ):  # log(C) joins the exponent, which depends on epsilon
            f, g, one = self._f[i : i + 1], self._g[i : i + 1], self.epsilon[i : i + 1]
            total = 0
            for k, c in enumerate(self.costs):
                costs = list(self.costs)
                costs[k] = c - eps * c.log()
                if transpose:
                    f_, g_, costs = g, f, [c.T for c in costs]
                else:
                    f_, g_ = f, g
                total = total + self._by_lse(data[i : i + 1], f_, g_, costs, one)
            parts.append(total)
        return torch.cat(parts)

    def _by_lse(
        self,
        data: Tensor,
        outer: Tensor,
        inner: Tensor,
        costs: Sequence[Tensor],
        epsilon: Tensor | None = None,
    ) -> Tensor:
        epsilon = self.epsilon if epsilon is None else epsilon
        channels = data.shape[1]
        costs = [c.contiguous() for c in costs]

        def part(values: Tensor) -> Tensor:
            h = (inner[:, None] + values.log()).flatten(0, 1)
            lse = separable_lse(h, costs, epsilon.repeat_interleave(channels), backend=self.backend)
            return torch.exp(outer[:, None] + lse.unflatten(0, (-1, channels)))

        positive = part(data.clamp_min(0))
        return positive - part((-data).clamp_min(0)) if bool((data < 0).any()) else positive


def _per_problem(x: Tensor, scale: Tensor) -> Tensor:
    return x * scale.view(-1, *(1,) * (x.ndim - 1))


def _contract(factors: Sequence[Tensor], x: Tensor, transpose: bool) -> Tensor:
    """Apply one (1 or B, n_k, m_k) factor to every axis of (B, C, m_1, ..., m_d)."""
    for k, factor in enumerate(factors):
        factor = factor.mT if transpose else factor
        moved = x.movedim(2 + k, -1)
        flat = moved.reshape(moved.shape[0], -1, moved.shape[-1]) @ factor.mT
        x = flat.reshape(*moved.shape[:-1], flat.shape[-1]).movedim(-1, 2 + k)
    return x
