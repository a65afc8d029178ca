"""Tables and plots of benchmark results: ``python -m bench.report results.json -o DIR``."""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

OURS = "unot_fast"


@dataclass(frozen=True)
class Row:
    """One result: ``time`` and ``median`` are seconds per unit; ``info`` is what was recorded."""

    time: float
    median: float
    info: dict

    @property
    def ours(self) -> bool:
        return self.info["family"] == OURS

    @property
    def method(self) -> str:
        return self.info["method"]

    @property
    def case(self) -> tuple:
        """What rows must share to be compared."""
        i = self.info
        return i["table"], i["device"], i["problem"], i["n"], i["batch"], i["epsilon"]


def rows(results: dict) -> list[Row]:
    """Rows of a results file; times are the best of the repetitions, per unit of work."""
    out = []
    for entry in results["benchmarks"]:
        info = entry["extra_info"]
        divisor = info["divisor"]
        stats = entry["stats"]
        out.append(Row(stats["min"] / divisor, stats["median"] / divisor, info))
    return out


def by_case(results: Iterable[Row]) -> dict[tuple, list[Row]]:
    """Comparable rows together, the fastest first."""
    cases = defaultdict(list)
    for row in results:
        cases[row.case].append(row)
    return {case: sorted(group, key=lambda r: r.time) for case, group in sorted(cases.items())}


def best_rival(group: Iterable[Row]) -> Row | None:
    """The fastest row that is not ours."""
    return min((r for r in group if not r.ours), key=lambda r: r.time, default=None)


def exponent(points: Iterable[tuple[int, float]]) -> float | None:
    """Least-squares slope of log time against log n, from two points on."""
    pairs = [(math.log(n), math.log(t)) for n, t in points]
    if len({x for x, _ in pairs}) < 2:
        return None
    mean_x = sum(x for x, _ in pairs) / len(pairs)
    mean_y = sum(y for _, y in pairs) / len(pairs)
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread


