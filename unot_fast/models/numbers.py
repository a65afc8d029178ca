"""Checks of the numbers in a configuration, which may come from a file or a command line."""

from __future__ import annotations

import math
from numbers import Integral, Real


def check_integer(name: str, value: object, *, least: int = 1) -> None:
    """Raise a ValueError that names it unless it is an integer, and large enough."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
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
