"""Triton's Fourier layers and their rivals: ``python -m bench.gpu.bench_spectral -o results.json``.

The operators, a block and the whole network of the published UNOT at their sizes there, and
neuralop's FNO. A row is checked before it is timed with CUDA events, called eagerly and replayed as
a CUDA graph. Rows of float32 have float32's accuracy everywhere, pointwise layers of torch
included; rows of tf32 have tf32 wherever torch or the kernels can, and rows of bfloat16 have
that in Triton's kernels.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench import models, peers, unot
from bench.gpu import roofline
from bench.gpu.timing import Session, eager_and_graph, gate, machine
from bench.report import seconds
from unot_fast import ops
from unot_fast.spectral.fourier import Band, analysis_table, synthesis_table

DEVICE = "cuda"
N, CHANNELS, HIDDEN, MODES, LAYERS, BATCHES = 64, 64, 256, 10, 4, (64, 1)
MLP_HIDDEN = 32
"""Of a block of neuralop's FNO; that of UNOT has no such layers."""
TOLERANCE = {
    "operator": {"float32": 3e-5, "tf32": 4e-3, "bfloat16": 1e-2},
    "block": {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 2e-2},
    "network": {"float32": 1e-4, "tf32": 5e-2, "bfloat16": 8e-2},
}
"""Relative to the largest value of a result, of bfloat16 in norm; gradients deep in a network were
2e-2 off in tf32 and, on a CPU, 3e-2 in bfloat16."""
PRODUCTS = {"float32": 3, "tf32": 1, "bfloat16": 0.5}
PRECISIONS = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}
OPERATORS = ("spectral_analysis", "spectral_mixing", "spectral_synthesis", "channel_mlp")
BACKENDS = ("triton", "torch")
FORWARD, STEP = "forward", "forward and backward"
OURS = tuple(f"unot_fast ({backend})" for backend in BACKENDS)
EAGER, COMPILED = "published (eager)", "published (compiled)"
MEMORY, LIMIT = "x twice and y once through memory", "limit"
AIMS = (  # table, batch, mode, whose time ours divides, and the least quotient
    (f"network, {FORWARD}", 64, "eager", EAGER, 8.0),
    (f"network, {FORWARD}", 64, "eager", COMPILED, 3.0),
    (f"network, {STEP}", 64, "eager", EAGER, 5.0),
    (f"block, {FORWARD}", 64, "eager", MEMORY, 0.5),
    (f"network, {FORWARD}", 1, "graph", LIMIT, 1.0),
)


def main(arguments: list[str] | None = None) -> None:
    session = Session(__doc__, arguments, seconds=100.0)
    torch.manual_seed(0)
    for operator, dtype, backend in itertools.product(OPERATORS, PRODUCTS, BACKENDS):
        name = f"{operator} ({backend}), {dtype}, n={N}, B={BATCHES[0]}"
        session.attempt(name, functools.partial(_operator_rows, operator, backend, dtype))
    # What the aims are about comes first, and what is slow to compile, last.
    _compare(session, (*OURS, EAGER), "float32")
    _compare(session, (COMPILED,), "float32", BATCHES[:1], (FORWARD,), ("network",))
    _compare(session, (*OURS, EAGER), "tf32")
    _compare(session, OURS[:1], "bfloat16", BATCHES[:1])
    _compare(session, (COMPILED,), "float32")
    _compare(session, (COMPILED,), "tf32")
    for direction, method in itertools.product((FORWARD, STEP), models.METHODS):
        name = f"FNO, {direction}, {method}, n={N}, B={BATCHES[0]}"
        session.attempt(name, functools.partial(_fno_rows, direction, method))
    print(*session.results["aims"], sep="\n")
    session.end()


def _compare(
    session, ways, dtype, batches=BATCHES, directions=(FORWARD, STEP), whats=("network", "block")
) -> None:
    for batch, direction, what in itertools.product(batches, directions, whats):
        for way in ways:
            name = f"{what}, {direction}, {way}, {dtype}, n={N}, B={batch}"
            rows = functools.partial(_network_rows, what, direction, way, dtype, batch)
            session.attempt(name, rows)
        session.results["aims"] = aims(session.results)