def seconds(value: float) -> str:
    """A time with three significant digits and its unit."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def markdown(results: dict, plots: Iterable[str] = ()) -> str:
    """The report as Markdown."""
    table = rows(results)
    parts = ["# Benchmarks", "", *_machine(results, table)]
    parts += [
        "Times are the best of the repetitions. *Speed-up* is the time of the fastest method that "
        "is not ours, divided by the row's; rows whose error exceeds the tolerance have no time.",
        "",
    ]
    if results.get("aims"):
        parts += ["## Aims", "", *(f"- {line}" for line in results["aims"]), ""]
    parts += [f"![{Path(name).stem}]({name})\n" for name in plots]
    iterations = [r for r in table if r.info["table"] == "iterations"]
    for case, group in by_case(r for r in table if r.info["table"] != "iterations").items():
        parts += _comparison(case, group)
    if iterations:
        parts += _iterations(iterations)
    for kind in ("failed", "skipped"):
        entries = results.get(kind, [])
        if entries:
            parts += [f"## Rows {kind}", "", "| row | reason |", "|---|---|"]
            parts += [f"| {_cell(e['name'])} | {_cell(e['reason'])} |" for e in entries]
            parts.append("")
    return "\n".join(parts)


def _machine(results: dict, table: list[Row]) -> list[str]:
    info = results.get("machine_info", {})
    known = [f"{k}: {info[k]}" for k in ("model", "gpu", "threads", "bench_size") if k in info]
    versions = sorted({r.info["version"] for r in table if "version" in r.info})
    commit = results.get("commit_info", {}).get("id")
    lines = [*known, "versions: " + ", ".join(versions)]
    if commit:
        lines.append(f"commit: {commit[:12]}")
    return [f"- {line}" for line in lines] + [""]


def _comparison(case: tuple, group: list[Row]) -> list[str]:
    table, device, problem, n, batch, epsilon = case
    rival = best_rival(group)
    title = f"## {table}: {problem}, n = {n}, B = {batch}, epsilon = {epsilon:g}, {device}"
    roofline = any("roofline_share" in r.info for r in group)
    head = ["method", "dtype", "iterations", f"error ({group[0].info['error_kind']})"]
    head += [f"time per {group[0].info['unit']}", "median", "speed-up"]
    head += ["of the roofline"] if roofline else []
    lines = [title, "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in group:
        i = r.info
        name = f"**{r.method}**" if r.ours else r.method
        if i.get("timed_pairs", batch) != batch:
            name += f" ({i['timed_pairs']} of the pairs)"
        cells = [name, i["dtype"], f"{i['iterations']:g}", f"{i['error']:.1e}"]
        cells += [seconds(r.time), seconds(r.median)]
        cells.append("" if rival is None else f"{rival.time / r.time:.2f}")
        if roofline:
            cells.append(f"{i['roofline_share']:.1%}" if "roofline_share" in i else "")
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return [*lines, ""]


def _iterations(table: list[Row]) -> list[str]:
    lines = [
        "## Iterations per pair, by start",
        "",
        "| pairs | start, weight | to 1 % | most | to 0.1 % | most | error after one: mean, worst "
        "| coarse work | time per pair, all to 0.1 % |",
        "|" + "---|" * 9,
    ]
    for r in table:
        i = r.info
        cells = [i["problem"], r.method]
        for target in ("1%", "0.1%"):
            cells.append(f"{i[f'mean to {target}']:.1f} +- {i[f'std to {target}']:.1f}")
            cells.append(str(i[f"max to {target}"]))
        cells.append(f"{i['first_error_mean']:.2%}, {i['first_error_max']:.2%}")
        cells += [f"{i['coarse_work']:.1f}", seconds(r.time)]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def plot_scaling(table: list[Row], path: Path) -> bool:
    """Time per iteration and pair against n, one panel per batch; False where there is none."""
    from matplotlib.figure import Figure

    lines = defaultdict(lambda: defaultdict(list))
    for r in table:
        if r.info["table"] == "per iteration":
            lines[r.info["batch"]][r.method, r.ours].append((r.info["n"], r.time))
    if not lines:
        return False
    methods = sorted({m for panel in lines.values() for m in panel}, key=lambda m: (not m[1], m))
    figure = Figure(figsize=(6.5 * len(lines), 7.5), layout="constrained")
    panels = figure.subplots(1, len(lines), squeeze=False)[0]
    for panel, (batch, curves) in zip(panels, sorted(lines.items()), strict=True):
        for index, key in enumerate(methods):
            points = sorted(curves.get(key, []))
            if not points:
                continue
            slope = exponent(points)
            label = key[0] if slope is None else f"{key[0]}: $n^{{{slope:.1f}}}$"
            panel.loglog(
                *zip(*points, strict=True), label=label, color=_colour(index, key[1]),
                marker="os^Dv"[index % 5], lw=3 if key[1] else 1.5, zorder=3 if key[1] else 2,
            )  # fmt: skip
        sizes = sorted({n for points in curves.values() for n, _ in points})
        panel.set_xticks(sizes, [str(n) for n in sizes])
        panel.minorticks_off()
        panel.set_xlabel("n (grid of n x n)")
        panel.set_ylabel("seconds per iteration and pair")
        panel.set_title(f"B = {batch}")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.savefig(path, dpi=120)
    return True


def plot_iterations(table: list[Row], path: Path) -> bool:
    """Iterations to 1 % of every start, mean and standard deviation per pair of data sets."""
    from matplotlib.figure import Figure

    table = [r for r in table if r.info["table"] == "iterations"]
    if not table:
        return False
    cells = list(dict.fromkeys(r.info["problem"] for r in table))
    starts = list(dict.fromkeys(r.method for r in table))
    figure = Figure(figsize=(2.2 + 1.9 * len(cells), 5.5), layout="constrained")
    axes = figure.subplots()
    width = 0.86 / len(starts)
    for index, start in enumerate(starts):
        chosen = [r for r in table if r.method == start]
        x = [cells.index(r.info["problem"]) + (index + 0.5) * width - 0.43 for r in chosen]
        mean = [r.info["mean to 1%"] for r in chosen]
        # On a logarithmic axis a deviation is drawn upwards only.
        deviation = [[0.0] * len(chosen), [r.info["std to 1%"] for r in chosen]]
        bars = axes.bar(
            x, mean, width * 0.92, yerr=deviation, label=start, capsize=2, color=f"C{index}",
            error_kw={"lw": 1, "alpha": 0.6},
        )  # fmt: skip
        axes.bar_label(bars, [f"{m:.3g}" for m in mean], fontsize=7, label_type="center")
    axes.set_yscale("log")
    axes.set_ylim(0.7)
    axes.set_xticks(range(len(cells)), cells)
    axes.set_ylabel("iterations to 1 % (mean, + standard deviation)")
    axes.legend(ncols=3, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=120)
    return True


def plot_to_percent(table: list[Row], path: Path) -> bool:
    """Time per pair until every pair is within 1 %, one panel per problem."""
    from matplotlib.figure import Figure

    cases = by_case(r for r in table if r.info["table"] == "time to 1 %")
    if not cases:
        return False
    heights = [len(group) + 2 for group in cases.values()]
    figure = Figure(figsize=(9.5, 0.33 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(cases), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (case, group) in zip(panels, cases.items(), strict=True):
        group = group[::-1]
        bars = panel.barh(
            [r.method for r in group], [r.time for r in group],
            color=["#c0392b" if r.ours else "#9fb3c8" for r in group],
        )  # fmt: skip
        labels = [f"{seconds(r.time)}, error {r.info['error']:.1%}" for r in group]
        panel.bar_label(bars, labels, fontsize=8, padding=3)
        panel.set_xscale("log")
        low, high = group[-1].time, group[0].time
        panel.set_xlim(low / 2, high * 12)
        panel.tick_params(axis="y", labelsize=8)
        panel.set_title(f"{case[2]}, n = {case[3]}, B = {case[4]}, {case[1]}", fontsize=10)
    panels[-1].set_xlabel("seconds per pair until the worst pair is within 1 %")
    figure.savefig(path, dpi=120)
    return True


def _colour(index: int, ours: bool) -> str:
    return "#c0392b" if ours else f"C{index % 10}" if index % 10 != 3 else "black"


PLOTS = {
    "time_per_iteration.png": plot_scaling,
    "time_to_1_percent.png": plot_to_percent,
    "iterations_to_1_percent.png": plot_iterations,
}


def write(results: dict, directory: Path) -> list[Path]:
    """Write ``report.md`` and the plots; without matplotlib, the report alone says so."""
    directory.mkdir(parents=True, exist_ok=True)
    table, made = rows(results), []
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        results = {**results, "skipped": [*results.get("skipped", []), _NO_PLOTS]}
    else:
        made = [name for name, plot in PLOTS.items() if plot(table, directory / name)]
    report = directory / "report.md"
    report.write_text(markdown(results, made))
    return [report, *(directory / name for name in made)]


_NO_PLOTS = {"name": "plots", "reason": "matplotlib is not installed"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("results", type=Path, help="JSON of pytest-benchmark or of bench.gpu")
    parser.add_argument("-o", "--output", type=Path, required=True, help="directory")
    options = parser.parse_args(arguments)
    for path in write(json.loads(options.results.read_text()), options.output):
        print(path)


if __name__ == "__main__":
    main()
