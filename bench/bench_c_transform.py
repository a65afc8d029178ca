"""The c-transform of a fitted potential: the published loop, other methods, and ours."""

from __future__ import annotations

import functools

import pytest
import torch

from bench.published_search import Plain, published_search
from bench.turns import in_turns, info, report
from unot_fast import NeuralOT, c_transform
from unot_fast.experiments import GaussianPair

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
