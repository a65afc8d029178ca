"""Options and bookkeeping of the benchmark session."""

from __future__ import annotations

import os
from pathlib import Path

# Read by the OpenMP runtime when it starts: spinning threads ruin timings on a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

from bench.machine import cpu_model

# Denormals in exp(-C / epsilon) slow the peers' float32 products by an order of magnitude. Worker
# threads inherit the mode from the thread that starts them, so it is set before there are any.
torch.set_flush_denormal(True)

_missing: dict[str, list[dict[str, str]]] = {"skipped": [], "failed": []}


def pytest_addoption(parser):
    parser.addoption(
        "--bench-size",
        choices=("small", "full"),
        default="small",
        help="small: some minutes on two cores; full: every size, batch and peer",
    )


def pytest_collect_file(file_path: Path, parent):
    if file_path.match("bench_*.py") and not parent.session.isinitpath(file_path):
        return pytest.Module.from_parent(parent, path=file_path)
    return None


def pytest_runtest_logreport(report):
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        _missing["skipped"].append({"name": report.nodeid.split("::")[-1], "reason": reason})
    elif report.failed:
        lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
        reason = lines[0][1:].strip() if lines else "see the log"
        _missing["failed"].append({"name": report.nodeid.split("::")[-1], "reason": reason})


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["model"] = cpu_model()
    machine_info["threads"] = torch.get_num_threads()
    machine_info["torch"] = torch.__version__
    machine_info["bench_size"] = config.getoption("--bench-size")


def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json.update(_missing)


@pytest.fixture(scope="session")
def size(request) -> str:
    return request.config.getoption("--bench-size")
