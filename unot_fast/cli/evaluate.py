"""``unot-fast evaluate``: starts compared by the published protocol."""

from __future__ import annotations

import csv
import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from unot_fast import __version__
from unot_fast.cli.options import Duration, device, warn
from unot_fast.evaluation import (
    CELLS,
    GAUSS,
    MULTISCALE,
    ONES,
    Cell,
    Evaluation,
    Start,
    measures,
    pairs,
)
from unot_fast.evaluation.datasets import (
    DATA_VARIABLE,
    PUBLISHED_CELLS,
    PUBLISHED_DUST,
    black_images,
    load_set,
)
from unot_fast.evaluation.datasets import data_directory as find_data
from unot_fast.evaluation.figures import (
    error_by_epsilon,
    error_by_iteration,
    error_by_resolution,
    error_by_time,
)
from unot_fast.evaluation.sweeps import Sweep, sweep
from unot_fast.evaluation.tables import (
    Table,
    cost_name,
    iterations_table,
    one_step_table,
    seconds_table,
)
from unot_fast.geometry import Grid
from unot_fast.training import train_meta_ot

TABLES = ("1", "2", "4")
PLANAR_COSTS = ("sqeuclidean", "euclidean")
_SEED = 0
_BATCH = 64  # of the times, as published
_TABLE_4_SIZE = 28
_CURVE = 50  # iterations that the figures show
_TIMED = (1, 2, 3, 5, 8, 12, 20, 30, 50)
_SWEEP_PAIRS = 32
_PLANAR_SETS = tuple(
    dict.fromkeys(s for c in map(CELLS.get, PUBLISHED_CELLS) for s in (c.source, c.target))
)
_RESOLUTIONS = range(10, 65, 6)
_COARSE_RESOLUTIONS = range(10, 65, 18)
_EPSILONS = np.geomspace(0.01, 1.0, 5).tolist()


