import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("cases.py")
FLAGS = ["-x", "c++", "-O2", "-std=c++17", "-U_FORTIFY_SOURCE", "-fPIC", "-shared"]
WARNINGS = ["-Wall", "-Wno-unknown-pragmas", "-Werror"]


@pytest.mark.slow
def test_kernels_in_the_emulator(tmp_path):
    """In a process of its own, where the backend "cuda" is the emulator."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs g++ on Linux")
    library = tmp_path / "emulator.so"
    sources = sorted(map(str, (ROOT / "csrc" / "cuda").glob("*.cu")))
    subprocess.run([compiler, *FLAGS, *WARNINGS, *sources, "-o", str(library)], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)],
        env=os.environ | {"UNOT_FAST_EMULATOR": str(library)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    print(done.stdout[-8000:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
