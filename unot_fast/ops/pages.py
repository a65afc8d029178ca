"""Memory of results: in large pages, and large blocks of it again."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import mmap
import sys
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_HUGE = 1 << 21
_ADVICE = 14  # MADV_HUGEPAGE
_LINUX = sys.platform == "linux"
_LARGE = 1 << 22
_KEPT = 1 << 30
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU, of large pages as far as the system has them.

    The system hands out fresh memory page by page as it is first written, which for a large result
    takes as long as a part of the arithmetic. Where it does not know the advice nothing changes.
    Blocks of 4 MB and more are used again when their tensors are gone; up to 1 GB is kept.
    """
    size = math.prod(shape) * dtype.itemsize
    if _LINUX and size >= _LARGE:
        return _blocks.tensor(shape, dtype, size)
    out = torch.empty(shape, dtype=dtype, device="cpu")
    begin = -(-out.data_ptr() // _HUGE) * _HUGE
    size = (out.data_ptr() + out.nbytes) // _HUGE * _HUGE - begin
    if _LINUX and size > 0:
        _madvise()(begin, size, _ADVICE)
    return out


class _Blocks:
    """Memory that no tensor has any more."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []  # the last to come at the end
        self._lock = threading.RLock()  # tensors die at any time, in this thread or another

    def tensor(self, shape: Sequence[int], dtype: torch.dtype, size: int) -> Tensor:
        block = self._take(size)
        # Not by way of a view or of a storage in Python: autograd would think there is another
        # owner, and no longer add gradients in place.
        numbers = np.frombuffer(block, _NUMPY[dtype], math.prod(shape)).reshape(tuple(shape))
        weakref.finalize(numbers, self._give, block).atexit = False
        return torch.from_numpy(numbers)  # which it keeps as long as its storage

    def _take(self, size: int) -> mmap.mmap:
        with self._lock:
            for block in sorted((b for b in self._free if size <= len(b) <= 2 * size), key=len):
                with contextlib.suppress(ValueError):  # a death just now made it one too many
                    self._free.remove(block)
                    return block
        block = mmap.mmap(-1, -(-size // _HUGE) * _HUGE, flags=mmap.MAP_PRIVATE)
        with contextlib.suppress(OSError):
            block.madvise(_ADVICE)
        return block

    def _give(self, block: mmap.mmap) -> None:
        with self._lock:
            self._free.append(block)
            while sum(map(len, self._free)) > _KEPT:
                del self._free[0]


_blocks = _Blocks()


@functools.cache
def _madvise():
    function = ctypes.CDLL(None).madvise
    function.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return function
