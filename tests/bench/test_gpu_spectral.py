"""The rows of the benchmark of spectral layers, tiny and on the CPU."""

import json

import pytest
import torch

from bench import models, report
from bench.gpu import bench_spectral
from bench.gpu.ledger import LEDGER

SIZES = {"N": 12, "CHANNELS": 3, "HIDDEN": 5, "MODES": 4, "LAYERS": 2, "MLP_HIDDEN": 2}


@pytest.fixture
def on_cpu(no_device, monkeypatch):
    for name, value in SIZES.items():
        monkeypatch.setattr(bench_spectral, name, value)
    monkeypatch.setattr(bench_spectral, "DEVICE", "cpu")
    monkeypatch.setattr(bench_spectral, "BACKENDS", ("torch",))
    monkeypatch.setattr(bench_spectral, "OURS", ("unot_fast (torch)",))
    monkeypatch.setattr(bench_spectral, "machine", lambda: "NVIDIA H200")
    monkeypatch.setattr(models, "METHODS", ("neuralop eager",))
    monkeypatch.setitem(models.FNO, "hidden_channels", 4)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


def test_rows_reports_and_aims(on_cpu, tmp_path):
    file = tmp_path / "results.json"
    bench_spectral.main(["-o", str(file)])
    results = json.loads(file.read_text())
    assert not results["failed"]
    methods = {row["extra_info"]["method"] for row in results["benchmarks"]}
    assert {"spectral_mixing (torch), graph", "published (compiled), eager"} <= methods
    found = [aim.split(": ")[0].split(", ")[-1] for aim in results["aims"]]
    assert found.count("float32") == found.count("tf32") == len(bench_spectral.AIMS)
    assert found.count("bfloat16") == 1  # against memory
    text = report.markdown(results)
    assert "| published (eager), graph | tf32 |" in text
    assert f"- {results['aims'][0]}" in text


def test_every_operator_has_a_line_in_the_ledger():
    for operator in bench_spectral.OPERATORS:
        assert f"| {operator} (triton) |" in LEDGER.read_text()
