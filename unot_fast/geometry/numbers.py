"""Checks of numbers that are passed, which may be numpy's, or come from a file."""

from __future__ import annotations

import math
from numbers import Integral, Real


def is_integer(value: object, least: int = 1) -> bool:
    """Whether it is an integer, and large enough."""
    return isinstance(value, int | Integral) and not isinstance(value, bool) and value >= least


def is_size(value: object) -> bool:
    """Whether it is a finite number that is not negative."""
    real = isinstance(value, int | float | Real) and not isinstance(value, bool)
    return real and 0 <= value < math.inf


def check_integer(name: str, value: object, *, least: int = 1) -> None:
    """Raise a ValueError that names it unless it is an integer, and large enough."""
    if not is_integer(value, least):
        raise ValueError(f"{name} must be an integer >= {least}; got {value!r}")


def check_integers(name: str, value: object, count: int, *, least: int = 1) -> None:
    """The same for a tuple or list of so many integers."""
    if not isinstance(value, (tuple, list)) or len(value) != count:
        raise ValueError(f"{name} must be {count} integers; got {value!r}")
    for one in value:
        check_integer(name, one, least=least)


def check_number(
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Raise a ValueError that names it unless it is a finite number within these bounds."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number; got {value!r}")
    if not (least <= value and above < value < below):
        given = ((">=", least), (">", above), ("<", below))
        bounds = " and ".join(f"{sign} {x:g}" for sign, x in given if math.isfinite(x))
        raise ValueError(f"{name} must be {bounds}; got {value!r}")
