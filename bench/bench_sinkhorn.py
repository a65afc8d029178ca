"""Sinkhorn on square grids against other libraries: cost |x - y|^2, epsilon = 0.01.

Every row is checked against `bench.truth` before it is timed; a row that misses its tolerance
fails and has no time.
"""

from __future__ import annotations

import functools
import itertools
import time

import pytest
import torch

import unot_fast
from bench import peers, problems, truth
from bench.machine import cpu_model

EPSILON = 0.01
PERCENT = 0.01

SIZES = (16, 28, 64, 128, 256, 512)
BATCHES = (1, 32, 256)
ITERATIONS = {16: 100, 28: 100, 64: 50, 128: 10, 256: 5, 512: 3}
PYRAMID_TOLERANCES = (1e-3, 3e-3, 1e-2, 1.2e-2)
PYRAMID_COARSEST = (8, 16)
WEIGHTS = (1.3, 1.4, 1.5, 1.6, 1.7, 1.8)
PAIRS_TO_PERCENT = 32

LIMITS = {"small": 2.0, "full": 60.0}
"""Seconds that one call may take."""
TIMING = {"small": 0.3, "full": 2.0}
"""Seconds spent on the repetitions of a row."""
MEMORY = 6e9

OURS = {m.dtype: m for m in (peers.UnotFast(), peers.UnotFast(dtype=torch.float32))}
METHODS = {m.name: m for m in (*OURS.values(), *peers.rivals())}
VARIANTS = {m.name: m for m in peers.variants()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("case", [*map(str, SIZES), "LFW"])
def test_per_iteration(benchmark, size, case, batch, method):
    """Plain iterations from zeros, a fixed number of them, on random fields and on images."""
    if case == "LFW":
        if size == "small" or batch != PAIRS_TO_PERCENT:
            pytest.skip("only 32 pairs, with --bench-size full")
        problem = _cell(case, batch)
    else:
        n = int(case)
        if size == "small" and (n > 128 or batch > 32 or (n == 128 and batch > 1)):
            pytest.skip("only with --bench-size full")
        problem = _fields(n, batch)
    solver, iterations = METHODS[method], ITERATIONS[problem.n]
    _refuse(solver, problem, iterations, size)
    row = _row(problem, solver.pairs(problem))
    run = _prepare(solver, row, iterations)

    checked = sorted({0, row.batch - 1})
    sample, reference = _plain_reference(row, tuple(checked))
    f, g = (x[checked] for x in run.potentials(run.call()))
    error = truth.potential_error(sample, (f, g), reference)
    tolerance = 32 * torch.finfo(getattr(torch, solver.dtype)).eps * 2 / EPSILON
    assert error <= tolerance, f"error {error:.1e} nats exceeds {tolerance:.1e}"

    _time(benchmark, run, size, "per iteration", solver, problem)
    benchmark.extra_info.update(
        iterations=iterations,
        weight=1.0,
        error=error,
        error_kind="potentials, nats",
        tolerance=tolerance,
        divisor=iterations * run.pairs,
        unit="iteration and pair",
    )


@pytest.mark.parametrize("accelerated", [False, True], ids=["plain", "overrelaxed"])
@pytest.mark.parametrize("method", [m for m in METHODS if not m.startswith("unot_fast")])
@pytest.mark.parametrize("case", ["28", "64", "128", "MNIST", "CIFAR-MNIST", "Bears", "LFW-Bears"])
def test_rival_to_percent(benchmark, size, case, method, accelerated):
    """A peer's fastest setting that brings every pair under 1 %, over starts and weights."""
    solver, problem = METHODS[method], _case(case, size)
    if accelerated and solver.family == "POT":
        pytest.skip("POT has no momentum")
    _refuse(solver, problem, 1, size)
    row = _row(problem, solver.pairs(problem))
    settings = _settings(row, solver, WEIGHTS if accelerated else (1.0,))
    if not settings:
        pytest.skip("does not bring every pair under 1 % in 500 iterations")
    _refuse(solver, problem, settings[0][0], size)
    fastest = None
    for count, start, weight in settings:
        for iterations in range(count, count + 3):  # rounding may take one or two more
            run = _prepare(solver, row, iterations, start=start, weight=weight)
            if float(truth.cost_error(row, *run.potentials(run.call())).max()) <= PERCENT:
                seconds = _seconds(run) if len(settings) > 1 else 0.0
                if fastest is None or seconds < fastest[0]:
                    fastest = seconds, run, iterations, start, weight
                break
    assert fastest is not None, f"cost error exceeds 1 % in {solver.dtype} with {settings}"
    _, run, iterations, start, weight = fastest
    _time_to_percent(benchmark, run, size, solver, problem, iterations)
    label = "plain" if weight == 1.0 else f"overrelaxed {weight:g}"
    benchmark.extra_info.update(method=f"{solver.name}, {label}", start=start, weight=weight)


@pytest.mark.parametrize("method", VARIANTS)
@pytest.mark.parametrize("case", ["28", "64", "MNIST", "CIFAR-MNIST", "Bears", "LFW-Bears"])
def test_variant_to_percent(benchmark, size, case, method):
    """The same for OTT's own starts and accelerations, their iteration count searched by trial."""
    solver, problem = VARIANTS[method], _case(case, size)
    if size == "small" and (solver.mode == "lse" or solver.variant == "gaussian" or problem.n > 28):
        pytest.skip("only with --bench-size full")
    _refuse(solver, problem, 64, size)
    runs = {}

    def error(k: int) -> float:
        runs[k] = solver.prepare(problem, k)
        return float(truth.cost_error(problem, *runs[k].potentials(runs[k].call())).max())

    iterations = _fewest(error, 128)
    if iterations is None:
        pytest.skip("does not bring every pair under 1 % in 128 iterations")
    _time_to_percent(benchmark, runs[iterations], size, solver, problem, iterations)


@pytest.mark.parametrize("dtype", OURS)
@pytest.mark.parametrize("mode", ["defaults", "fastest setting"])
@pytest.mark.parametrize("case", ["28", "64", "128", "MNIST", "CIFAR-MNIST", "Bears", "LFW-Bears"])
def test_ours_to_percent(benchmark, size, case, mode, dtype):
    """The multiscale start and its solve, from the bare measures.

    The fastest setting is searched for like that of a peer: over how far the coarse problems are
    solved, with the fewest iterations on the grid that bring every pair under 1 %.
    """
    problem, solver = _case(case, size), OURS[dtype]
    label, run = mode, solver.solve(problem)
    if mode == "fastest setting":
        fastest = None
        for tol, coarsest in itertools.product(PYRAMID_TOLERANCES, PYRAMID_COARSEST):
            pyramid = unot_fast.Pyramid(tol=tol, coarsest=coarsest)

            def attempt(k: int, pyramid=pyramid) -> peers.Run:
                return solver.solve(problem, tol=0.0, max_iter=k, pyramid=pyramid)

            def error(k: int, attempt=attempt) -> float:
                run = attempt(k)
                return float(truth.cost_error(problem, *run.potentials(run.call())).max())

            iterations = _fewest(error, 128)
            assert iterations is not None, "does not bring every pair under 1 % in 128 iterations"
            run = attempt(iterations)
            seconds = min(_seconds(run) for _ in range(5))
            if fastest is None or seconds < fastest[0]:
                fastest = seconds, run, f"pyramid to {tol:g} from {coarsest}"
        _, run, label = fastest
    result = run.call()
    iterations = float(result.n_iters.max())
    _time_to_percent(benchmark, run, size, solver, problem, iterations)
    benchmark.extra_info.update(
        method=f"{solver.name}, {label}",
        coarse_work=float(result.coarse_work.mean()),
        converged=float(result.converged.double().mean()),
    )


@pytest.mark.parametrize(
    ("init", "weight"),
    [
        ("zeros", 1.0),
        ("zeros", "auto"),
        ("gaussian", 1.0),
        ("gaussian", "auto"),
        ("multiscale", 1.0),
        ("multiscale", "auto"),
    ],
)
@pytest.mark.parametrize("cell", problems.CELLS)
def test_iterations(benchmark, size, cell, init, weight):
    """Iterations of each pair to 1 % and 0.1 %, starts and overrelaxation apart."""
    problem = _cell(cell, 128)
    targets = (PERCENT, PERCENT / 10)
    needed, first_error, result = _iterations_per_pair(problem, init, weight, targets)
    assert needed.isfinite().all(), "some pair did not reach 0.1 % in 1000 iterations"

    solver = peers.UnotFast(init=init)
    longest = int(needed[1].max())
    run = solver.solve(problem, init=init, tol=0.0, max_iter=longest, overrelaxation=weight)
    _time(benchmark, run, size, "iterations", solver, problem)
    benchmark.extra_info.update(
        method=f"{init}, weight {weight}",
        init=init,
        weight=weight,
        iterations=longest,
        coarse_work=float(result.coarse_work.mean()),
        error=float(truth.cost_error(problem, *run.potentials(run.call())).max()),
        error_kind="cost, relative",
        tolerance=PERCENT,
        first_error_mean=float(first_error.mean()),
        first_error_max=float(first_error.max()),
        divisor=problem.batch,
        unit="pair, to 0.1 % for the slowest",
    )
    for target, counts in zip(("1%", "0.1%"), needed, strict=True):
        benchmark.extra_info.update(
            {
                f"mean to {target}": float(counts.mean()),
                f"std to {target}": float(counts.std()),
                f"max to {target}": int(counts.max()),
            }
        )


def _iterations_per_pair(problem, init, weight, targets):
    """First iteration of each pair within each target, shape (targets, B), by solves of 1, 2, ...

    A plain iteration depends on g alone, so plain solves go on from where they were; adaptive
    ones are run afresh for each length, on the pairs that are not done.
    """
    from unot_fast import Grid, sinkhorn

    geom = Grid((problem.n, problem.n))
    reference = truth.converged_cost(problem)
    needed = torch.full((len(targets), problem.batch), float("inf"), dtype=torch.float64)
    active = torch.arange(problem.batch)
    start, first_error, first = init, None, None
    for k in range(1, 1001):
        part = problems.Problem(problem.name, problem.a[active], problem.b[active])
        steps = {"init": start, "max_iter": 1} if weight == 1.0 else {"init": init, "max_iter": k}
        result = sinkhorn(
            part.a, part.b, geom, problem.epsilon, tol=0.0, overrelaxation=weight, **steps
        )
        cost = truth.transport_cost(part, result.f, result.g)
        error = (cost - reference[active]).abs() / reference[active]
        if k == 1:
            first_error, first = error, result
        for row, target in zip(needed, targets, strict=True):
            row[active] = torch.where(error < target, row[active].clamp_max(k), row[active])
        going = needed[:, active].isinf().any(0)
        if not going.any():
            break
        active = active[going]
        start = result.g[going]
    return needed, first_error, first


def _fewest(error, most: int) -> int | None:
    """Fewest iterations with an error within 1 %: doubled until they do, then bisected."""
    high = 1
    while not error(high) <= PERCENT:
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if error(middle) <= PERCENT else (middle, high)
    return high


def _prepare(solver, problem, iterations, **options):
    try:
        return solver.prepare(problem, iterations, **options)
    except peers.Unavailable as reason:
        pytest.skip(str(reason))


def _refuse(solver, problem, iterations, size):
    """Skip, with the reason, what cannot run here or would outlast the session."""
    if problem.n > solver.largest:
        pytest.skip(f"a dense matrix of {problem.n}^4 entries")
    seconds, memory = solver.seconds(problem, iterations), solver.bytes(problem)
    if seconds > LIMITS[size]:
        pytest.skip(f"{iterations} iterations would take about {seconds:.0f} s a call")
    if memory > MEMORY:
        pytest.skip(f"would take about {memory / 1e9:.0f} GB")
    try:
        solver.check()
    except peers.Unavailable as reason:
        pytest.skip(str(reason))


def _time_to_percent(benchmark, run, size, solver, problem, iterations):
    errors = truth.cost_error(_row(problem, run.pairs), *run.potentials(run.call()))
    worst = float(errors.max())
    assert worst <= PERCENT, f"cost error {worst:.2%} exceeds 1 %"
    _time(benchmark, run, size, "time to 1 %", solver, problem)
    benchmark.extra_info.update(
        method=solver.name,
        iterations=iterations,
        error=worst,
        error_kind="cost, relative",
        tolerance=PERCENT,
        converged=float((errors <= PERCENT).double().mean()),
        divisor=run.pairs,
        unit="pair",
    )


def _seconds(run) -> float:
    start = time.perf_counter()
    run.call()
    return time.perf_counter() - start


def _time(benchmark, run, size, group, solver, problem):
    """Time a run that has been called before, as often as the session's patience allows."""
    rounds = min(max(int(TIMING[size] / _seconds(run)), 2), 100)
    benchmark.group = f"{group}, {problem.name}, n={problem.n}"
    benchmark.extra_info.update(
        method=solver.name,
        family=solver.family,
        table=group,
        problem=problem.name,
        n=problem.n,
        batch=problem.batch,
        timed_pairs=run.pairs,
        epsilon=problem.epsilon,
        dtype=solver.dtype,
        device="cpu",
        machine=cpu_model(),
        threads=torch.get_num_threads(),
        version=solver.version(),
    )
    benchmark.pedantic(run.call, rounds=rounds, iterations=1)


def _case(case: str, size: str) -> problems.Problem:
    """A problem of the time-to-1 % rows: images where they are there, else random fields."""
    if case == "128":
        if size == "small":
            pytest.skip("only with --bench-size full")
        return _fields(128, 8)
    if case in problems.CELLS:
        if size == "small":
            pytest.skip("only with --bench-size full")
        return _cell(case, PAIRS_TO_PERCENT)
    try:
        problems.data_directory()
    except problems.DataMissing:
        return _fields(int(case), PAIRS_TO_PERCENT)
    return _cell({"28": "CIFAR", "64": "LFW"}[case], PAIRS_TO_PERCENT)


@functools.cache
def _load(cell: str, pairs: int) -> problems.Problem:
    return problems.cell(cell, pairs, epsilon=EPSILON)


def _cell(cell: str, pairs: int) -> problems.Problem:
    try:
        return _load(cell, pairs)
    except problems.DataMissing as reason:
        pytest.skip(str(reason))


@functools.cache
def _fields(n: int, pairs: int) -> problems.Problem:
    return problems.fields(n, pairs, epsilon=EPSILON)


@functools.cache
def _row(problem: problems.Problem, pairs: int) -> problems.Problem:
    return problem.take(pairs)


@functools.cache
def _plain_reference(problem: problems.Problem, pairs: tuple[int, ...]):
    """Some pairs of a problem, with their potentials after the plain iterations of its rows.

    The package's dense float64 reference up to n = 28, a separable log-sum-exp beyond.
    """
    index = list(pairs)
    sample = problems.Problem(problem.name, problem.a[index], problem.b[index], problem.epsilon)
    iterations = ITERATIONS[problem.n]
    if problem.n > 28:
        return sample, truth.plain_potentials(sample, iterations)
    from unot_fast.reference.sinkhorn_separable import sinkhorn_separable

    epsilon = torch.full((sample.batch,), sample.epsilon, dtype=torch.float64)
    costs = [sample.axis_cost] * 2
    start = torch.zeros_like(sample.b)
    f, g, *_ = sinkhorn_separable(
        sample.a, sample.b, costs, epsilon, start, 0.0, "marginal", iterations, 1.0
    )
    return sample, (f, g)


@functools.cache
def _count(problem, start, weight, relax_first):
    return truth.iterations_to(problem, PERCENT, start, weight, relax_first)


def _settings(problem, solver, weights) -> list[tuple[int, str, float]]:
    """Settings (iterations, start, weight) of few iterations: the best three, and 1.5.

    A weight of 1.5 needs a square root where others need a power, which can be worth more
    iterations than it costs.
    """
    found = []
    for weight in weights:
        counts = [(_count(problem, s, weight, solver.relax_first), s) for s in solver.starts]
        counts = [c for c in counts if c[0] is not None]
        if counts:
            found.append((*min(counts), weight))
    found.sort()
    return found[:3] + [setting for setting in found[3:] if setting[2] == 1.5]
