"""What is measured of a start: errors by iteration, iterations and seconds to an error."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unot_fast.evaluation.starts import Start
from unot_fast.geometry import Geometry, Grid, Sphere, Structure
from unot_fast.solver import OTResult, sinkhorn

TARGET = 0.01  # relative error of the cost
_CHUNK = 64  # pairs that a network sees at once


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation over pairs, and how many pairs they leave out.

    Attributes
    ----------
    mean, std : float
        NaN where no pair is left; of a single one the deviation is 0.
    missed : int
        Pairs that have no value: they did not reach the target.
    unconverged : int
        Pairs whose reference did not converge.
    """

    mean: float
    std: float
    missed: int
    unconverged: int

    @classmethod
    def of(cls, values: Tensor) -> Statistics:
        """Of one value per pair: infinite where it was missed, NaN where there is no reference."""
        counted = values[values.isfinite()].double()
        std = float(counted.std()) if len(counted) > 1 else 0.0 * len(counted)
        mean = float(counted.mean()) if len(counted) else math.nan
        return cls(mean, std, int(values.isinf().sum()), int(values.isnan().sum()))


@dataclass(frozen=True)
class Timing:
    """A solve of the whole batch with a fixed number of iterations.

    Attributes
    ----------
    iterations : int
    seconds : float
        Everything, from the measures to the cost: the start, be it a network, and the iterations.
    start_seconds : float
        What the start took of them. Of one that the solver knows by name it is what a solve from
        zeros with as many iterations takes less.
    mean_error, worst_error : float
        Of the cost, over the batch.
    """

    iterations: int
    seconds: float
    start_seconds: float
    mean_error: float
    worst_error: float


