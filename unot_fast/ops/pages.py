"""Fresh memory in large pages."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

_HUGE = 1 << 21
_ADVICE = 14  # MADV_HUGEPAGE
_LINUX = sys.platform == "linux"


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU, of large pages as far as the system has them.

    The system hands out fresh memory page by page as it is first written, which for a large result
    takes as long as a part of the arithmetic. Where it does not know the advice nothing changes.
    """
    out = torch.empty(shape, dtype=dtype)
    begin = -(-out.data_ptr() // _HUGE) * _HUGE
    size = (out.data_ptr() + out.nbytes) // _HUGE * _HUGE - begin
    if _LINUX and size > 0:
        _madvise()(begin, size, _ADVICE)
    return out


@functools.cache
def _madvise():
    function = ctypes.CDLL(None).madvise
    function.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return function