def aims(results: dict) -> list[str]:
    """What the rows of a run say to each of `AIMS`."""
    keys = "table", "batch", "dtype", "method"
    times = {
        tuple(r["extra_info"][k] for k in keys): r["stats"]["min"] for r in results["benchmarks"]
    }
    floor = roofline.Work(0.0, 3 * roofline.field(N, BATCHES[0], CHANNELS))
    bounds = {MEMORY: floor.floor(results["machine_info"]["gpu"]), LIMIT: 150e-6}
    lines = []
    for (table, batch, mode, other, aim), dtype, way in itertools.product(AIMS, PRODUCTS, OURS):
        time = times.get((table, batch, dtype, f"{way}, {mode}"))
        bound = bounds.get(other, times.get((table, batch, dtype, f"{other}, {mode}")))
        if time is not None and bound is not None:
            lines.append(
                f"{table}, B = {batch}, {mode}, {dtype}: {way} {seconds(time)}, {other} "
                f"{seconds(bound)}: {bound / time:.2f} x, aim {aim:g} x"
            )
    return lines


def _operator_rows(name: str, backend: str, dtype: str) -> Iterator[dict]:
    arguments, options, work = _operator(name, PRODUCTS[dtype])
    operator, kernel = getattr(ops, name), f"{name} ({backend})"
    single = [[_single(t) for t in x] if isinstance(x, list) else _single(x) for x in arguments]
    info = _info(name, f"{CHANNELS} channels, {MODES} modes", BATCHES[0], dtype)
    if backend == "torch":
        info["family"] = "torch"
    elif dtype == "float32":  # what the ledger is about
        info["kernel"] = kernel
    with _precision(dtype):
        yield from _checked(
            lambda: [operator(*single, **options, backend=backend)],
            [operator(*arguments, **options, backend="torch")],
            TOLERANCE["operator"][dtype], kernel, info, work,
        )  # fmt: skip


@functools.cache
def _operator(name: str, products: int):
    """Float64 arguments of an operator as UNOT, or FNO, has them, its options and its work."""
    n, c, h, m, b = N, CHANNELS, HIDDEN, MODES, BATCHES[0]
    normal = functools.partial(unot.normal, DEVICE)
    x, modes = normal(b, c, n, n), normal(b, c, 2, m, m)
    bands = Band(0, m, aliased=True), Band.of(m, half=True)
    if name == "spectral_analysis":
        tables = [analysis_table(n, band, 1.0 / n, x) for band in bands]
        return (x, tables), {}, roofline.spectral_analysis(n, b * c, m, products)
    if name == "spectral_mixing":
        weight, bias = normal(c, h, m, m, 2) / c**0.5, normal(h, m, m, 2)
        work = roofline.spectral_mixing(b, c, h, m, products)
        return (modes, weight, bias), {"gelu": True}, work
    if name == "spectral_synthesis":
        tables = [synthesis_table(n, band, 1.0 / m, x) for band in bands]
        skip, bias = normal(c, c) / c**0.5, normal(c)
        work = roofline.spectral_synthesis(n, b, c, m, products)
        return (modes, tables, x, skip, bias), {"gelu": True}, work
    layers = [normal(MLP_HIDDEN, c) / c**0.5, normal(MLP_HIDDEN)]
    layers += [normal(c, MLP_HIDDEN) / MLP_HIDDEN**0.5, normal(c)]
    work = roofline.channel_mlp(n, b, c, MLP_HIDDEN, products)
    return (x, *layers, normal(b, c, n, n), normal(c)), {"gelu": True}, work


def _network_rows(what: str, direction: str, way: str, dtype: str, batch: int) -> Iterator[dict]:
    run = _way(what, way)
    single = [_single(x).requires_grad_(direction == STEP) for x in _inputs(what, batch)]
    problem = f"UNOT's {what}, {CHANNELS} channels, {MODES} modes"
    info = _info(f"{what}, {direction}", problem, batch, dtype)
    info["family"] = "torch" if way in (EAGER, COMPILED) else "unot_fast"
    sizes = N, batch, CHANNELS, HIDDEN, MODES
    last = PRODUCTS[dtype], direction == STEP
    if what == "block":
        work = roofline.spectral_block(*sizes, *last)
    else:
        work = roofline.spectral_network(*sizes, LAYERS, *last)
    exact = _exact(what, direction, batch)
    with _precision(dtype):
        yield from _checked(
            lambda: _results(run, direction, single), exact, TOLERANCE[what][dtype], way, info, work
        )


