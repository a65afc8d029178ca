"""The c-transform of a fitted potential: the published loop, other methods, and ours."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.published_search import published_search
from bench.turns import in_turns, info, report
from unot_fast import NeuralOT, c_transform
from unot_fast.experiments import GaussianPair
from unot_fast.models import Potential

POINTS, TOL = 2048, 1e-3
SECONDS = {"small": 8.0, "full": 30.0}
METHODS = (
    "unot_fast",
    "unot_fast, no preconditioner",
    "unot_fast, torch",
    "unot_fast, anderson in torch",
    "unot_fast, published step in torch",
    "published loop",
)


class Plain(Potential):
    """The same network in plain torch, for automatic differentiation."""

    def __init__(self, network) -> None:
        super().__init__(network.dim)
        self.network = network

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        net, h = self.network, None
        biases = net.bias[0].split(net.widths)
        for k, (w, r, b) in enumerate(zip(net.slopes, net.squares, biases, strict=True)):
            p = F.linear(x, w, b) + F.linear(x, r).square()
            h = F.softplus(p if k == 0 else p + F.linear(h, net.hidden[k - 1]), net.sharpness)
        square = F.linear(x, net.quadratic).square().sum(1) + net.strong * x.square().sum(1)
        return h @ net.top + square / 2 + x @ net.linear[0] - x.square().sum(1) / 2


@pytest.mark.parametrize("quadratic", ["quadratic", "no quadratic"])
@pytest.mark.parametrize("dim", [2, 64])
@pytest.mark.parametrize("method", METHODS)
def test_c_transform(benchmark, size, method, dim, quadratic):
    """2048 points, each to a residual of 1e-3, of a potential fitted to a pair of Gaussians."""
    times, found = _results(dim, quadratic == "quadratic", SECONDS[size])
    benchmark.group = f"c-transform, d={dim}, {quadratic}"
    benchmark.extra_info.update(
        **info("c-transform", f"Gaussians, {quadratic}", dim, POINTS, method)
        | {"iterations": round(found[method][1], 1)},
        error=found[method][0],
        error_kind="largest distance to a search to 1e-6",
        unit="2048 points",
    )
    report(benchmark, times[method])


@functools.cache
def _results(dim: int, quadratic: bool, seconds: float):
    pair = GaussianPair.random(dim, seed=1)
    ot = NeuralOT(dim, quadratic=None if quadratic else 0)
    ot.fit(pair.source, pair.target, steps=400)
    net, z = ot.potential, ot.units.target(pair.target(POINTS, torch.Generator().manual_seed(2)))
    plain, start = Plain(net), ot.linear.inverse(z)
    tol = TOL / (1 + float(z.norm(dim=1).max()))
    exact = c_transform(net.double(), z.double(), tol=1e-7).y
    net.float()

    def ours(**options):
        return lambda: c_transform(net, z, tol=tol, max_iter=1000, **options)

    calls = {
        METHODS[0]: ours(start=start, preconditioner=ot.linear.inverse_slope),
        METHODS[1]: ours(),
        METHODS[2]: ours(backend="torch"),
        METHODS[3]: ours(method="anderson", backend="torch"),
        METHODS[4]: ours(method="picard", backend="torch"),
        METHODS[5]: lambda: published_search(plain, z, TOL),
    }
    found = {}
    for name, call in calls.items():
        result = call()
        if isinstance(result, tuple):
            y, iterations = result
        else:
            y, iterations = result.y, float(result.n_iters.float().mean())
        found[name] = float((y.double() - exact).norm(dim=1).max()), iterations
    return in_turns(calls, seconds), found
