"""Options that commands share, and what they mean to the library."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar

import click
import numpy as np
import torch

from unot_fast import Grid, OTResult, backends, sinkhorn

NOT_CONVERGED = 3  # exit code


class _Size(click.ParamType):
    name = "N|HxW"

    def convert(self, value, param, ctx):
        sides = value.lower().split("x")
        if not (1 <= len(sides) <= 2 and all(s.isdecimal() and int(s) > 0 for s in sides)):
            self.fail(f"{value!r} is neither a number of pixels nor HxW", param, ctx)
        return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


class Duration(click.ParamType):
    """Seconds, from a number with its unit."""

    name = "duration"
    _units: ClassVar = {"s": 1, "m": 60, "h": 3600}

    def __init__(self, positive: bool = False):
        self.positive = positive

    def convert(self, value, param, ctx):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", str(value))
        if match is None:
            self.fail(f"{value!r} is no duration such as 90s, 30m or 2h", param, ctx)
        seconds = float(match[1]) * self._units[match[2]]
        if self.positive and seconds == 0:
            self.fail(f"{value!r} is no time at all", param, ctx)
        return seconds


_POSITIVE = click.FloatRange(min=0, min_open=True)
_OPTIONS = (
    click.option(
        "--epsilon",
        type=_POSITIVE,
        default=0.01,
        show_default=True,
        help="Regularisation, in units of cost.",
    ),
    click.option(
        "--size", type=_Size(), help="Grid: the longest side, or height x width.  [default: 64]"
    ),
    click.option(
        "--cost",
        type=click.Choice(["sqeuclidean", "euclidean", "lp"]),
        default="sqeuclidean",
        show_default=True,
        help="|x - y|^2, |x - y|, or the sum over the axes of |x - y|^P.",
    ),
    click.option("-p", "p", type=float, help="Exponent of --cost lp, at least 1."),
    click.option(
        "--tol",
        type=_POSITIVE,
        default=1e-3,
        show_default=True,
        help="Stop at this marginal error.",
    ),
    click.option("--max-iter", type=click.IntRange(min=1), default=10_000, show_default=True),
    click.option(
        "--init",
        type=click.Choice(["multiscale", "gaussian", "zeros"]),
        default="multiscale",
        show_default=True,
        help="Start of the iteration.",
    ),
    click.option("--backend", default="auto", show_default=True, help="See `unot-fast info`."),
    click.option(
        "--dust",
        type=click.FloatRange(min=0),
        default=1e-6,
        show_default=True,
        help="Mass added to every pixel of a measure of total 1.",
    ),
    click.option("--invert", is_flag=True, help="Dark is mass: for dark drawings on light paper."),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]"),
)


@dataclass(frozen=True)
class SolverOptions:
    """What the shared options of a command were set to."""

    epsilon: float
    size: int | tuple[int, int] | None
    cost: str
    p: float | None
    tol: float
    max_iter: int
    init: str
    backend: str
    dust: float
    invert: bool
    threads: int | None

    def grid(self, shape: tuple[int, int]) -> Grid:
        """Square pixels; the longest side has length 1."""
        with library_errors():
            return Grid(shape, self.cost, p=self.p, spacing=1 / max(max(shape) - 1, 1))

    def solve(self, a: np.ndarray, b: np.ndarray, grid: Grid) -> OTResult:
        """Transport between batches of measures of total 1, shapes (B, \\*grid.shape)."""
        with library_errors():
            on = device(self.backend)
            return sinkhorn(
                torch.from_numpy(a).to(on),
                torch.from_numpy(b).to(on),
                grid,
                self.epsilon,
                init=self.init,
                tol=self.tol,
                max_iter=self.max_iter,
                backend=self.backend,
            )

    def parameters(self) -> dict:
        """Everything that a result depends on, for JSON."""
        named = asdict(self)
        del named["threads"]
        return named


def solver_options(command: Callable) -> Callable:
    """Give a command the shared options; it gets them as its argument ``options``."""

    @functools.wraps(command)
    def wrapped(**arguments):
        names = SolverOptions.__dataclass_fields__
        options = SolverOptions(**{name: arguments.pop(name) for name in names})
        if options.threads:
            torch.set_num_threads(options.threads)
        return command(options=options, **arguments)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


@contextlib.contextmanager
def library_errors() -> Iterator[None]:
    """Report what the library rejects in one line, without a traceback."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error


def device(backend: str) -> torch.device:
    """The GPU where the backend asked for runs on one, else the CPU."""
    names = ("cuda", "triton") if backend == "auto" else (backend,)
    found = (b for name, b in backends().items() if name in names)
    gpu = any(b.available and b.devices == ("cuda",) for b in found)
    return torch.device("cuda" if gpu else "cpu")


def warn(message: str) -> None:
    click.secho(f"warning: {message}", fg="yellow", err=True)