def _way(what: str, way: str) -> Callable[..., Tensor]:
    """A block or a network, from the tensors of `_inputs` to its output."""
    block = unot.published_block
    if way in OURS:
        block = functools.partial(unot.fast_block, backend=BACKENDS[OURS.index(way)])
    run = functools.partial(unot.network, block) if what == "network" else block
    if way == COMPILED:
        torch.compiler.reset()  # or it would compile no more after a few shapes
        return torch.compile(run, dynamic=False)
    return run


def _results(run: Callable[..., Tensor], direction: str, tensors: list[Tensor]) -> list[Tensor]:
    """The output, and for a step the gradients of all tensors for a fixed gradient of it."""
    if direction == FORWARD:
        with torch.no_grad():
            return [run(*tensors)]
    out = run(*tensors)
    grad = _output_gradient(out.shape, out.dtype)
    return [out.detach(), *torch.autograd.grad(out, tensors, grad)]


@functools.cache
def _output_gradient(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(DEVICE).manual_seed(1)
    # Positive, so that sums over the points, as in the gradient of a bias, do not cancel.
    return torch.rand(shape, dtype=torch.float64, device=DEVICE, generator=generator).to(dtype)


@functools.cache
def _inputs(what: str, batch: int) -> list[Tensor]:
    if what == "block":
        return unot.block_inputs(N, batch, CHANNELS, HIDDEN, MODES, DEVICE)
    return unot.network_inputs(N, batch, CHANNELS, HIDDEN, MODES, LAYERS, DEVICE)


@functools.cache
def _exact(what: str, direction: str, batch: int) -> list[Tensor]:
    """What the published one gives in float64."""
    tensors = _inputs(what, batch)
    leaves = [x.detach().requires_grad_(direction == STEP) for x in tensors]
    return _results(_way(what, EAGER), direction, leaves)


def _fno_rows(direction: str, method: str) -> Iterator[dict]:
    """neuralop's own model; it has no float64, so it is compared with its own eager results."""
    if importlib.util.find_spec("neuralop") is None:
        raise peers.Unavailable("neuralop is not installed")
    options = {"backend": BACKENDS[0]} if method == "unot_fast" else {}
    run = models.forward if direction == FORWARD else models.step
    if method == "neuralop compiled":
        torch.compiler.reset()
    problem = f"FNO, {MODES} modes, {models.FNO['hidden_channels']} channels"
    info = _info(direction, problem, BATCHES[0], "float32")
    info |= {"family": method.split()[0], "error_kind": "to neuralop, relative"}
    with _precision("float32"):
        exact, call = (
            run(*models.prepare("FNO", m, N, BATCHES[0], DEVICE, **o))
            for m, o in (("neuralop eager", {}), (method, options))
        )
        yield from _checked(
            lambda: [call()], [exact()], TOLERANCE["network"]["float32"], method, info,
            graph=method == "unot_fast" and direction == FORWARD,
        )  # fmt: skip


def _checked(
    call: Callable[[], list[Tensor]], exact: list[Tensor], tolerance: float, name: str, info: dict,
    work: roofline.Work | None = None, graph: bool = True,
) -> Iterator[dict]:  # fmt: skip
    size = torch.norm if info["dtype"] == "bfloat16" else lambda x: x.abs().max()
    error = max(float(size(x - y) / size(y)) for x, y in zip(call(), exact, strict=True))
    gate(error, tolerance)
    yield from eager_and_graph(
        call, name, {**info, "error": error, "tolerance": tolerance}, work, graph
    )


def _info(table: str, problem: str, batch: int, dtype: str) -> dict:
    return {
        "family": "unot_fast",
        "table": table,
        "problem": problem,
        "n": N,
        "batch": batch,
        "timed_pairs": batch,
        "epsilon": 0.0,
        "dtype": dtype,
        "device": DEVICE,
        "machine": machine(),
        "version": f"torch {torch.__version__}",
        "iterations": 1,
        "error_kind": "relative",
        "divisor": 1,
        "unit": "call",
    }


@contextlib.contextmanager
def _precision(dtype: str):
    """Have torch and the kernels multiply in float32, or in less where they can."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = dtype != "float32"
    try:
        with models.float32_products(PRECISIONS[dtype]):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _single(x: Tensor) -> Tensor:
    return x.to(torch.complex64 if x.is_complex() else torch.float32)


if __name__ == "__main__":
    main()
