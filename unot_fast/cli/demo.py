"""``unot-fast demo``: starts of the iteration, and a peer, on real pictures."""

from __future__ import annotations

import importlib
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import torch

from unot_fast import Grid, OTResult, sinkhorn
from unot_fast.cli.demo_figure import demo_figure
from unot_fast.cli.samples import random_pairs

STARTS = ("zeros", "gaussian", "multiscale")
EPSILON, DUST, TARGET = 0.01, 1e-6, 0.01
_SEED = 0
_CURVE = 25  # iterations that the figure shows
_MOST = 1000  # iterations after which a start has failed
_REPEATS = 3
_PEER_METHODS = ("sinkhorn", "sinkhorn_log")
_PEER_PROBE = 3  # iterations that choose the peer's method
_PEER_LIMIT = 100  # longest side at which the peer's dense matrices fit in a few GB


@dataclass(frozen=True)
class Row:
    """A line of the table; per pair where an array."""

    label: str
    iterations: np.ndarray
    coarse_work: np.ndarray
    fixed: int  # iterations of the timed solve
    seconds: float
    timed_pairs: int
    error: np.ndarray  # of the timed solve


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder of demo.png.  [default: here]",
)
@click.option("--pairs", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--size", type=click.IntRange(min=8), default=64, show_default=True)
def command(output: Path, pairs: int, size: int) -> None:
    """Compare starts of the iteration, and POT, on real pictures.

    Random crops of the pictures that come with scikit-image are paired at random. An iteration
    count is the first from which the transport cost <C, P> stays within 1 % of the converged one,
    per pair; a time is that of one solve of the whole batch, start included, with the fewest
    iterations that bring every pair within 1 %, the best of 3. POT solves one pair, on the dense
    cost, by the faster of 'sinkhorn' and 'sinkhorn_log'. Writes demo.png.
    """
    ot = _import_pot()
    a, b = (_measures(x) for x in random_pairs(pairs, size, _SEED))
    grid = Grid((size, size))
    converged = sinkhorn(a, b, grid, EPSILON, tol=1e-9)
    if not bool(converged.converged.all()):
        raise click.ClickException("the reference solve did not converge")
    exact = converged.cost

    click.echo(
        f"{pairs} random pairs of crops of real pictures, {size}x{size}, |x - y|^2 on the unit "
        f"square, epsilon {EPSILON}, {torch.get_num_threads()} threads\n"
    )
    rows, curves, coarse_work = [], {}, {}
    for start in STARTS:
        row, curves[start] = _measure_start(start, a, b, grid, exact)
        coarse_work[start] = float(row.coarse_work.mean())
        rows.append(row)
    if size <= _PEER_LIMIT:
        rows.append(_measure_pot(ot, a[:1], b[:1], grid, exact[:1]))
    click.echo(_table(rows, pairs))
    if size > _PEER_LIMIT:
        click.echo(f"POT: not run above {_PEER_LIMIT}x{_PEER_LIMIT}; its cost matrix is dense")

    output.mkdir(parents=True, exist_ok=True)
    demo_figure(curves, coarse_work, TARGET).save(output / "demo.png", optimize=True)
    click.echo(f"\nwritten to {output / 'demo.png'}")


def _import_pot() -> ModuleType:
    for other in ("JAX", "TENSORFLOW", "CUPY"):  # slow to import, and not used here
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{other}", "1")
    try:
        return importlib.import_module("ot")
    except ModuleNotFoundError:
        raise click.ClickException("POT is not installed: pip install 'unot-fast[demo]'") from None


def _measures(pictures: np.ndarray) -> torch.Tensor:
    mass = pictures / pictures.sum((1, 2), keepdims=True) + DUST
    return torch.from_numpy(mass / mass.sum((1, 2), keepdims=True))


def _measure_start(
    start: str, a: torch.Tensor, b: torch.Tensor, grid: Grid, exact: torch.Tensor
) -> tuple[Row, np.ndarray]:
    """A line of the table, and the cost error of every pair after 1, 2, ... iterations."""

    def solve(iterations: int) -> OTResult:
        return sinkhorn(a, b, grid, EPSILON, init=start, tol=0.0, max_iter=iterations)

    curve, fixed = [], None
    while fixed is None or len(curve) < _CURVE:
        result = solve(len(curve) + 1)
        curve.append(_cost_error(result, exact))
        if fixed is None and curve[-1].max() < TARGET:
            fixed = len(curve)
        if len(curve) > _MOST:
            raise click.ClickException(f"{start}: a pair is above 1 % after {_MOST} iterations")
    curve = np.array(curve)
    row = Row(
        label=f"unot-fast, {start}",
        iterations=_iterations_to(curve),
        coarse_work=result.coarse_work.numpy(),
        fixed=fixed,
        seconds=_best_seconds(lambda: solve(fixed)),
        timed_pairs=len(a),
        error=curve[fixed - 1],
    )
    return row, curve


def _iterations_to(curve: np.ndarray) -> np.ndarray:
    """Iterations from which on the error stays below the target, per pair."""
    above = curve >= TARGET
    return np.where(above.any(0), len(curve) - above[::-1].argmax(0), 0) + 1


def _measure_pot(
    ot: ModuleType, a: torch.Tensor, b: torch.Tensor, grid: Grid, exact: torch.Tensor
) -> Row:
    """POT on the dense cost, by the faster of its two methods, for one pair.

    It updates v, then u, from u = 1, without overrelaxation: our plain iteration with the sides
    exchanged and g = -epsilon log a, which tells cheaply how many iterations it needs.
    """

    def plain(iterations: int) -> OTResult:
        options = {"tol": 0.0, "max_iter": iterations, "overrelaxation": 1.0}
        return sinkhorn(b, a, grid, EPSILON, init=-EPSILON * a.log(), **options)

    needed = next(k for k in itertools.count(1) if _cost_error(plain(k), exact) < TARGET)
    cost = grid.cost_matrix().numpy()
    masses = a.flatten().numpy(), b.flatten().numpy()

    def solve(method: str, iterations: int) -> np.ndarray:
        options = {"method": method, "numItermax": iterations, "stopThr": 0.0, "warn": False}
        return ot.sinkhorn(*masses, cost, EPSILON, **options)

    probe = {m: _seconds(lambda m=m: solve(m, _PEER_PROBE)) for m in _PEER_METHODS}
    method = min(probe, key=probe.get)
    reached = (solve(method, needed) * cost).sum()
    return Row(
        label=f"POT {method}, 1 pair",
        iterations=np.array([needed]),
        coarse_work=np.zeros(1),
        fixed=needed,
        seconds=_best_seconds(lambda: solve(method, needed)),
        timed_pairs=1,
        error=np.abs(reached / exact.numpy() - 1),
    )


def _cost_error(result: OTResult, exact: torch.Tensor) -> np.ndarray:
    return ((result.cost - exact).abs() / exact).numpy()


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _best_seconds(call: Callable[[], object]) -> float:
    return min(_seconds(call) for _ in range(_REPEATS))


def _table(rows: list[Row], pairs: int) -> str:
    cells = [
        (
            "",
            "iterations to 1 %",
            "worst",
            "coarse work",
            "timed at",
            f"batch of {pairs}",
            "per pair",
            "cost error, mean / max",
        )
    ]
    for row in rows:
        extrapolated = row.timed_pairs < pairs
        seconds = row.seconds * pairs / row.timed_pairs
        cells.append(
            (
                row.label,
                f"{row.iterations.mean():.1f} +- {row.iterations.std():.1f}",
                f"{row.iterations.max()}",
                f"{row.coarse_work.mean():.1f}",
                f"{row.fixed}",
                f"{'~' if extrapolated else ''}{seconds:.3g} s",
                f"{1e3 * row.seconds / row.timed_pairs:.3g} ms",
                f"{100 * row.error.mean():.2f} % / {100 * row.error.max():.2f} %",
            )
        )
    first, *others = ([len(c) for c in column] for column in zip(*cells, strict=True))
    lines = [
        line[0].ljust(max(first))
        + "".join(cell.rjust(max(w) + 2) for cell, w in zip(line[1:], others, strict=True))
        for line in cells
    ]
    if any(row.timed_pairs < pairs for row in rows):
        lines.append(f"~ extrapolated to {pairs} pairs from the pairs that were timed")
    lines.append("coarse work: arithmetic of the start on coarser grids, in iterations on the grid")
    return "\n".join(lines)
