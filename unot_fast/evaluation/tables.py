"""The tables of the published evaluation, and the numbers that were published."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from unot_fast.evaluation.protocol import Evaluation, Statistics
from unot_fast.evaluation.starts import MULTISCALE, ONES, Potential, Start
from unot_fast.geometry import Geometry, Grid, Sphere
from unot_fast.models import Generator

Problems = Iterable[tuple[str, Evaluation]]
Rows = Mapping[str, Mapping[str, str]]
_PUBLISHED_COST = "|x - y|^2"


def _rows(columns: str, text: str) -> dict[str, dict[str, str]]:
    """Rows of cells that bars separate, of which the first is the name."""
    names = columns.split()
    lines = ([cell.strip() for cell in line.split("|")] for line in text.strip().splitlines())
    return {name: dict(zip(names, cells, strict=True)) for name, *cells in lines}


PUBLISHED_ITERATIONS = _rows(
    "UNOT ones Gauss",
    """
    MNIST       | 3 ± 5 | 16 ± 9  | 10 ± 7
    CIFAR       | 3 ± 6 | 80 ± 22 | 52 ± 19
    MNIST-CIFAR | 4 ± 4 | 32 ± 15 | 13 ± 9
    LFW         | 7 ± 8 | 78 ± 20 | 35 ± 14
    Bears       | 4 ± 6 | 41 ± 16 | 25 ± 13
    LFW-Bears   | 4 ± 6 | 53 ± 18 | 29 ± 13
    """,
)
PUBLISHED_SECONDS = _rows(
    "UNOT ones speed-up",
    """
    MNIST       | 1.2e-3 | 1.5e-3 | 1.25
    CIFAR       | 9.5e-4 | 7.1e-3 | 7.4
    MNIST-CIFAR | 1.3e-3 | 2.7e-3 | 2.07
    LFW         | 3.0e-3 | 1.5e-2 | 5
    Bears       | 2.6e-3 | 1.0e-2 | 3.8
    LFW-Bears   | 2.7e-3 | 1.2e-2 | 4.4
    """,
)
PUBLISHED_ONE_STEP = _rows(
    "UNOT MetaOT Gauss ones",
    """
    MNIST       | 2.7 ± 2.4 | 2.4 ± 1.8   | 18.1 ± 10.0 | 39.5 ± 13.4
    CIFAR       | 1.3 ± 1.1 | 23.1 ± 15.7 | 19.7 ± 7.6  | 47.4 ± 20.2
    MNIST-CIFAR | 2.8 ± 2.6 | 11.4 ± 5.8  | 32.2 ± 8.7  | 74.5 ± 6.9
    LFW         | 1.5 ± 1.3 | 24.6 ± 15.7 | 21.1 ± 6.5  | 56.9 ± 15.4
    Bears       | 2.0 ± 1.6 | 11.8 ± 8.3  | 20.4 ± 8.3  | 54.2 ± 13.5
    LFW-Bears   | 1.8 ± 1.3 | 31.0 ± 14.8 | 19.3 ± 6.4  | 66.4 ± 10.8
    """,
)
PUBLISHED_STAGES = _rows(
    "0% 10% 20% 30% 40% 50% 60% 70%",
    """
    at generation   | 53.2 | 3.1 | 2.1 | 1.6 | 1.8 | 1.7 | 2.1 | 1.9
    end of training | 2.0  | 1.6 | 1.4 | 1.1 | 1.6 | 1.5 | 2.0 | 1.9
    """,
)


@dataclass
class Table:
    """Rows of measured cells, beside what was published.

    Attributes
    ----------
    title : str
    rows : mapping
        Row, column, text of the cell.
    published : mapping
        The same of the publication; printed as a block of its own.
    setting : str
        That of the published numbers.
    notes : list of str
    records : list of dict
        The numbers, one record per cell.
    """

    title: str
    rows: dict[str, dict[str, str]]
    published: Rows
    setting: str
    notes: list[str] = field(default_factory=list)
    records: list[dict] = field(default_factory=list)

    def markdown(self) -> str:
        """Title, measured block, notes and published block."""
        parts = [f"## {self.title}", _markdown(self.rows)]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        if self.published:
            parts += [f"**Published, not measured here** ({self.setting}):"]
            parts.append(_markdown(self.published))
        return "\n\n".join(parts) + "\n"

    def csv(self) -> str:
        """The measured numbers, one line per cell."""
        names = list(dict.fromkeys(name for record in self.records for name in record))
        out = io.StringIO()
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records)
        return out.getvalue()

    def add(self, row: str, column: str, text: str) -> None:
        self.rows.setdefault(row, {})[column] = text

    def transposed(self) -> Table:
        """Rows and columns exchanged, of both blocks."""
        self.rows, self.published = _transposed(self.rows), _transposed(self.published)
        return self


def iterations_table(
    problems: Problems,
    starts: Sequence[Start],
    *,
    most: int = 1000,
    tick: Callable[[], object] = lambda: None,
) -> Table:
    """Table 1: iterations until the cost is within 1 %, mean and deviation over pairs.

    The title says the cost; the published numbers, which are of |x - y|^2, stand beside that
    alone. So it is in tables 2 and 4.

    Parameters
    ----------
    problems : iterable of (str, Evaluation)
        By the name of the cell.
    starts : sequence of Start
    most : int
        Iterations after which a start has missed.
    tick : callable
        Called after every start of every cell.
    """
    table = Table("Table 1: iterations to 1 % error", {}, PUBLISHED_ITERATIONS, "500 pairs")
    table.notes.append("Plain iterations, counted from 1; the published count begins at 0.")

    def measure(evaluation: Evaluation, start: Start) -> tuple[str, dict]:
        count = Statistics.of(evaluation.iterations_to(start, most=most))
        record = vars(count) | {"pairs": len(evaluation.cost), "most": most}
        if start is MULTISCALE:
            record["coarse_work"] = float(evaluation.coarse_work(start).mean())
        return _text(count, 1.0, 0 if count.mean >= 10 else 1), record

    _fill(table, problems, starts, measure, tick)
    work = [r["coarse_work"] for r in table.records if "coarse_work" in r]
    if work:
        table.notes.append(
            "multiscale: on its coarser grids it does, before, the arithmetic of "
            f"{min(work):.1f} to {max(work):.1f} iterations, on the average over a cell."
        )
    return table


def one_step_table(
    problems: Problems,
    starts: Sequence[Start],
    *,
    tick: Callable[[], object] = lambda: None,
) -> Table:
    """Table 4: relative error of the cost in per cent after one iteration; starts are its rows."""
    table = Table("Table 4: error after one iteration, %", {}, PUBLISHED_ONE_STEP, "at 28 x 28")

    def measure(evaluation: Evaluation, start: Start) -> tuple[str, dict]:
        error = Statistics.of(evaluation.relative_errors(start, 1)[0])
        shape = "x".join(map(str, evaluation.geom.shape))
        record = vars(error) | {"pairs": len(evaluation.cost), "grid": shape}
        return _text(error, 100.0, 1), record

    return _fill(table, problems, starts, measure, tick).transposed()


def seconds_table(
    problems: Problems,
    starts: Sequence[Start],
    *,
    rule: str = "mean",
    repeats: int = 3,
    dtype: torch.dtype = torch.float32,
    most: int = 1000,
    tick: Callable[[], object] = lambda: None,
) -> Table:
    """Table 2: seconds until a batch is within 1 %, everything included, and speed-ups.

    Parameters
    ----------
    problems, starts, most, tick
        As for `iterations_table`; a batch is all pairs of an evaluation.
    rule : {"mean", "worst"}
        Which error over the batch is to be below 1 %.
    repeats, dtype
        As for `Evaluation.time_after`.
    """
    which = {"mean": "mean error", "worst": "error of the worst pair"}.get(rule)
    if which is None:
        raise ValueError(f"rule must be 'mean' or 'worst'; got {rule!r}")
    table = Table(
        f"Table 2: seconds per batch to 1 % {which}",
        {},
        PUBLISHED_SECONDS,
        "batches of 64, RTX 4090, float32, JAX",
    )
    table.notes.append(
        "Measures to costs, the start included, in plain iterations; in brackets their number, the "
        f"share of the start, and the speed-up against ones. {str(dtype).removeprefix('torch.')}, "
        f"best of {repeats}."
    )

    def measure(evaluation: Evaluation, start: Start) -> tuple[str, dict]:
        options = {"rule": rule, "repeats": repeats, "dtype": dtype, "most": most}
        timing = evaluation.time_to(start, **options)
        if timing is None:
            return "missed", {"pairs": len(evaluation.cost), "missed": True}
        of_pair = timing.seconds / len(evaluation.cost)
        record = vars(timing) | {"seconds_per_pair": of_pair, "pairs": len(evaluation.cost)}
        return "", record | {"missed": False}

    _fill(table, problems, starts, measure, tick)
    if sizes := {record["pairs"] for record in table.records}:
        table.notes.insert(0, f"Batches of {', '.join(map(str, sorted(sizes)))} pairs.")
    ones = {r["cell"]: r for r in table.records if r["start"] == ONES.name and not r["missed"]}
    for record in (r for r in table.records if not r["missed"]):
        text = f"{record['iterations']} it., {record['start_seconds'] / record['seconds']:.0%}"
        if record["cell"] in ones and record["start"] != ONES.name:
            record["speed_up"] = ones[record["cell"]]["seconds"] / record["seconds"]
            text += f", {record['speed_up']:.2g} x"
        table.add(record["cell"], record["start"], f"{record['seconds']:.2g} ({text})")
    return table


def stages_table(
    stages: Sequence[tuple[str, Generator, Potential]],
    final: Potential | None = None,
    *,
    epsilon: float = 0.01,
    n: int = 64,
    count: int = 500,
    seed: int = 0,
    geom: Geometry | None = None,
) -> Table:
    """Table 5: error in per cent after one iteration on what the generator made in training.

    Parameters
    ----------
    stages : sequence of (str, Generator, callable)
        Label, generator and model of each stage. Generators are called in the mode they are in.
    final : callable, optional
        The model at the end of training, which sees all stages' samples again; default: the
        last one.
    epsilon, n, count, seed
        Regularisation, resolution, number and noise of the samples; every stage has the same noise.
    geom : Geometry, optional
        Default: the unit square with |x - y|^2.

    Returns
    -------
    Table
        A column per stage, and two rows.
    """
    if not stages:
        raise ValueError("stages must not be empty")
    final = final or stages[-1][2]
    table = Table(
        "Table 5: error after one iteration on the generator's samples, %",
        {},
        PUBLISHED_STAGES,
        "after shares of the training",
    )
    for label, generator, model in stages:
        noise = torch.Generator(next(generator.parameters()).device).manual_seed(seed)
        with torch.no_grad():
            mu, nu = generator.sample(count, n, noise)
        evaluation = Evaluation(
            *(x.double() / x.double().sum((1, 2), keepdim=True) for x in (mu, nu)),
            geom or Grid((n, n)),
            epsilon,
        )
        for row, start in (("at generation", model), ("end of training", final)):
            error = Statistics.of(evaluation.relative_errors(Start(row, start), 1)[0])
            table.add(row, label, _text(error, 100.0, 1))
            table.records.append({"stage": label, "model": row, **vars(error), "pairs": count})
        _note_unconverged(table, label, evaluation)
    return table


def _fill(
    table: Table,
    problems: Problems,
    starts: Sequence[Start],
    measure: Callable[[Evaluation, Start], tuple[str, dict]],
    tick: Callable[[], object],
) -> Table:
    costs: dict[str, None] = {}
    for cell, evaluation in problems:
        for start in starts:
            try:
                text, record = measure(evaluation, start)
                table.records.append({"cell": cell, "start": start.name, **record})
            except ValueError as error:  # a start that is not for these problems
                text = "–"  # noqa: RUF001
                table.notes.append(f"{cell}, {start.name}: {error}.")
            table.add(cell, start.name, text)
            tick()
        _note_unconverged(table, cell, evaluation)
        costs[cost_name(evaluation.geom)] = None
    if costs:
        table.title += f"; cost {' and '.join(costs)}"
    if costs and _PUBLISHED_COST not in costs:
        table.published = {}
    return table


def cost_name(geom: Geometry) -> str:
    """What a title calls the cost."""
    if isinstance(geom, Sphere):
        return "angle"
    return {"sqeuclidean": _PUBLISHED_COST, "euclidean": "|x - y|"}.get(geom.cost, repr(geom.cost))


def _note_unconverged(table: Table, name: str, evaluation: Evaluation) -> None:
    if evaluation.unconverged:
        table.notes.append(
            f"{name}: {evaluation.unconverged} of {len(evaluation.cost)} pairs left out, whose "
            "reference did not converge."
        )


def _text(x: Statistics, unit: float, digits: int) -> str:
    if math.isnan(x.mean):
        return f"{x.missed} missed"
    text = f"{unit * x.mean:.{digits}f} ± {unit * x.std:.{digits}f}"
    return text + (f" ({x.missed} missed)" if x.missed else "")


def _markdown(rows: Rows) -> str:
    columns = list(dict.fromkeys(c for cells in rows.values() for c in cells))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(cells.get(c, "") for c in columns)] for name, cells in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _transposed(rows: Rows) -> dict[str, dict[str, str]]:
    out: dict[str, dict[str, str]] = {}
    for row, cells in rows.items():
        for column, text in cells.items():
            out.setdefault(column, {})[row] = text
    return out
