import json
import os
import subprocess
import sys
from pathlib import Path

SESSION = """
import torch
from bench.gpu import timing

torch.cuda.is_available = lambda: True
timing.machine = lambda: "a GPU"
timing._lost = lambda: True

def fails():
    yield {"name": "second, eager"}
    raise RuntimeError("an illegal memory access")

session = timing.Session("", None, seconds=60.0)
session.attempt("first", lambda: [{"name": "first"}])
session.attempt("second", fails)
session.attempt("third", lambda: [{"name": "third"}])
session.end()
"""


def test_a_lost_device_costs_no_other_row(tmp_path):
    (tmp_path / "session.py").write_text(SESSION)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, tmp_path / "session.py", "-o", tmp_path / "out.json"],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("ok ") == 2
    results = json.loads((tmp_path / "out.json").read_text())
    names = [row["name"] for row in results["benchmarks"]]
    assert names == ["first", "second, eager", "third"]
    assert [failure["name"] for failure in results["failed"]] == ["second"]
