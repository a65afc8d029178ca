"""Memory grows with the number of pixels, not of pairs."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, torch, unot_fast
n = int(sys.argv[1])
a, b = torch.rand(2, n, n, dtype=torch.float64)
unot_fast.sinkhorn(a, b, unot_fast.Grid((n, n)), 0.1, normalize=True, tol=0, max_iter=1)
# not getrusage: its peak is inherited from the parent process
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_memory_is_quadratic_in_the_side():
    if not Path("/proc/self/status").exists():
        pytest.skip("reads the peak memory from Linux's /proc")

    def peak(n):
        command = [sys.executable, "-c", SCRIPT, str(n)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    small, large, larger = peak(16), peak(512), peak(1024)
    assert 3 < (larger - small) / (large - small) < 5
