import json

import pytest

from bench import report
from bench.gpu.ledger import LEDGER, main, update


def entry(method, family, n, time, *, table="per iteration", divisor=10, **info):
    return {
        "name": method,
        "stats": {"min": time, "median": 1.5 * time, "rounds": 5},
        "extra_info": {
            "method": method,
            "family": family,
            "table": table,
            "problem": "fields",
            "n": n,
            "batch": 4,
            "timed_pairs": 4,
            "epsilon": 0.01,
            "dtype": "float64",
            "device": "cpu",
            "iterations": 10,
            "error": 1e-9,
            "error_kind": "potentials, nats",
            "divisor": divisor,
            "unit": "iteration and pair",
            "version": f"{family} 1.0",
            **info,
        },
    }


@pytest.fixture
def results():
    cell = {
        "mean to 1%": 1.1,
        "std to 1%": 0.3,
        "max to 1%": 2,
        "mean to 0.1%": 3.0,
        "std to 0.1%": 1.0,
        "max to 0.1%": 7,
        "first_error_mean": 0.004,
        "first_error_max": 0.02,
        "coarse_work": 1.8,
    }
    percent = {"table": "time to 1 %", "error": 0.008, "error_kind": "cost, relative"}
    return {
        "machine_info": {"model": "a processor", "threads": 2},
        "benchmarks": [
            *(entry("unot_fast", "unot_fast", n, 1e-8 * n**3) for n in (16, 32, 64)),
            *(entry("peer", "torch", n, 4e-8 * n**3) for n in (16, 32, 64)),
            *(entry("slow | peer", "POT", n, 1e-8 * n**4, timed_pairs=1) for n in (16, 32)),
            entry("unot_fast", "unot_fast", 64, 1e-3, **percent),
            entry("peer", "torch", 64, 2e-3, **percent),
            entry("zeros", "unot_fast", 28, 1e-2, table="iterations", **cell),
        ],
        "skipped": [{"name": "row", "reason": "not installed"}],
        "failed": [],
    }


def test_times_are_per_unit(results):
    first = report.rows(results)[0]
    assert first.time == pytest.approx(1e-8 * 16**3 / 10)
    assert first.median == pytest.approx(1.5 * first.time)


def test_the_rival_is_the_fastest_that_is_not_ours(results):
    groups = report.by_case(report.rows(results))
    group = groups["per iteration", "cpu", "fields", 16, 4, 0.01]
    assert [r.method for r in group] == ["unot_fast", "peer", "slow | peer"]
    assert report.best_rival(group).method == "peer"
    assert report.best_rival(group[:1]) is None


def test_speed_up_stands_in_the_table(results):
    text = report.markdown(results)
    ours = next(line for line in text.splitlines() if line.startswith("| **unot_fast**"))
    assert ours.rstrip(" |").endswith("4.00")
    assert "slow \\| peer (1 of the pairs)" in text
    assert "| zeros | 1.1 +- 0.3 | 2 | 3.0 +- 1.0 | 7 | 0.40%, 2.00% | 1.8 |" in text
    assert "| row | not installed |" in text


def test_exponent():
    assert report.exponent([(n, 3e-9 * n**2.5) for n in (16, 28, 64)]) == pytest.approx(2.5)
    assert report.exponent([(16, 1.0)]) is None


@pytest.mark.parametrize(
    ("value", "text"), [(2.0, "2 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 us"), (7e-10, "0.7 ns")]
)
def test_seconds(value, text):
    assert report.seconds(value) == text


def test_command_line(results, tmp_path):
    pytest.importorskip("matplotlib")
    source = tmp_path / "results.json"
    source.write_text(json.dumps(results))
    report.main([str(source), "-o", str(tmp_path / "out")])
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"report.md", *report.PLOTS}
    assert all(f"({name})" in (tmp_path / "out" / "report.md").read_text() for name in report.PLOTS)


def test_ledger_takes_the_rows_of_a_run(results):
    name, solver = "separable_lse (triton)", "sinkhorn_separable (triton)"
    kernel = {"kernel": name, "roofline_share": 0.25, "unit": "half-step and pair"}
    run = {
        "benchmarks": [entry(f"{name}, graph", "unot_fast", 64, 1e-6, **kernel)],
        "failed": [{"name": f"{solver}, n=16, B=1", "reason": "AssertionError: error"}],
        "machine_info": {"gpu": "A GPU"},
        "commit_info": {"id": "0123456789abcdef"},
    }
    text = update(LEDGER.read_text(), run)
    lse = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    assert lse == (
        "| separable_lse (triton) | kernels/separable_lse.py | 0123456789ab | A GPU | 1.0e-09 nats "
        "| "
        "100 ns per half-step and pair (n = 64, B = 4) | 25.0% | verified |"
    )
    solve = next(line for line in text.splitlines() if line.startswith(f"| {solver} |"))
    assert solve.endswith("| fails: AssertionError: error |")


def test_ledger_takes_several_results_and_their_units(tmp_path):
    rows = {"spectral_mixing (triton)": "relative", "normalise (cuda)": "masses, relative"}
    sources = []
    for name, kind in rows.items():
        row = entry(f"{name}, graph", "unot_fast", 64, 1e-6, kernel=name, error_kind=kind)
        sources.append(tmp_path / f"{name}.json")
        sources[-1].write_text(
            json.dumps(
                {
                    "benchmarks": [row],
                    "failed": [],
                    "machine_info": {"gpu": "A GPU"},
                    "commit_info": {"id": "0123456789abcdef"},
                }
            )
        )
    main([*map(str, sources), "-o", str(tmp_path / "out.md")])
    text = (tmp_path / "out.md").read_text()
    for name in rows:
        line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert "| 1.0e-09 relative |" in line
        assert line.endswith("| verified |")
