"""Every kernel compiles for an H100 without a GPU, and stays in registers."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SCRIPT = """
import json
from unot_fast.kernels.report import report
print(json.dumps([row._asdict() for row in report(quick=True)]))
"""
REGISTERS = {
    "solve_kernel": 255,
    "pass_kernel": 240,
    "row_kernel": 64,
    "column_kernel": 64,
    "image_kernel": 168,
    "first_axis_kernel": 96,
    "mixing_kernel": 192,
    "weight_kernel": 168,
    "value_kernel": 168,
    "vjp_kernel": 255,
    "gradient_kernel": 128,
    "search_kernel": 250,
}
STACK = {"vjp_kernel": 96}  # bytes; with an MLP
SHARED_MEMORY = 32 * 1024  # of 227 KB: leaves room for seven programs per multiprocessor


@pytest.mark.slow
def test_resources_on_sm90():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    assert {row["kernel"] for row in rows} == set(REGISTERS)
    for row in rows:
        assert row["stack"] <= STACK.get(row["kernel"], 0), row
        assert row["stack"] or row["spill_loads"] == row["spill_stores"] == 0, row
        assert row["registers"] <= REGISTERS[row["kernel"]], row
        assert row["shared_memory"] <= SHARED_MEMORY, row
