"""Where the trained network pays as a start, and where the multiscale start does: total times."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from bench.problems import DataMissing, data_directory
from bench.turns import in_turns, info, report
from unot_fast import UNOT, Grid, Pyramid, Sphere, sinkhorn
from unot_fast.evaluation.datasets import CELLS, pairs

SECONDS = {"small": 2.0, "full": 6.0}
COSTS = {
    "sqeuclidean": (lambda n: Grid((n, n)), "LFW-Bears", (0.003, 0.01, 0.05), (16, 28, 64, 128)),
    "euclidean": (lambda n: Grid((n, n), "euclidean"), "LFW-Bears", (0.01, 0.05), (28, 64)),
    "geodesic": (lambda n: Sphere(n, 2 * n), "sphere-Earth", (0.05, 0.1), (32, 64)),
}
CASES = [
    (cost, n, batch, epsilon)
    for cost, (_, _, epsilons, sizes) in COSTS.items()
    for n, batch, epsilon in itertools.product(sizes, (1, 64), epsilons)
]
STARTS = ("multiscale", "multiscale, coarse levels to 0.01", "network")
ITERATIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@pytest.mark.parametrize(("cost", "n", "batch", "epsilon"), CASES)
@pytest.mark.parametrize("start", STARTS)
def test_start(benchmark, size, cost, n, batch, epsilon, start):
    """Time to a mean error of the cost below 1 %, start included."""
    if size == "small" and (n > 64 or (batch == 1 and n != 64)):
        pytest.skip("only with --bench-size full")
    try:
        data_directory()
    except DataMissing as missing:
        pytest.skip(str(missing))
    times, errors, iterations = _solves(cost, n, batch, epsilon, SECONDS[size])
    if start not in times:
        pytest.skip(f"not within {ITERATIONS[-1]} iterations")
    benchmark.group = f"start, {cost}, n={n}, B={batch}, epsilon={epsilon}"
    problem = f"{COSTS[cost][1]}, {cost}"
    benchmark.extra_info.update(
        info("time to 1 % on average", problem, n, batch, f"unot_fast, {start}")
        | {"epsilon": epsilon, "divisor": batch, "iterations": iterations[start]},
        error=errors[start],
        error_kind="of the cost, relative, mean",
        unit="pair",
    )
    report(benchmark, times[start])


@functools.cache
def _solves(cost: str, n: int, batch: int, epsilon: float, seconds: float):
    """Times in turns, errors and iterations of the starts that arrive."""
    geometry, cell, _, _ = COSTS[cost]
    geom = geometry(n)
    a, b = pairs(CELLS[cell], max(batch, 16), 0, n, data=data_directory())
    exact = sinkhorn(a, b, geom, epsilon, tol=1e-6).cost
    a, b = a.float(), b.float()
    network = UNOT.from_pretrained("sphere" if cost == "geodesic" else cost)
    starts = {
        STARTS[0]: {},
        STARTS[1]: {"pyramid": Pyramid(tol=0.01)},
        STARTS[2]: {"init": network},
    }
    calls, errors, iterations = {}, {}, {}
    for name, options in starts.items():
        for k in ITERATIONS:
            fixed = {**options, "tol": 0.0, "max_iter": k}
            error = float((sinkhorn(a, b, geom, epsilon, **fixed).cost / exact - 1).abs().mean())
            if error < 0.01:
                part = a[:batch], b[:batch]
                calls[name] = functools.partial(sinkhorn, *part, geom, epsilon, **fixed)
                errors[name], iterations[name] = error, k
                break
    with torch.no_grad():
        return in_turns(calls, seconds), errors, iterations
