"""The rows of the benchmark of solves, tiny: tests/cuda/test_emulator.py runs this."""

import json

import pytest
import torch

pytest.importorskip("triton")

from bench import peers, report
from bench.gpu import bench_sinkhorn, timing
from bench.gpu.ledger import LEDGER

SIZES = {
    "FIRST": (48, 2), "SIZES": (9,), "BATCHES": (2,), "STATIONARY": ((9,), (1,)),
    "RIVALS": ((9,), (1,)), "PHOTOGRAPHS": (1,), "LIMITS": {1: 60e-6, 3: 0.3e-6},
    "FIELDS": (20, 2), "ITERATIONS": 2, "DEVICE": "cpu",
}  # fmt: skip


@pytest.fixture
def on_cpu(no_device, monkeypatch):
    for name, value in SIZES.items():
        monkeypatch.setattr(bench_sinkhorn, name, value)
    monkeypatch.setattr(bench_sinkhorn, "machine", lambda: "NVIDIA H200")
    monkeypatch.setattr(bench_sinkhorn, "times", timing.times)
    monkeypatch.setattr(bench_sinkhorn, "_cell", lambda name: bench_sinkhorn._fields(48, 2))
    monkeypatch.setattr(peers.GeomLossGrid, "check", missing)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


def missing(self):
    raise peers.Unavailable("not here")


def test_rows_reports_and_aims(on_cpu, tmp_path):
    file = tmp_path / "results.json"
    bench_sinkhorn.main(["-o", str(file)])
    results = json.loads(file.read_text())
    assert not results["failed"]
    kernels = {row["extra_info"].get("kernel") for row in results["benchmarks"]} - {None}
    assert len(kernels) == 7
    for kernel in kernels:
        assert f"| {kernel} |" in LEDGER.read_text()
    aims = results["aims"]
    assert len(aims) == 3 + 2
    assert "torch separable logsumexp, compiled float32 250 us: 1.0 x, aim 20 x" in aims[1]
    assert all(f"- {aim}" in report.markdown(results) for aim in aims)
