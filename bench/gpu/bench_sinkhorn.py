"""The CUDA kernels and their rivals: ``python -m bench.gpu.bench_sinkhorn -o results.json``.

A row is checked against float64 before it is timed with CUDA events, called eagerly and replayed
as a CUDA graph.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable

import torch

from bench import peers, problems, truth
from bench.gpu import roofline
from bench.gpu.timing import Session, eager_and_graph, entry, gate, machine, times
from bench.report import seconds

DEVICE = "cuda"
EPSILON = 0.01
ITERATIONS = 100
FIRST = (64, 64)
"""n and batch of what the aims are about; of the photographs n too."""
SIZES = (64, 28, 16, 128, 256)
BATCHES = (1, 32, 256, 1024)
STATIONARY = ((28, 64), (1, 64))
RIVALS = ((28, 64, 128), (1, 32, 256))
PHOTOGRAPHS = (1, 64, 4096)
FIELDS = (128, 32)
"""Sizes and batches of other rows."""
MEMORY = 40e9
OPERATORS = (("cuda", "float32"), ("cuda", "float64"), ("triton", "float32"))
TF32_NATS = 2e-2
"""Tolerance of potentials after plain iterations in tf32, finished in float64: 2e-3 was seen."""
FLOAT32_NATS = 32 * torch.finfo(torch.float32).eps * 2 / EPSILON
"""Tolerance of potentials and log-sum-exps: rounding of exponents as large as max C / epsilon."""


_DENSE, _COMPILED = peers.DenseExp(torch.float32), peers.CompiledLSE(torch.float32)
PER_ITERATION, TO_PERCENT = "per iteration", "time to 1 %"
QUOTIENTS = {_DENSE.name: 50.0, _COMPILED.name: 20.0}
"""How many times faster than these an iteration is to be."""
SHARE = 0.4
"""Of the tensor cores' tf32 peak in an iteration."""
LIMITS = {1: 60e-6, 4096: 0.3e-6}
"""Seconds per pair of photographs to 1 %, start included, by batch."""


def main(arguments: list[str] | None = None) -> None:
    session = Session(__doc__, arguments, seconds=200.0)
    _aimed(session)
    for n in SIZES:
        for batch in BATCHES:
            if n * n * batch <= 2**24:
                where = f"n={n}, B={batch}"
                for backend in ("cuda", "triton"):
                    name = f"separable_lse ({backend}), {where}"
                    session.attempt(name, lambda n=n, b=batch, k=backend: _lse(n, b, k))
                for backend, dtype in OPERATORS:
                    name = f"{_kernel(backend)}, {dtype}, {where}"
                    session.attempt(name, lambda n=n, b=batch, k=backend, t=dtype: _op(n, b, k, t))
    for n, batch in itertools.product(*STATIONARY):
        for dtype in ("float32", "float64"):
            name = f"sinkhorn_stationary (cuda), {dtype}, n={n}, B={batch}"
            session.attempt(name, lambda n=n, b=batch, t=dtype: _distances(n, b, t))
        where = f"n={n}, B={batch}"
        session.attempt(f"normalise (cuda), {where}", lambda n=n, b=batch: _normalise(n, b))
        name = f"stationary_lse (cuda), {where}"
        session.attempt(name, lambda n=n, b=batch: _prolongation(n, b))
    for case in ("CIFAR", "LFW"):
        for batch in PHOTOGRAPHS:
            for dtype in ("float32", "float64"):
                _attempt_one_iteration(session, case, batch, dtype)
    for n, batch in itertools.product(*RIVALS):
        for method in _rivals():
            _attempt_rival(session, method, n, batch)
    for case in ("CIFAR", "LFW", "fields"):
        for method in _to_percent_methods():
            name = f"{method.name} to 1 %, {case}"
            session.attempt(name, lambda m=method, c=case: _to_percent(m, c))
    session.end()


