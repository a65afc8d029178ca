"""A Sinkhorn solve as one log-sum-exp after another, for what no kernel solves in one launch."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.ops.scaled_kernel import scaled_kernel
from unot_fast.ops.stationary_lse import stationary_lse

_POLL = 8  # iterations between two looks at the device
_MOST = 690.0  # nats, of float64's 709


def sinkhorn_stationary(
    a: Tensor,
    b: Tensor,
    table: Tensor,
    row_class: Tensor,
    epsilon: Tensor,
    g: Tensor,
    tol: float,
    criterion: str,
    max_iter: int,
    overrelaxation: float | None,
    *,
    backend: str,
) -> tuple[Tensor, ...]:
    """See `unot_fast.ops.sinkhorn_stationary` for the contract; in float64.

    Each problem stops by itself, on the device; every few iterations the host waits to see whether
    any goes on. ``backend`` is that of the log-sum-exps.
    """
    dtype = a.dtype
    a, b, g, epsilon = (x.detach().double() for x in (a, b, g, epsilon))
    scale = epsilon.view(-1, *(1,) * (a.ndim - 1))
    across = table.flip(1).contiguous(), row_class.T.contiguous()
    log_a, log_b = a.log(), b.log()
    by_cost = criterion == "cost"

    def sums_on_source(g: Tensor) -> Tensor:
        return stationary_lse(g + log_b, table, row_class, 1, a.shape[1:], epsilon, backend=backend)

    def sums_on_target(f: Tensor) -> Tensor:
        return stationary_lse(f + log_a, *across, 1, b.shape[1:], epsilon, backend=backend)

    def transport_cost(f: Tensor, g: Tensor) -> Tensor:
        kernel = scaled_kernel(
            f * scale, g * scale, [table, row_class], epsilon, "stationary", backend
        )
        return (a * kernel.forward_cost(b[:, None])[:, 0]).flatten(1).sum(1)

    g = g / scale  # potentials in nats
    f, at_target = torch.zeros_like(a), torch.zeros_like(b)
    weight = _Weight(table.max() / epsilon, overrelaxation)
    error, mass, cost, error_g = (torch.zeros_like(epsilon) for _ in range(4))
    running = torch.ones_like(epsilon, dtype=torch.bool)
    converged, steady = torch.zeros_like(running), torch.zeros_like(running)
    n_iters = torch.zeros_like(running, dtype=torch.int32)
    for k in range(max_iter + 1):
        at_source = sums_on_source(g)
        if k:
            ratio = (f + at_source).clamp_max(_MOST).exp()
            found = (a * (ratio - 1).abs()).flatten(1).sum(1) + error_g
            error = torch.where(running, found, error)
            mass = torch.where(running, (a * ratio).flatten(1).sum(1), mass)
            n_iters = torch.where(running, k, n_iters)
            if by_cost:  # twice: a cost that turns stands still once
                before, last, cost = steady, cost, transport_cost(f, g)
                steady = ((cost - last).abs() < tol * cost.abs()) & (k > 1)
                solved = before & steady
            else:
                solved = found < tol
            converged = converged | (running & solved)
            running = running & ~solved
            weight.observe(k, error)
            if k == max_iter or (k % _POLL == 0 and not bool(running.any())):
                break
        going = running.view(scale.shape)
        f = torch.where(going, _relaxed(f, -at_source, weight.value, a) if k else -at_source, f)
        at_target = torch.where(going, sums_on_target(f), at_target)
        g = torch.where(going, _relaxed(g, -at_target, weight.value, b), g)
        ratio = (g + at_target).clamp_max(_MOST).exp()
        error_g = (b * (ratio - 1).abs()).flatten(1).sum(1)
    f = torch.where(a > 0, f, -at_source)  # elsewhere the half-step from where g is now
    if not by_cost:
        cost = transport_cost(f, g)
    shift = (g * b).flatten(1).sum(1).view(scale.shape)
    f, g = (f + shift) * scale, (g - shift) * scale
    value = (f * a).flatten(1).sum(1) + (g * b).flatten(1).sum(1) - epsilon * (mass - 1)
    reals = (x.to(dtype) for x in (f, g, cost, value, error))
    return *reals, n_iters, converged, torch.ones_like(converged)


def _relaxed(old: Tensor, new: Tensor, weight: Tensor, mass: Tensor) -> Tensor:
    """Overrelaxation that saturates at log(w / (2 - w)) beyond ``new``, where there is mass."""
    w = weight.view(-1, *(1,) * (old.ndim - 1))
    r = (old - new).clamp(-_MOST, _MOST).exp()
    beyond = torch.log((w + (2 - w) * r) / ((2 - w) + w * r))
    return torch.where(mass > 0, new + beyond, new)


class _Weight:
    """The weight of every problem, as csrc/control.h has it."""

    def __init__(self, span: Tensor, fixed: float | None):
        self.fixed = fixed is not None
        rate = span / (span + 25)
        self.opening = (2 / (1 + (1 - rate).sqrt())).clamp_max(1.7)
        self.value = torch.full_like(span, fixed if self.fixed else 1.0)
        self.cap = torch.full_like(span, 1.95)
        self.best = self.anchor = torch.full_like(span, torch.inf)

    def observe(self, k: int, error: Tensor) -> None:
        if self.fixed:
            return
        if k == 1:
            self.value = self.opening
            return
        w, self.best = self.value, torch.minimum(self.best, error)
        over = (w > 1) & (error > 4 * self.best)
        self.cap = torch.where(over, 1 + 0.8 * (w - 1), self.cap)
        self.best = torch.where(over, error, self.best)
        w = torch.where(over, 1.0, w)
        if k % 4 == 2:
            if k > 2:
                rho = (error / self.anchor).sqrt().sqrt()
                r = rho.clamp_min(1e-6)
                plain = ((r + w - 1).square() / (r * w.square())).clamp_max(0.9999)
                young = (w + 2 / (1 + (1 - plain).sqrt())) / 2
                past = rho <= 1.05 * (w - 1)
                new = torch.where(rho < 0.9999, young, w)
                w = torch.minimum(torch.where(past, 1 + 0.8 * (w - 1), new), self.cap)
            self.anchor = error
        self.value = w
