"""A plugin for pytest: what threads of one program may do to each other, in Triton's interpreter.

The interpreter has no threads: it runs a program operation by operation on whole blocks. On a GPU
nothing but a barrier keeps one thread's access to memory from coming before or after another's, so
that two of them to one place, one a write, need one between them, unless they are for the same
element of equal blocks, which one thread has if there are no more threads than elements: of smaller
ones all threads have copies. Atomic operations are not looked at.
"""

import sys

import numpy as np
import pytest
from triton.runtime.interpreter import InterpreterBuilder

_MOST_THREADS = 256


class Hazards:
    """Accesses of the running program since its last barrier."""

    def __init__(self):
        self.reads, self.writes, self.found = [], [], set()

    def clear(self):
        self.reads, self.writes = [], []

    def read(self, pointers, mask):
        access = _Access(pointers, mask)
        self._compare("read after write", self.writes, access)
        self.reads.append(access)

    def write(self, pointers, mask):
        access = _Access(pointers, mask)
        self._compare("write after read", self.reads, access)
        self._compare("write after write", self.writes, access)
        if (np.diff(access.places) == 0).any():
            self.found.add(f"two elements to one place: {access.line}")
        self.writes.append(access)

    def _compare(self, kind, before, now):
        for access in before:
            if access.meets(now):
                self.found.add(f"{kind}: {access.line}, {now.line}")


class _Access:
    def __init__(self, pointers, mask):
        places, mask = (np.asarray(x.data).reshape(-1) for x in (pointers, mask))
        elements = np.flatnonzero(mask)
        order = np.argsort(places[elements], kind="stable")
        self.elements = elements[order]
        self.places = places[self.elements]
        self.shape = np.shape(pointers.data)
        self.line = _line()

    def meets(self, other):
        """Whether two threads may come to one place."""
        if not (len(self.places) and len(other.places)):
            return False
        at = np.searchsorted(self.places, other.places)
        count = np.searchsorted(self.places, other.places, side="right") - at
        alike = self.shape == other.shape and np.prod(self.shape, dtype=int) >= _MOST_THREADS
        same = self.elements[at.clip(max=len(self.places) - 1)] == other.elements
        return bool(((count > 1) | (count == 1) & ~(same & alike)).any())


def _line():
    """Of the innermost kernel."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if "triton" not in name and name != __file__:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


hazards = Hazards()


def _watched(name, before):
    original = getattr(InterpreterBuilder, name)

    def call(self, *args):
        before(*args)
        return original(self, *args)

    setattr(InterpreterBuilder, name, call)


_watched("create_masked_load", lambda pointers, mask, *_: hazards.read(pointers, mask))
_watched("create_masked_store", lambda pointers, _, mask, *__: hazards.write(pointers, mask))
_watched("create_barrier", lambda: hazards.clear())
_watched("set_grid_idx", lambda *_: hazards.clear())


@pytest.fixture(autouse=True)
def no_hazards():
    hazards.found.clear()
    yield
    assert not hazards.found
