"""Whether `hazards` sees what it is for."""

import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.hazards import hazards


@triton.jit
def _shift(x, OFFSET: tl.constexpr, BARRIER: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(x + i, i)
    if BARRIER:
        tl.debug_barrier()
    y = tl.load(x + (i + OFFSET) % N)
    if BARRIER:
        tl.debug_barrier()
    tl.store(x + i, y)


@pytest.mark.parametrize(
    ("size", "offset", "barrier", "kinds"),
    [
        (256, 3, False, {"read after write", "write after read"}),
        (256, 3, True, set()),
        (256, 0, False, set()),
        (16, 0, False, {"read after write", "write after read", "write after write"}),
        (16, 0, True, set()),
    ],
)
def test_hazards_are_found(size, offset, barrier, kinds):
    _shift[(2,)](torch.zeros(size, dtype=torch.int32), offset, barrier, size)
    assert {found.partition(":")[0] for found in hazards.found} == kinds
    hazards.found.clear()
