"""The rows of the benchmark of potentials, tiny and on the CPU."""

import json

import pytest

from bench import report
from bench.gpu import bench_potentials
from bench.gpu.ledger import LEDGER


@pytest.fixture
def on_cpu(no_device, monkeypatch):
    for name, value in {"DIMS": (3,), "POINTS": 50, "FIT": 5, "DEVICE": "cpu"}.items():
        monkeypatch.setattr(bench_potentials, name, value)
    monkeypatch.setattr(bench_potentials, "BACKENDS", ("torch",))
    monkeypatch.setattr(bench_potentials, "machine", lambda: "NVIDIA H200")
    bench_potentials._fitted.cache_clear()


def test_rows_reports_and_aims(on_cpu, tmp_path):
    file = tmp_path / "results.json"
    bench_potentials.main(["-o", str(file)])
    results = json.loads(file.read_text())
    assert not results["failed"]
    methods = {row["extra_info"]["method"] for row in results["benchmarks"]}
    assert methods == {
        "potential_gradient (torch), eager",
        "potential_gradient (torch), graph",
        "c_transform (torch), eager",
        "published loop, eager",
    }
    assert len(results["aims"]) == 1
    assert f"- {results['aims'][0]}" in report.markdown(results)


def test_both_operators_have_a_line_in_the_ledger():
    for operator in (bench_potentials.GRADIENT, bench_potentials.SEARCH):
        assert f"| {operator} (triton) |" in LEDGER.read_text()