class Evaluation:
    """A batch of problems, their converged costs, and measurements of starts against them.

    An iteration is plain, without overrelaxation, and updates both potentials; iterations are
    counted from 1, and the one-step error is that after the first.

    Parameters
    ----------
    mu, nu : Tensor, shapes (B, \\*geom.shape) and (B, \\*geom.target_shape)
        Masses of total 1.
    geom : Geometry
    epsilon : float
    tol : float
        Marginal error at which the reference has converged.
    max_iter : int
        Most iterations of the reference.

    Attributes
    ----------
    cost : Tensor, shape (B,), float64
        Converged transport costs <C, P>; NaN where the reference did not converge, and so is
        every error of that pair.
    converged : Tensor of bool, shape (B,)

    Examples
    --------
    >>> import torch
    >>> from unot_fast import Grid
    >>> from unot_fast.evaluation import ONES, Evaluation, measures
    >>> mu, nu = measures(torch.rand(8, 28, 28), 16).chunk(2)
    >>> evaluation = Evaluation(mu, nu, Grid((16, 16)), 0.01)
    >>> evaluation.relative_errors(ONES, iterations=5).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        mu: Tensor,
        nu: Tensor,
        geom: Geometry,
        epsilon: float,
        *,
        tol: float = 1e-7,
        max_iter: int = 50_000,
    ):
        self.mu, self.nu, self.geom, self.epsilon = mu.double(), nu.double(), geom, epsilon
        reference = sinkhorn(self.mu, self.nu, geom, epsilon, tol=tol, max_iter=max_iter)
        self.converged = reference.converged
        self.cost = reference.cost.masked_fill(~self.converged, math.nan)
        self._potentials: dict[Start, Tensor] = {}

    @property
    def unconverged(self) -> int:
        """Pairs without a reference."""
        return int((~self.converged).sum())

    def relative_errors(self, start: Start, iterations: int) -> Tensor:
        """Relative errors of the cost after 1, 2, ... iterations, shape (iterations, B)."""
        return torch.stack([self._error(r) for r in self._iterate(start, iterations)])

    def marginal_violations(self, start: Start, iterations: int) -> Tensor:
        r"""Those of the plan, :math:`(|P^\top 1 - \nu|_1 + |P 1 - \mu|_1) / 2`, shape as before."""
        return torch.stack([r.marginal_error / 2 for r in self._iterate(start, iterations)])

    def coarse_work(self, start: Start) -> Tensor:
        """Arithmetic of a start on coarser grids, in iterations on the grid, shape (B,)."""
        return next(self._iterate(start, 1)).coarse_work

    def iterations_to(self, start: Start, target: float = TARGET, most: int = 1000) -> Tensor:
        """First iteration after which the cost's relative error is below ``target``, shape (B,).

        Infinite where ``most`` iterations do not reach it, NaN where there is no reference.
        """
        count = torch.full_like(self.cost, math.nan)
        left = self.converged.nonzero()[:, 0]  # those not yet there
        count[left] = math.inf
        a, b, geom, init = self._from(start)
        for k in range(1, most + 1):
            if k == 1:
                result = _plain(a, b, geom, self.epsilon, init, 1)
                error, g = self._error(result)[left], result.g[left]
            else:
                result = _plain(a[left], b[left], geom, self.epsilon, g, 1, validate=False)
                error, g = (result.cost / self.cost[left] - 1).abs(), result.g
            reached = error < target
            count[left[reached]] = k
            left, g = left[~reached], g[~reached]
            if len(left) == 0:
                break
        return count

    def time_after(
        self,
        start: Start,
        iterations: int,
        *,
        repeats: int = 3,
        dtype: torch.dtype = torch.float32,
    ) -> Timing:
        """Seconds that the batch takes for a start and so many iterations, the best of repeats."""
        seconds, start_seconds = [], []
        for _ in range(repeats + 1):  # once more, to warm up
            clock = _Clock(start, self.geom) if callable(start.start) else start.start
            result, spent = self._timed(start, clock, iterations, dtype)
            seconds.append(spent)
            if isinstance(clock, _Clock):
                start_seconds.append(clock.seconds)
            elif isinstance(clock, str):
                zeros = Start("zeros", "zeros", start.side)
                start_seconds.append(self._timed(zeros, "zeros", iterations, dtype)[1])
        best, own = min(seconds), min(start_seconds, default=0.0)
        if isinstance(start.start, str):
            own = max(best - own, 0.0)
        error = self._error(result)[self.converged]
        return Timing(iterations, best, own, float(error.mean()), float(error.max()))

    def time_to(
        self,
        start: Start,
        target: float = TARGET,
        *,
        rule: str = "mean",
        most: int = 1000,
        repeats: int = 3,
        dtype: torch.dtype = torch.float32,
    ) -> Timing | None:
        """Time of the fewest iterations that bring the batch below an error.

        Parameters
        ----------
        start : Start
        target : float
        rule : {"mean", "worst"}
            Which error over the batch is to be below ``target``.
        most : int
            Iterations after which the start has failed.
        repeats, dtype
            As for `time_after`.

        Returns
        -------
        Timing or None
            None where ``most`` iterations are not enough, or no pair has a reference.
        """
        if rule not in ("mean", "worst"):
            raise ValueError(f"rule must be 'mean' or 'worst'; got {rule!r}")
        for k, result in enumerate(self._iterate(start, most, dtype), 1):
            error = self._error(result)[self.converged]
            if len(error) and float(error.mean() if rule == "mean" else error.max()) < target:
                return self.time_after(start, k, repeats=repeats, dtype=dtype)
        return None

    def _timed(
        self, start: Start, init: object, iterations: int, dtype: torch.dtype
    ) -> tuple[OTResult, float]:
        a, b, geom = self._sides(start, dtype)
        _synchronise(a)
        begin = time.perf_counter()
        result = _plain(a, b, geom, self.epsilon, init, iterations, validate=False)
        _synchronise(a)
        return result, time.perf_counter() - begin

    def _iterate(
        self, start: Start, iterations: int, dtype: torch.dtype = torch.float64
    ) -> Iterator[OTResult]:
        """The results of 1, 2, ... iterations, each of one more than the last."""
        if iterations < 1:
            raise ValueError(f"iterations must be positive; got {iterations}")
        a, b, geom, init = self._from(start, dtype)
        result = _plain(a, b, geom, self.epsilon, init, 1)
        yield result
        for _ in range(iterations - 1):
            result = _plain(a, b, geom, self.epsilon, result.g, 1, validate=False)
            yield result

    def _from(
        self, start: Start, dtype: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor, Geometry, str | Tensor]:
        """The problems on the sides that the start has, and its potential or name."""
        a, b, geom = self._sides(start, dtype)
        if not callable(start.start):
            return a, b, geom, start.start
        if start not in self._potentials:
            epsilon = torch.full_like(self.cost, self.epsilon)
            chunks = (x.split(_CHUNK) for x in (self.mu, self.nu, epsilon))
            with torch.no_grad():
                parts = [start.start(m, n, self.geom, e) for m, n, e in zip(*chunks, strict=True)]
            self._potentials[start] = torch.cat(parts)
        return a, b, geom, self._potentials[start].to(b)

    def _sides(self, start: Start, dtype: torch.dtype) -> tuple[Tensor, Tensor, Geometry]:
        mu, nu = self.mu.to(dtype), self.nu.to(dtype)
        if start.side == "target":
            return mu, nu, self.geom
        return nu, mu, _exchanged(self.geom)

    def _error(self, result: OTResult) -> Tensor:
        return (result.cost.double() / self.cost - 1).abs()


class _Clock:
    """A start that keeps the time it takes, called with the sides that the solver has."""

    def __init__(self, start: Start, geom: Geometry):
        self.start, self.geom, self.seconds = start, geom, 0.0

    def __call__(self, a: Tensor, b: Tensor, geom: Geometry, epsilon: Tensor) -> Tensor:
        mu, nu = (a, b) if self.start.side == "target" else (b, a)
        _synchronise(a)
        begin = time.perf_counter()
        g = self.start.start(mu, nu, self.geom, epsilon)
        _synchronise(a)
        self.seconds += time.perf_counter() - begin
        return g


def _plain(a, b, geom, epsilon, init, iterations, validate=True) -> OTResult:
    return sinkhorn(
        a, b, geom, epsilon, init=init, tol=0.0, max_iter=iterations, overrelaxation=1.0,
        validate=validate,
    )  # fmt: skip


def _exchanged(geom: Geometry) -> Geometry:
    """Source and target exchanged."""
    if isinstance(geom, Sphere):
        return geom
    if isinstance(geom, Grid) and geom.structure is Structure.SEPARABLE:
        p = geom.p if geom.cost == "lp" else None
        return Grid.from_coordinates(geom.target_coordinates, geom.coordinates, geom.cost, p=p)
    raise ValueError(f"geom: a start of the source's potential is not supported on {geom!r}")


def _synchronise(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
