"""Sinkhorn's iteration in the log domain, one problem at a time, on a dense cost."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def solve(
    a: Tensor,
    b: Tensor,
    cost: Tensor,
    epsilon: Tensor,
    g: Tensor,
    tol: float,
    criterion: str,
    max_iter: int,
    overrelaxation: float | None,
) -> tuple[Tensor, ...]:
    """Solve each problem of a batch; see `unot_fast.ops.Solution` for what comes back.

    ``cost`` is the matrix between the flattened points of source and target.
    """
    solved = [
        _solve(
            a[i].reshape(-1).double(),
            b[i].reshape(-1).double(),
            cost,
            float(epsilon[i]),
            g[i].reshape(-1).double(),
            tol,
            criterion,
            max_iter,
            overrelaxation,
        )
        for i in range(a.shape[0])
    ]
    f, g, *scalars = zip(*solved, strict=True)
    reals = [torch.stack(s).to(a.dtype) for s in scalars[:3]]
    rest = [torch.tensor(s, device=a.device) for s in scalars[3:]]
    return (
        torch.stack(f).reshape(a.shape).to(a.dtype),
        torch.stack(g).reshape(b.shape).to(a.dtype),
        *reals,
        rest[0].to(torch.int32),
        *rest[1:],
    )


def _solve(a, b, cost, eps, g, tol, criterion, max_iter, overrelaxation):
    log_a, log_b = a.log(), b.log()
    f = torch.zeros_like(a)
    weight = _Weight(float(cost.max()) / eps, overrelaxation)
    previous = math.inf
    converged = steady = False
    for k in range(1, max_iter + 1):
        w = weight.value
        f_plain = -eps * torch.logsumexp(log_b + (g - cost) / eps, dim=1)
        f = f_plain if k == 1 else _relaxed(f, f_plain, w, eps)
        g_plain = -eps * torch.logsumexp(log_a + (f[:, None] - cost).T / eps, dim=1)
        g = _relaxed(g, g_plain, w, eps)

        plan = torch.exp(log_a[:, None] + log_b + (f[:, None] + g - cost) / eps)
        error = (plan.sum(1) - a).abs().sum() + (plan.sum(0) - b).abs().sum()
        transport = (plan * cost).sum()
        if criterion == "marginal":
            converged = bool(error < tol)
        else:
            change = (transport - previous).abs()
            before, steady = steady, k > 1 and bool(change < tol * transport.abs())
            converged = before and steady  # twice: a cost that turns stands still once
        previous = transport
        if converged:
            break
        weight.observe(k, float(error))
    # Where there is no mass, the half-step from where the other side is now.
    g = torch.where(b > 0, g, g_plain)
    f = torch.where(a > 0, f, -eps * torch.logsumexp(log_b + (g - cost) / eps, dim=1))
    value = (f * a).sum() + (g * b).sum() - eps * (plan.sum() - 1)
    shift = (g * b).sum()
    return f + shift, g - shift, transport, value, error, k, converged, True


def _relaxed(old: Tensor, new: Tensor, w: float, eps: float) -> Tensor:
    """Overrelaxation by weight ``w`` that saturates at ``log(w / (2 - w))`` beyond ``new``."""
    if w == 1.0:
        return new
    step = torch.tanh((new - old) / (2 * eps))
    return new + 2 * eps * torch.atanh((w - 1) * step)


class _Weight:
    """The overrelaxation weight: fixed, or adapted to the observed rate of the error."""

    def __init__(self, cost_range: float, fixed: float | None):
        self.adaptive = fixed is None
        rate = cost_range / (cost_range + 25)
        self.opening = min(1.7, 2 / (1 + math.sqrt(1 - rate)))
        self.value = 1.0 if self.adaptive else fixed  # the first iteration is plain
        self.cap, self.best, self.anchor = 1.95, math.inf, math.inf

    def observe(self, k: int, error: float) -> None:
        if not self.adaptive:
            return
        if k == 1:
            self.value = self.opening
            return
        w = self.value
        self.best = min(self.best, error)
        if w > 1 and error > 4 * self.best:  # overshooting: start again from the plain iteration
            self.cap, w, self.best = 1 + 0.8 * (w - 1), 1.0, error
        if k % 4 == 2:
            if k > 2 and self.anchor > 0:
                rho = (error / self.anchor) ** 0.25
                if rho <= 1.05 * (w - 1):  # past the optimum the error falls like (w - 1)^k
                    w = 1 + 0.8 * (w - 1)
                elif rho < 0.9999:  # an error that hardly falls says nothing of the rate
                    rho = max(rho, 1e-6)
                    plain = min((rho + w - 1) ** 2 / (rho * w**2), 0.9999)  # Young's relation
                    w = (w + 2 / (1 + math.sqrt(1 - plain))) / 2
                w = min(w, self.cap)
            self.anchor = error
        self.value = w