def _aimed(session: Session) -> None:
    """What the aims are about comes first."""
    n, batch = FIRST
    name = f"{_kernel('cuda')}, float32, n={n}, B={batch}"
    session.attempt(name, lambda: _op(n, batch, "cuda", "float32"))
    for method in (_DENSE, _COMPILED, peers.SeparableLSE(torch.float32)):
        _attempt_rival(session, method, n, batch)
    for pairs in LIMITS:
        _attempt_one_iteration(session, "LFW", pairs, "float32")
    session.results["aims"] = aims(session.results)
    print(*session.results["aims"], sep="\n")


def _attempt_rival(session: Session, method: peers.Method, n: int, batch: int) -> None:
    session.attempt(f"{method.name}, n={n}, B={batch}", lambda: _rival(method, n, batch))


def _attempt_one_iteration(session: Session, case: str, batch: int, dtype: str) -> None:
    name = f"{_kernel('cuda')}, one iteration, {dtype}, {case}, B={batch}"
    session.attempt(name, lambda: _one_iteration(case, batch, dtype))


def aims(results: dict) -> list[str]:
    """What the rows of a run say to the aims, each by the fastest of eager calls and graphs."""
    best: dict[tuple, float] = {}
    for row in results["benchmarks"]:
        info = row["extra_info"]
        if info["dtype"] != "float32" or info["n"] != FIRST[0]:
            continue
        key = info["table"], info["batch"], row["name"].rpartition(", ")[0]
        best[key] = min(best.get(key, math.inf), row["stats"]["min"] / info["divisor"])
    lines, (n, batch) = [], FIRST
    ours = best.get((PER_ITERATION, batch, _kernel("cuda")))
    if ours is not None:
        where = f"an iteration of {n} x {n}, B = {batch}, float32: {seconds(ours)} a pair"
        for other, aim in QUOTIENTS.items():
            time = best.get((PER_ITERATION, batch, other))
            if time is not None:
                quotient = f"{time / ours:.1f} x, aim {aim:g} x"
                lines.append(f"{where}, {other} {seconds(time)}: {quotient}")
        floor = roofline.Work(8.0 * n**3, 0.0, 1).floor(results["machine_info"]["gpu"])
        if floor is not None:
            share = f"{floor / ours:.0%}, aim {SHARE:.0%}"
            lines.append(f"{where}, the tensor cores' peak in tf32 {seconds(floor)}: {share}")
    for pairs, limit in LIMITS.items():
        time = best.get((TO_PERCENT, pairs, f"{_kernel('cuda')}, one iteration"))
        if time is not None:
            aim = f"{seconds(time)} a pair, aim {seconds(limit)}"
            lines.append(f"photographs of {n} x {n} to 1 %, start included, B = {pairs}: {aim}")
    return lines


def _kernel(backend: str) -> str:
    """Name in the ledger."""
    return f"sinkhorn_separable ({backend})"


def _op(n: int, batch: int, backend: str, dtype: str) -> Iterable[dict]:
    """The whole-solve operator, plain iterations from zeros."""
    from unot_fast.ops import sinkhorn_separable

    problem = _fields(n, batch)
    if backend == "cuda":
        _one_launch(n)
    a, b = (x.to(getattr(torch, dtype)) for x in (problem.a, problem.b))
    costs = [problem.axis_cost] * 2
    epsilon = torch.full((batch,), EPSILON, dtype=torch.float64, device=DEVICE)
    start = torch.zeros_like(b)
    options = {"tol": 0.0, "criterion": "marginal", "max_iter": ITERATIONS, "overrelaxation": 1.0}

    def call():
        return sinkhorn_separable(a, b, costs, epsilon, start, **options, backend=backend)

    out = call()
    tolerance = FLOAT32_NATS
    if backend == "cuda":
        tolerance = TF32_NATS if dtype == "float32" else 1e-9
    sample, reference = _reference(n, batch)
    pairs = [0, batch - 1]
    solution = out.f[pairs].double(), out.g[pairs].double()
    error = truth.potential_error(sample, solution, reference)
    gate(error, tolerance)
    work = roofline.sinkhorn(n, batch, ITERATIONS, a.element_size())
    info = {
        **_info(problem, "unot_fast", f"torch {torch.__version__}", dtype),
        "kernel": _kernel(backend),
        "table": PER_ITERATION,
        "iterations": ITERATIONS,
        "error": error,
        "error_kind": "potentials, nats",
        "tolerance": tolerance,
        "divisor": ITERATIONS * batch,
        "unit": "iteration and pair",
    }
    # Larger grids are solved by launches that the host steers, which no graph can hold.
    return eager_and_graph(call, _kernel(backend), info, work, graph=n <= 128)


