import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
FOLDER = Path(__file__).parent
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "tests.kernels.hazards"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [
        *("interpreted_solvers.py", "interpreted_layers.py", "interpreted_potentials.py"),
        "interpreted_hazards.py",
    ],
)
def test_kernels_in_the_interpreter(cases):
    """In a process of its own: functions made under the interpreter cannot be compiled."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, str(FOLDER / cases)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
    )
    print(done.stdout[-8000:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
