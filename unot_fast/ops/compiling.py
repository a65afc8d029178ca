"""What the package tells torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable)


def constant_when_compiled(function: F) -> F:
    """Let the compiler call ``function`` while tracing and keep its result.

    Does what ``torch.compiler.assume_constant_result`` does, without importing the compiler (and
    Triton with it) at ``import unot_fast``.
    """
    function._dynamo_marked_constant = True
    return function