def _distances(n: int, batch: int, dtype: str) -> Iterable[dict]:
    """Plain iterations under |x - y| from zeros, against the reference on the CPU."""
    from unot_fast import Grid, sinkhorn

    problem, grid, eps, iterations = _fields(n, batch), Grid((n, n), "euclidean"), 0.05, 20
    _one_launch(n)
    a, b = (x.to(getattr(torch, dtype)) for x in (problem.a, problem.b))
    epsilon = torch.full((batch,), eps, dtype=torch.float64, device=DEVICE)
    options = {"tol": 0.0, "max_iter": iterations, "overrelaxation": 1.0, "init": "zeros"}

    def call():
        return sinkhorn(a, b, grid, epsilon, **options, validate=False)

    out = call()
    truth_ = sinkhorn(problem.a[:1].cpu(), problem.b[:1].cpu(), grid, eps, **options)
    error = float((out.f[:1].double().cpu() - truth_.f).abs().max()) / eps
    tolerance = TF32_NATS if dtype == "float32" else 1e-9
    gate(error, tolerance)
    info = {
        **_info(problem, "unot_fast", f"torch {torch.__version__}", dtype),
        "kernel": "sinkhorn_stationary (cuda)",
        "epsilon": eps,
        "table": "per iteration, |x - y|",
        "iterations": iterations,
        "error": error,
        "error_kind": "potentials, nats",
        "tolerance": tolerance,
        "divisor": iterations * batch,
        "unit": "iteration and pair",
    }
    work = roofline.Work(4.0 * n**4 * iterations * batch, 5.0 * n**2 * batch * a.element_size())
    return eager_and_graph(call, "sinkhorn_stationary (cuda)", info, work)


def _normalise(n: int, batch: int) -> Iterable[dict]:
    """Both measures of every pair to total 1."""
    from unot_fast.ops import _cuda

    problem = _fields(n, batch)
    _one_launch(1)
    a, b = (3 * x.float() for x in (problem.a, problem.b))

    def call():
        return _cuda.normalise(a, b, (batch, batch))

    masses, totals, _ = call()
    error = float((masses[0].double() / problem.a - 1).abs().max())
    error = max(error, float((totals[0] / a.double().sum((1, 2)) - 1).abs().max()))
    gate(error, 1e-6)
    info = _small(problem, "normalise (cuda)", error, "masses, relative", 1e-6)
    work = roofline.Work(6.0 * n**2 * batch, 6.0 * n**2 * batch * a.element_size())
    return eager_and_graph(call, info["kernel"], info, work)


def _prolongation(n: int, batch: int) -> Iterable[dict]:
    """Log-sum-exp from cells of two to the grid, under |x - y|."""
    from unot_fast import Grid
    from unot_fast.ops import stationary_lse

    problem, grid = _fields(n, batch), Grid((n, n), "euclidean")
    _one_launch(1)
    level = grid.halved()
    cost, shape = level.prolongation, (batch, *level.geom.shape)
    h = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    epsilon = torch.full((batch,), 0.05, dtype=torch.float64)

    def run(backend, *tensors):
        h, table, row_class, epsilon = tensors
        return stationary_lse(h, table, row_class, cost.step, (n, n), epsilon, backend=backend)

    tensors = h, cost.table, cost.row_class, epsilon
    on_device = [x.to(DEVICE) for x in tensors]
    first = [h[:1], cost.table, cost.row_class, epsilon[:1]]
    error = float((run("cuda", *on_device)[:1].cpu() - run("cpu", *first)).abs().max())
    gate(error, 1e-9)
    info = _small(problem, "stationary_lse (cuda)", error, "nats", 1e-9)
    work = roofline.Work(80.0 * n**4 / 4 * batch, 1.25 * n**2 * batch * 8)
    return eager_and_graph(lambda: run("cuda", *on_device), info["kernel"], info, work)


