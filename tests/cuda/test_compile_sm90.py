"""The CUDA kernels compile for an H100 without a GPU; what is hot stays in registers."""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc" / "cuda"
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
FLAGS = [
    *("-cubin", "-O3", "-std=c++17", "--expt-relaxed-constexpr", "-Xptxas=-v"),
    *("-gencode=arch=compute_90a,code=sm_90a", '-DARCHITECTURES="9.0a"'),
]
SHARED_MEMORY = 227 * 1024
HOT = {
    "sinkhorn_separable": ("last_axis", "first_axis", "product_and_sums", "6update", "5enter"),
    "sinkhorn_stationary": ("LineProductI.Ecl", "product_and_sums", "6update", "5enter"),
}
"""Parts of the mangled names of what every iteration calls, each for tf32 and for float64."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """By source: the report of the assembler, and the binary."""
    if NVCC is None:
        pytest.skip("needs nvcc")
    folder = tmp_path_factory.mktemp("sm90")

    def run(source):
        cubin = folder / f"{source.stem}.cubin"
        command = [NVCC, *FLAGS, str(source), f"-o={cubin}"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return source.stem, (done.stderr, cubin)

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(run, sorted(CSRC.glob("sinkhorn_*.cu"))))


def functions(report):
    """(mangled name, bytes of spill stores, of spill loads)"""
    found = re.findall(
        r"Function properties for (\S+)\s+\d+ bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads",
        report,
    )
    return [(name, int(stores), int(loads)) for name, stores, loads in found]


@pytest.mark.slow
@pytest.mark.parametrize("name", HOT)
def test_hot_functions_do_not_spill(name, compiled):
    found = functions(compiled[name][0])
    for part in HOT[name]:
        own = [f for f in found if re.search(part, f[0])]
        assert len(own) == 2, part
        assert all(f[1:] == (0, 0) for f in own), own
    # What runs once per problem or level may put a few numbers aside.
    assert all(max(f[1:]) <= 64 for f in found), found


@pytest.mark.slow
@pytest.mark.parametrize("name", HOT)
def test_products_run_on_tensor_cores(name, compiled):
    triton = pytest.importorskip("triton")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this Triton has no cuobjdump")
    code = subprocess.run([tool, "-sass", compiled[name][1]], capture_output=True, text=True).stdout
    assert "DMMA.16x8x8" in code
    assert "HMMA.1688.F32.TF32" in code
    if name == "sinkhorn_separable":
        assert "LDSM" in code
