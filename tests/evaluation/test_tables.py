import csv
import io

import pytest
import torch

from tests.conftest import normalised
from unot_fast import Grid, Sphere
from unot_fast.evaluation import GAUSS, MULTISCALE, ONES, Evaluation, Start
from unot_fast.evaluation.figures import (
    error_by_epsilon,
    error_by_iteration,
    error_by_resolution,
    error_by_time,
)
from unot_fast.evaluation.sweeps import Sweep
from unot_fast.evaluation.tables import (
    PUBLISHED_ITERATIONS,
    PUBLISHED_ONE_STEP,
    iterations_table,
    one_step_table,
    seconds_table,
    stages_table,
)
from unot_fast.models import Generator

STARTS = [ONES, GAUSS, MULTISCALE]


@pytest.fixture(scope="module")
def problems():
    torch.manual_seed(1)
    x = normalised(torch.rand(2, 5, 8, 8, dtype=torch.float64) ** 3, dust=1e-4)
    return {"MNIST": Evaluation(*x, Grid((8, 8)), 0.02), "ball": Evaluation(*x, Sphere(8, 8), 0.2)}


def records(table):
    return list(csv.DictReader(io.StringIO(table.csv())))


def test_published_numbers():
    assert PUBLISHED_ITERATIONS["LFW"] == {"UNOT": "7 ± 8", "ones": "78 ± 20", "Gauss": "35 ± 14"}
    assert PUBLISHED_ONE_STEP["Bears"]["MetaOT"] == "11.8 ± 8.3"


def test_iterations(problems):
    ticks = []
    table = iterations_table(problems.items(), STARTS, tick=lambda: ticks.append(1))
    assert len(ticks) == 6
    count = problems["MNIST"].iterations_to(ONES)
    first = records(table)[0]
    assert (first["cell"], first["start"]) == ("MNIST", "ones")
    assert float(first["mean"]) == float(count.mean())
    assert float(first["std"]) == pytest.approx(float(count.std()))
    assert table.rows["ball"]["Gauss"] == "–"  # noqa: RUF001
    text = table.markdown()
    assert text.startswith("## Table 1: iterations to 1 % error; cost |x - y|^2 and angle\n")
    assert "ball, Gauss: the Gaussian start needs the squared Euclidean cost" in text
    measured, published = text.split("**Published, not measured here** (500 pairs):")
    assert "| 7 ± 8 |" in published
    assert "| 7 ± 8 |" not in measured


def test_published_numbers_stand_beside_their_cost_alone(problems):
    same = problems["MNIST"]
    other = Evaluation(same.mu, same.nu, Grid((8, 8), "euclidean"), 0.1)
    for build in (iterations_table, one_step_table, seconds_table):
        text = build([("MNIST", other)], [ONES, MULTISCALE]).markdown()
        assert text.partition("\n")[0].endswith("; cost |x - y|")
        assert "Published" not in text


def test_misses_and_missing_references_are_said(problems):
    table = iterations_table([("MNIST", problems["MNIST"])], [ONES], most=1)
    assert table.rows["MNIST"]["ones"] == "5 missed"
    hard = problems["MNIST"]
    unsolved = Evaluation(hard.mu, hard.nu, hard.geom, 0.02, max_iter=1)
    table = one_step_table([("MNIST", unsolved)], [ONES])
    assert "MNIST: 5 of 5 pairs left out, whose reference did not converge" in table.markdown()
    assert records(table)[0]["unconverged"] == "5"


def test_one_step(problems):
    table = one_step_table(problems.items(), STARTS)
    assert list(table.rows) == ["ones", "Gauss", "multiscale"]  # starts are rows
    errors = 100 * problems["MNIST"].relative_errors(ONES, 1)
    expected = f"{float(errors.mean()):.1f} ± {float(errors.std()):.1f}"
    assert table.rows["ones"]["MNIST"] == expected


def test_seconds(problems):
    table = seconds_table(problems.items(), STARTS, rule="worst", repeats=1)
    got = {(r["cell"], r["start"]): r for r in records(table)}
    assert float(got["MNIST", "Gauss"]["worst_error"]) < 0.01
    ratio = float(got["MNIST", "ones"]["seconds"]) / float(got["MNIST", "Gauss"]["seconds"])
    assert float(got["MNIST", "Gauss"]["speed_up"]) == pytest.approx(ratio)
    assert got["MNIST", "ones"]["speed_up"] == ""
    assert f"{ratio:.2g} x" in table.rows["MNIST"]["Gauss"]
    table = seconds_table([("MNIST", problems["MNIST"])], STARTS, most=1, repeats=1)
    assert table.rows["MNIST"]["ones"] == "missed"
    with pytest.raises(ValueError, match="rule must be"):
        seconds_table([], STARTS, rule="median")


def test_stages():
    stages = []
    for k in range(2):
        generator = Generator(n=16, noise=4, hidden=8).eval()
        stages.append((f"{k}0%", generator, lambda m, n, geom, epsilon, k=k: 0.1 * k * n))

    def zero(m, n, geom, epsilon):
        return torch.zeros_like(n)

    table = stages_table(stages, zero, n=12, count=3, epsilon=0.05)
    assert list(table.rows) == ["at generation", "end of training"]
    assert list(table.rows["at generation"]) == ["00%", "10%"]
    assert table.rows["at generation"]["00%"] == table.rows["end of training"]["00%"]
    again = stages_table(stages, n=12, count=3, epsilon=0.05)
    assert again.rows["at generation"] == table.rows["at generation"]
    with pytest.raises(ValueError, match="stages must not be empty"):
        stages_table([])


def test_figures(problems, tmp_path):
    pytest.importorskip("matplotlib")
    on_grid = {"MNIST": problems["MNIST"]}
    starts = [*STARTS, Start("network", lambda m, n, geom, epsilon: torch.zeros_like(n))]
    curves = {c: {s.name: e.relative_errors(s, 3) for s in starts} for c, e in on_grid.items()}
    curves["MNIST"]["ones"][:, 0] = float("nan")  # a pair without a reference
    times = {
        c: {s.name: [e.time_after(s, k, repeats=1) for k in (1, 2)] for s in starts}
        for c, e in on_grid.items()
    }
    names = ["ones", "network"]
    swept = Sweep(names, ["MNIST", "ball"], [8, 9, 10], [0.1, 1.0], torch.rand(2, 2, 3, 2))
    figures = [error_by_iteration(curves), error_by_time(times)]
    figures += [error_by_resolution(swept), error_by_epsilon(swept)]
    for k, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{k}.png", dpi=40)
    assert len(figures[0].axes[0].lines) == len(starts) + 1  # and the target
    assert [ax.get_title() for ax in figures[2].axes] == names
