"""The cases of the CUDA kernels in the emulator: in processes of their own, where it is "cuda"."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("cases.py")
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
FLAGS = ["-x", "c++", "-std=c++17", "-U_FORTIFY_SOURCE", "-fPIC", "-shared"]
WARNINGS = ["-Wall", "-Wno-unknown-pragmas", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "--param", "asan-stack=0", "-fno-sanitize=vptr"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs g++ on Linux"),
]


def build(library, *flags):
    sources = sorted(map(str, (ROOT / "csrc" / "cuda").glob("*.cu")))
    subprocess.run([COMPILER, *FLAGS, *flags, *sources, "-o", str(library)], check=True)


def run(library, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES), *arguments],
        env=os.environ | {"UNOT_FAST_EMULATOR": str(library)} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    print(done.stdout[-8000:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]


def test_kernels_in_the_emulator(tmp_path):
    build(tmp_path / "emulator.so", "-O2", *WARNINGS)
    run(tmp_path / "emulator.so")


def test_kernels_under_sanitizers(tmp_path):
    """No access beyond a tensor or the scratch, no undefined arithmetic."""
    libraries = [
        subprocess.check_output([COMPILER, f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(path).is_absolute() for path in libraries):
        pytest.skip("this compiler has no sanitizers")
    build(tmp_path / "sanitized.so", "-O1", *SANITIZERS)
    run(
        tmp_path / "sanitized.so",
        *("-k", "n4-m4 or n3-m3 or pyramid_in or log_sum or normalise or in_clusters"),
        LD_PRELOAD=" ".join(libraries),
        ASAN_OPTIONS="detect_leaks=0,alloc_dealloc_mismatch=0",
        UBSAN_OPTIONS="halt_on_error=1",
    )