def _small(problem, kernel: str, error: float, kind: str, tolerance: float) -> dict:
    return {
        **_info(problem, "unot_fast", f"torch {torch.__version__}"),
        "kernel": kernel,
        "table": kernel,
        "iterations": 1,
        "error": error,
        "error_kind": kind,
        "tolerance": tolerance,
        "divisor": problem.batch,
        "unit": "pair",
    }


def _one_launch(n: int) -> None:
    """Raise where the CUDA backend is missing, or its solve does not take an n x n grid."""
    from unot_fast.ops import _cuda, backends

    found = backends()["cuda"]
    if not found.available:
        raise peers.Unavailable(found.detail)
    if not _cuda.supports((n, n), (n, n), torch.device(DEVICE)):
        raise peers.Unavailable("too large for one launch")


def _one_iteration(case: str, batch: int, dtype: str) -> Iterable[dict]:
    """From the bare measures to under 1 %: pyramid and one iteration, by the public solver."""
    from unot_fast import Grid, Pyramid, sinkhorn

    problem = _cell(case)
    _one_launch(problem.n)
    repeats = -(-batch // problem.batch)
    a, b = (
        x.to(getattr(torch, dtype)).repeat(repeats, 1, 1)[:batch] for x in (problem.a, problem.b)
    )
    grid = Grid((problem.n, problem.n))
    epsilon = torch.full((batch,), EPSILON, dtype=torch.float64, device=DEVICE)

    def call():
        return sinkhorn(
            a, b, grid, epsilon, max_iter=1, tol=0.0, validate=False, pyramid=Pyramid(tol=3e-3)
        )

    out = call()
    pairs = min(batch, problem.batch)
    errors = truth.cost_error(
        problems.Problem(problem.name, problem.a[:pairs], problem.b[:pairs], EPSILON),
        *(x[:pairs].double() for x in (out.f, out.g)),
    )
    gate(float(errors.max()), 0.01)
    info = {
        **_info(problem, "unot_fast", f"torch {torch.__version__}", dtype),
        "batch": batch,
        "timed_pairs": batch,
        "table": TO_PERCENT,
        "iterations": 1,
        "error": float(errors.max()),
        "error_kind": "cost, relative",
        "tolerance": 0.01,
        "converged": 1.0,
        "divisor": batch,
        "unit": "pair",
    }
    return eager_and_graph(call, f"{_kernel('cuda')}, one iteration", info)


def _lse(n: int, batch: int, backend: str) -> Iterable[dict]:
    """The half-step operator."""
    from unot_fast.ops import separable_lse

    problem = _fields(n, batch)
    if backend == "cuda":
        _one_launch(1)
    h = problem.b.log()
    costs = [problem.axis_cost.float()] * 2
    epsilon = torch.full((batch,), EPSILON, dtype=torch.float64, device=DEVICE)
    single = h.float()

    def call():
        return separable_lse(single, costs, epsilon, backend=backend)

    pairs = [0, batch - 1]
    exact = truth.log_sum_exp(h[pairs], problem.axis_cost / EPSILON)
    error = float((call()[pairs].double() - exact).abs().max())
    gate(error, FLOAT32_NATS)
    info = {
        **_info(problem, "unot_fast", f"torch {torch.__version__}"),
        "kernel": f"separable_lse ({backend})",
        "table": "log-sum-exp",
        "iterations": 1,
        "error": error,
        "error_kind": "nats",
        "tolerance": FLOAT32_NATS,
        "divisor": batch,
        "unit": "half-step and pair",
    }
    return eager_and_graph(call, info["kernel"], info, roofline.log_sum_exp(n, batch))


def _rival(method: peers.Method, n: int, batch: int) -> Iterable[dict]:
    """A PyTorch loop on the device, plain iterations from zeros."""
    method.check()
    problem = _fields(n, batch)
    if method.bytes(problem) > MEMORY:
        raise peers.Unavailable(f"would take about {method.bytes(problem) / 1e9:.0f} GB")
    run = method.prepare(problem, ITERATIONS)
    sample, reference = _reference(n, batch)
    f, g = run.potentials(run.call())
    error = truth.potential_error(sample, (f[[0, batch - 1]], g[[0, batch - 1]]), reference)
    tolerance = 32 * torch.finfo(getattr(torch, method.dtype)).eps * 2 / EPSILON
    _admit(error, tolerance)
    info = {
        **_info(problem, method.family, method.version(), method.dtype),
        "table": PER_ITERATION,
        "iterations": ITERATIONS,
        "error": error,
        "error_kind": "potentials, nats",
        "tolerance": tolerance,
        "divisor": ITERATIONS * batch,
        "unit": "iteration and pair",
    }
    return eager_and_graph(run.launch, method.name, info, graph=method.family == "torch")


def _to_percent(method: peers.Method, case: str) -> Iterable[dict]:
    """Time until every pair is under 1 %, from the bare measures."""
    method.check()
    problem = _fields(*FIELDS) if case == "fields" else _cell(case)
    if method.bytes(problem) > MEMORY:
        raise peers.Unavailable(f"would take about {method.bytes(problem) / 1e9:.0f} GB")
    if isinstance(method, peers.UnotFast):
        run, iterations, label = method.solve(problem), None, f"{method.name}, defaults"
    else:
        counts = [
            (k, weight)
            for weight in (1.0, 1.4, 1.5, 1.6, 1.7)
            if (k := truth.iterations_to(problem, 0.01, "measures", weight)) is not None
        ]
        iterations, weight = min(counts)
        run = method.prepare(problem, iterations, weight=weight)
        label = f"{method.name}, weight {weight:g}"
    out = run.call()
    errors = truth.cost_error(problem, *run.potentials(out))
    (gate if isinstance(method, peers.UnotFast) else _admit)(float(errors.max()), 0.01)
    info = {
        **_info(problem, method.family, method.version(), method.dtype),
        "table": TO_PERCENT,
        "iterations": float(out.n_iters.max()) if iterations is None else iterations,
        "error": float(errors.max()),
        "error_kind": "cost, relative",
        "tolerance": 0.01,
        "converged": float((errors <= 0.01).double().mean()),
        "divisor": problem.batch,
        "unit": "pair",
    }
    if isinstance(method, peers.UnotFast):  # the public solver checks its input on the host
        return [entry(label, info, times(run.launch))]
    return eager_and_graph(run.launch, label, info, graph=method.family == "torch")


def _admit(error: float, tolerance: float) -> None:
    """A rival's result: one that is wrong is left out, and no failure of this run."""
    if not error <= tolerance:
        raise peers.Unavailable(f"its error of {error:.1e} exceeds {tolerance:.1e}")


def _info(problem, family: str, version: str, dtype: str = "float32") -> dict:
    return {
        "family": family,
        "problem": problem.name,
        "n": problem.n,
        "batch": problem.batch,
        "timed_pairs": problem.batch,
        "epsilon": problem.epsilon,
        "dtype": dtype,
        "device": DEVICE,
        "machine": machine(),
        "version": version,
    }


def _rivals() -> list[peers.Method]:
    return [
        peers.SeparableExp(torch.float32),
        peers.SeparableExp(torch.float64),
        peers.SeparableLSE(torch.float32),
        peers.DenseExp(torch.float32),
        peers.GeomLossGrid(torch.float32),
    ]


def _to_percent_methods() -> list[peers.Method]:
    return [peers.UnotFast(dtype=torch.float32), *_rivals()]


@functools.cache
def _fields(n: int, batch: int) -> problems.Problem:
    return problems.fields(n, batch, epsilon=EPSILON).to(DEVICE)


@functools.cache
def _cell(name: str) -> problems.Problem:
    return problems.cell(name, 32, epsilon=EPSILON).to(DEVICE)


@functools.cache
def _reference(n: int, batch: int):
    """First and last pair, with their float64 potentials after the plain iterations."""
    problem = _fields(n, batch)
    pairs = [0, batch - 1]
    sample = problems.Problem(problem.name, problem.a[pairs], problem.b[pairs], EPSILON)
    return sample, truth.plain_potentials(sample, ITERATIONS)


if __name__ == "__main__":
    main()
