"""What the package tells torch.compile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch

F = TypeVar("F", bound=Callable)


def constant_when_compiled(function: F) -> F:
    """Let the compiler call ``function`` while tracing and keep its result.

    Does what ``torch.compiler.assume_constant_result`` does, without importing the compiler (and
    Triton with it) at ``import unot_fast``.
    """
    function._dynamo_marked_constant = True
    return function


class _Kept:
    """Objects that compiled graphs were made with, by their names."""


_kept = _Kept()


def constant_object_when_compiled(function: F) -> F:
    """`constant_when_compiled` for a function that returns an object, or a list of them.

    The compiler accepts objects only where it can tell their place, so that they are kept in one.
    """

    @constant_when_compiled
    def keep(*args) -> str:
        made = function(*args)
        name = f"{function.__name__}_{id(made)}"
        setattr(_kept, name, made)
        return name

    @functools.wraps(function)
    def call(*args):
        return getattr(_kept, keep(*args)) if torch.compiler.is_compiling() else function(*args)

    return call