class _Names(click.ParamType):
    """Some of a list, separated by commas."""

    name = "LIST"

    def __init__(self, known: tuple[str, ...]):
        self.known = known

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        by_lower = {k.lower(): k for k in self.known}
        given = [v.strip() for v in value.split(",") if v.strip()]
        for v in given:
            if v.lower() not in by_lower:
                self.fail(f"{v!r} is none of {', '.join(self.known)}", param, ctx)
        return tuple(dict.fromkeys(by_lower[v.lower()] for v in given))


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help=f"Folder of the image sets.  [default: what {DATA_VARIABLE} names]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Network to evaluate, with and without its correction: a name or a checkpoint; may be "
    "given several times.",
)
@click.option(
    "--meta-ot",
    "meta_ot_set",
    type=click.Choice(_PLANAR_SETS),
    help="Train the network of Meta OT on this set, at 28 x 28, and evaluate it too.",
)
@click.option("--meta-ot-budget", type=Duration(positive=True), default="3m", show_default=True)
@click.option(
    "--cells",
    type=_Names(tuple(CELLS)),
    help=f"Pairs of image sets, of {', '.join(CELLS)}.  [default: those of the plane, of the "
    "sphere, or both, by the costs of the models]",
)
@click.option(
    "--cost",
    type=click.Choice(PLANAR_COSTS),
    help="Of the plane: |x - y|^2 or |x - y|.  [default: that of the models, or sqeuclidean]",
)
@click.option("--pairs", "count", type=click.IntRange(min=1), default=500, show_default=True)
@click.option(
    "--epsilon",
    type=click.FloatRange(min=0, min_open=True),
    default=0.01,
    show_default=True,
    help="Regularisation; on the sphere ten times as much, as published.",
)
@click.option(
    "--dust",
    type=click.FloatRange(min=0),
    default=PUBLISHED_DUST,
    show_default=True,
    help="Mass added to every point of a measure of total 1.",
)
@click.option("--tables", type=_Names(TABLES), default=",".join(TABLES), show_default=True)
@click.option("--figures/--no-figures", default=True, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/evaluate"),
    show_default=True,
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]")
def command(
    data: Path | None,
    models: tuple[str, ...],
    meta_ot_set: str | None,
    meta_ot_budget: float,
    cells: tuple[str, ...] | None,
    cost: str | None,
    count: int,
    epsilon: float,
    dust: float,
    tables: tuple[str, ...],
    figures: bool,
    output: Path,
    threads: int | None,
) -> None:
    """Compare starts of the iteration by the protocol of the UNOT paper.

    Random pairs of images of each cell are solved to convergence. Then starts are measured: the
    models given, ones, Gauss (of |x - y|^2 alone) and multiscale. Of a model there is also what its
    network corrects, called MODEL without its network: sweeps on cells and their way to the grid.
    The plane has the cost that the models are for. Table 1 counts plain iterations to 1 % error of
    the transport cost, table 2 has the seconds for a batch of 64 (also to 1 % of its worst pair),
    and table 4 the error after one iteration at 28 x 28.

    The folder of image sets holds, for each set, a file or folder whose name begins with mnist,
    cifar, lfw, bear, sphere_mnist or sphere_earth: MNIST's idx files, CIFAR-10's binary version,
    pictures, or .npy and .npz arrays. Sets that are missing are reported, and their cells left out;
    so are images that are black everywhere.

    Writes report.md with all tables and, beside them, the published numbers; a .csv file for every
    table and figure; and the figures as .png.
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        folder = find_data(data)
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from error
    loaded = [_model(name) for name in models]
    costs = {starts[0].start.config.cost for starts in loaded}
    cost = cost or _planar_cost(costs)
    names = cells or _cells_of(costs)
    asked = [CELLS[n] if CELLS[n].spherical else replace(CELLS[n], cost=cost) for n in names]
    starts = [*(start for of_model in loaded for start in of_model), *_plain_starts(asked)]
    if len({start.name for start in starts}) < len(starts):
        raise click.ClickException("--model: two starts have the same name")
    setting = _Setting(folder, count, epsilon, dust)
    chosen, missing = _available(asked, setting, _resolutions(tables, figures))
    notes = [f"left out: {line}" for line in missing]
    notes += _black(chosen, folder)
    for line in notes:
        warn(line)
    if not chosen:
        raise click.ClickException(f"no cell can be evaluated with the images in {folder}")

    notes = [f"- {line}" for line in notes]
    if meta_ot_set is not None:
        start, note = _meta_ot(meta_ot_set, meta_ot_budget, setting, chosen)
        starts.insert(starts.index(ONES), start)
        notes.append(f"- {note}")
    output.mkdir(parents=True, exist_ok=True)
    steps = len(tables) + ("2" in tables)
    report = []
    with tqdm(total=len(chosen) * len(starts) * steps, unit="start", disable=None) as progress:
        for name, table in _measure(tables, chosen, starts, setting, progress):
            (output / f"{name}.csv").write_text(table.csv())
            report.append(table.markdown())
    if figures:
        report += _draw(chosen, starts, setting, output)
    header = _header(setting, chosen, starts, notes)
    (output / "report.md").write_text("\n".join([header, *report]))
    click.echo("\n".join(part for part in report if part.startswith("## Table")))
    click.echo(f"written to {output}")


@dataclass(frozen=True)
class _Setting:
    data: Path
    count: int
    epsilon: float
    dust: float

    def evaluation(self, cell: Cell, n: int | None = None, most: int | None = None) -> Evaluation:
        return _evaluation(self, cell, n or cell.n, min(self.count, most or self.count))


@functools.lru_cache(maxsize=2 * len(CELLS))
def _evaluation(setting: _Setting, cell: Cell, n: int, count: int) -> Evaluation:
    """Kept, for tables and figures share it."""
    mu, nu = pairs(cell, count, _SEED, n, setting.dust, setting.data)
    on = device("auto")
    epsilon = setting.epsilon * cell.epsilon_unit
    return Evaluation(mu.to(on), nu.to(on), cell.geometry(n), epsilon)


def _model(name: str) -> list[Start]:
    """A network as a start, and what it corrects."""
    try:
        from unot_fast.models import UNOT

        model = UNOT.from_pretrained(name)
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise click.ClickException(f"--model {name}: {error}") from error
    label = Path(name).stem if Path(name).exists() else name
    model = model.to(device("auto")).eval()
    return [Start(label, model), Start(f"{label} without its network", model.without_network())]


def _planar_cost(costs: set[str]) -> str:
    """That of the models, of which there must be one at most."""
    planar = sorted(costs & set(PLANAR_COSTS))
    if len(planar) > 1:
        raise click.ClickException(
            f"--model: networks for different costs, {' and '.join(planar)}; evaluate them apart, "
            "or say --cost"
        )
    return planar[0] if planar else PLANAR_COSTS[0]


def _cells_of(costs: set[str]) -> tuple[str, ...]:
    """Cells of the plane, of the sphere, or both: those that there are models for."""
    planar = not costs or bool(costs & set(PLANAR_COSTS))
    return tuple(
        name for name, cell in CELLS.items() if ("geodesic" in costs if cell.spherical else planar)
    )


def _plain_starts(cells: list[Cell]) -> list[Start]:
    squared = any(not cell.spherical and cell.cost == "sqeuclidean" for cell in cells)
    return [ONES, GAUSS, MULTISCALE] if squared else [ONES, MULTISCALE]


def _meta_ot(name: str, budget: float, setting: _Setting, cells: list[Cell]) -> tuple[Start, str]:
    """The network of Meta OT trained on a set, and what the report says of it."""
    n, seen = _TABLE_4_SIZE, 0
    cost = next((cell.cost for cell in cells if not cell.spherical), PLANAR_COSTS[0])
    with tqdm(total=round(budget), desc="Meta OT", unit="s", disable=None) as progress:

        def report(step: int, objective: float) -> None:
            nonlocal seen
            seen = step
            progress.update(min(round(budget), int(time.perf_counter() - begin)) - progress.n)
            progress.set_postfix(objective=f"{objective:.5f}")

        try:
            images = measures(load_set(name, setting.data), n, setting.dust).to(device("auto"))
            begin = time.perf_counter()
            model = train_meta_ot(
                images, Grid((n, n), cost), setting.epsilon, budget=budget, report=report
            )
        except (OSError, ValueError) as error:
            raise click.ClickException(f"--meta-ot {name}: {error}") from error
    same = [cell.name for cell in cells if name in (cell.source, cell.target)]
    note = (
        f"Meta OT: trained for {budget:g} s, {seen} steps of 128 pairs, on the {len(images)} "
        f"images of {name} at {n} x {n}, without targets; for this grid and epsilon alone. It "
        "predicts f, and its g is a half-step from there, which the iterations do not count."
    )
    if same:
        note += (
            f" The cells {', '.join(same)} have images of the same set: those of the training "
            "may be among those tested."
        )
    return Start("Meta OT", model), note


def _resolutions(tables: tuple[str, ...], figures: bool) -> list[int | None]:
    """At which cells are evaluated; None is their own."""
    sizes: list[int | None] = [_TABLE_4_SIZE] if set(tables) == {"4"} else [None, _TABLE_4_SIZE]
    return [None, *sizes, *_RESOLUTIONS, *_COARSE_RESOLUTIONS] if figures else sizes


def _available(
    cells: list[Cell], setting: _Setting, sizes: list[int | None]
) -> tuple[list[Cell], list[str]]:
    """The cells whose images are there and make measures, and what is wrong with the others."""
    problems = {cell: _missing(cell, setting, sizes) for cell in cells}
    lines = [f"{cell.name}: {why}" for cell, why in problems.items() if why]
    return [cell for cell, why in problems.items() if why is None], lines


def _missing(cell: Cell, setting: _Setting, sizes: list[int | None]) -> str | None:
    counts = {min(setting.count, most) for most in (setting.count, _BATCH, _SWEEP_PAIRS)}
    try:
        for n, count in itertools.product(sizes, counts):
            pairs(cell, count, _SEED, n, setting.dust, setting.data)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return str(error)
    return None


def _black(cells: list[Cell], data: Path) -> list[str]:
    """What is said of images that are never drawn."""
    names = dict.fromkeys(name for cell in cells for name in (cell.source, cell.target))
    found = {name: black_images(name, data) for name in names}
    return [
        f"{name}: {len(black)} of its images black everywhere and left out, first image {black[0]}"
        for name, black in found.items()
        if black
    ]


def _measure(
    tables: tuple[str, ...],
    cells: list[Cell],
    starts: list[Start],
    setting: _Setting,
    progress: tqdm,
) -> Iterator[tuple[str, Table]]:
    def problems(n: int | None = None, most: int | None = None):
        for cell in cells:
            progress.set_postfix_str(cell.name)
            yield cell.name, setting.evaluation(cell, n, most)

    if "1" in tables:
        yield "table_1", iterations_table(problems(), starts, tick=progress.update)
    if "2" in tables:
        for rule in ("mean", "worst"):
            batch = problems(most=_BATCH)
            table = seconds_table(batch, starts, rule=rule, tick=progress.update)
            yield f"table_2_{rule}", table
    if "4" in tables:
        same_size = problems(_TABLE_4_SIZE)
        yield "table_4", one_step_table(same_size, starts, tick=progress.update)


def _draw(cells: list[Cell], starts: list[Start], setting: _Setting, output: Path) -> list[str]:
    """Write the figures and their numbers; returns what the report says of them."""
    curves, timings, notes = {}, {}, []
    for cell in tqdm(cells, desc="curves", unit="cell", disable=None):
        evaluation = setting.evaluation(cell, most=_BATCH)
        curves[cell.name], timings[cell.name] = {}, {}
        for start in starts:
            try:
                curves[cell.name][start.name] = evaluation.relative_errors(start, _CURVE)
            except ValueError as error:
                notes.append(f"{cell.name}, {start.name}: {error}.")
                continue
            timings[cell.name][start.name] = [evaluation.time_after(start, k) for k in _TIMED]

    def swept(name: str, resolutions, epsilons) -> Sweep:
        problems = len(cells) * len(resolutions) * len(epsilons)
        with tqdm(total=problems, desc=name, unit="problem", disable=None) as progress:
            return sweep(
                cells,
                starts,
                resolutions,
                epsilons,
                count=min(setting.count, _SWEEP_PAIRS),
                seed=_SEED,
                dust=setting.dust,
                data=setting.data,
                device=device("auto"),
                tick=progress.update,
            )

    resolution = swept("resolutions", _RESOLUTIONS, [setting.epsilon])
    epsilon = swept("epsilons", _COARSE_RESOLUTIONS, _EPSILONS)
    drawn: dict[str, tuple[str, Figure, list[dict]]] = {
        "error_by_iteration": (
            "Error by iteration: mean and 10-90 % band",
            error_by_iteration(curves),
            [
                {"cell": cell, "start": start, "iteration": k, "error": float(row.nanmean())}
                for cell, of_cell in curves.items()
                for start, errors in of_cell.items()
                for k, row in enumerate(errors, 1)
            ],
        ),
        "error_by_time": (
            f"Error by time, batches of {min(setting.count, _BATCH)}, start included",
            error_by_time(timings),
            [
                {"cell": cell, "start": start, **vars(timing)}
                for cell, of_cell in timings.items()
                for start, points in of_cell.items()
                for timing in points
            ],
        ),
        "error_by_resolution": (
            "Error after one iteration by resolution",
            error_by_resolution(resolution),
            resolution.records(),
        ),
        "error_by_epsilon": (
            "Error after one iteration by resolution and epsilon, mean over cells",
            error_by_epsilon(epsilon),
            epsilon.records(),
        ),
    }
    sections = ["## Figures\n"]
    for name, (title, figure, records) in drawn.items():
        figure.savefig(output / f"{name}.png", dpi=150, bbox_inches="tight")
        _write_csv(output / f"{name}.csv", records)
        sections.append(f"![{title}]({name}.png)\n\n*{title}.*\n")
    notes += [*resolution.notes, *epsilon.notes]
    if notes:
        sections.append("\n".join(f"- {note}" for note in dict.fromkeys(notes)) + "\n")
    return sections


def _write_csv(path: Path, records: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]) if records else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def _cost_names(cells: list[Cell]) -> str:
    return " and ".join(dict.fromkeys(cost_name(cell.geometry(2)) for cell in cells))


def _header(setting: _Setting, cells: list[Cell], starts: list[Start], notes: list[str]) -> str:
    on = device("auto")
    machine = torch.cuda.get_device_name() if on.type == "cuda" else "CPU"
    lines = [
        "# Starts of Sinkhorn's iteration, by the published protocol",
        "",
        f"unot-fast {__version__}; {setting.count} random pairs per cell, seed {_SEED}; epsilon "
        f"{setting.epsilon:g}, dust {setting.dust:g}; cost {_cost_names(cells)}; {machine}, "
        f"{torch.get_num_threads()} threads. Starts: {', '.join(start.name for start in starts)}.",
        "",
        "Errors are those of the transport cost <C, P>, relative to the converged one (marginal "
        "error below 1e-7 in float64). ones: scaling v = 1. Gauss: the start of Thornton & Cuturi "
        "for the source's scaling u, as published. multiscale: that of `sinkhorn`, by default.",
        "",
    ]
    if any(cell.spherical for cell in cells):
        lines += [
            "Cells of the sphere have n circles of 2n points each, the angle between points as "
            "their cost, and ten times that epsilon: as published, where both are a tenth.",
            "",
        ]
    lines += [*notes, ""] if notes else []
    return "\n".join(lines)
