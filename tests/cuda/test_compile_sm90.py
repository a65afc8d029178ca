"""The CUDA kernels compile for an H100 without a GPU; what is hot stays in registers."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
FLAGS = [
    *("-cubin", "-O3", "-std=c++17", "--expt-relaxed-constexpr", "-Xptxas=-v"),
    *("-gencode=arch=compute_90a,code=sm_90a", '-DARCHITECTURES="9.0a"'),
]
HOT = ("last_axis", "first_axis", "product_and_sums", "6update", "5enter")
"""Parts of the mangled names of what every iteration calls; calls save registers in the frame."""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(mangled name of a function, bytes of spill stores, of spill loads), and the binary."""
    if NVCC is None:
        pytest.skip("needs nvcc")
    cubin = tmp_path_factory.mktemp("sm90") / "kernels.cubin"
    source = ROOT / "csrc" / "cuda" / "sinkhorn_separable.cu"
    command = [NVCC, *FLAGS, str(source), f"-o={cubin}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.findall(
        r"Function properties for (\S+)\s+\d+ bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads",
        done.stderr,
    )
    return [(name, int(stores), int(loads)) for name, stores, loads in found], cubin


@pytest.mark.slow
def test_hot_functions_do_not_spill(report):
    functions, _ = report
    for part in HOT:
        own = [f for f in functions if part in f[0]]
        assert len(own) == 2, part  # for tf32 and float64
        assert all(f[1:] == (0, 0) for f in own), own
    # What runs once per problem or level may put a few numbers aside.
    assert all(max(f[1:]) <= 64 for f in functions), functions


@pytest.mark.slow
def test_products_run_on_tensor_cores(report):
    triton = pytest.importorskip("triton")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this Triton has no cuobjdump")
    code = subprocess.run([tool, "-sass", report[1]], capture_output=True, text=True).stdout
    assert "DMMA.16x8x8" in code
    assert "HMMA.1688.F32.TF32" in code
    assert "LDSM" in code
