import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "bench/gpu/run.sh"


def test_results_are_there_within_ten_minutes_whatever_happens():
    until_ledger, _ = SCRIPT.read_text().split('tests "network and training tests"')
    calls = re.findall(r'^\s*(?:if )?(?:stage|tests) "([\w $]+)" (\d+) ', until_ledger, re.M)
    limits = {name: int(limit) for name, limit in calls}
    assert len(limits) == 10
    deadline = int(re.search(r"^deadline=(\d+)", until_ledger, re.M)[1])
    assert sum(limits.values()) + 2 * limits["report of $file"] <= deadline <= 590


def test_a_machine_with_nothing_gets_a_summary(tmp_path):
    done = subprocess.run(
        ["bash", SCRIPT, str(tmp_path)],
        env={"PATH": "/usr/bin:/bin", "PYTHON": "/bin/false"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    summary = (tmp_path / "summary.md").read_text()
    assert "| build | FAILED: exit status 1 |" in summary
    assert "| spectral kernel tests | skipped: pytest is not installed |" in summary
    assert "| reports, ledger | skipped: no results |" in summary
    assert not (SCRIPT.parents[2] / "unot_fast/kernels").exists()


def test_benchmarks_of_a_device_need_no_test_packages():
    names = [x.stem for x in SCRIPT.parent.glob("*.py") if x.stem != "__init__"]
    code = "import sys; sys.modules['pytest'] = None\n"
    code += "".join(f"import bench.gpu.{name}\n" for name in names)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPT.parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
