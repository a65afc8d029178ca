"""One adapter per way to solve the pairs, ours included; libraries are imported when asked for.

Every adapter runs the same iterates: f first, then g, from the same start, so that after a given
number of iterations their potentials agree to rounding and their times compare. Kernel matrices
and compilation are set up beforehand and not timed; a start other than a constant is timed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.problems import Problem
from bench.truth import start_potential

Potentials = tuple[Tensor, Tensor]


class Unavailable(Exception):
    """This method cannot run here or on this problem; the message says why."""


@dataclass(frozen=True)
class Run:
    """A prepared solve.

    Attributes
    ----------
    launch : callable
        Runs it; on a GPU, returns without waiting.
    potentials : callable
        From what ``call`` returned to (f, g), relative to the measures, float64.
    pairs : int
        Pairs that one call solves; slow libraries get fewer than the problem has.
    """

    launch: Callable[[], object]
    potentials: Callable[[object], Potentials]
    pairs: int

    def call(self) -> object:
        """Run it to completion; this is what is timed on the CPU."""
        state = self.launch()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return state


class Method(ABC):
    """A way to run Sinkhorn's iteration on a batch of pairs.

    Attributes
    ----------
    name, family : str
        For tables; the family is the library.
    dtype : str
    package : str
        Distribution whose version is recorded.
    cost_at_64 : float
        Rough seconds per iteration and pair at n = 64 on two cores, to refuse hopeless runs.
    order : float
        Exponent of n in that cost.
    largest : int
        Largest n.
    most_pairs : int
        Most pairs per call; dense libraries get a few.
    relax_first : bool
        Whether overrelaxation applies to the first update too.
    starts : tuple of str
        Constant starts it can take.
    """

    name: str
    family: str
    dtype: str
    package: str
    cost_at_64: float
    order: float = 3.0
    largest: int = 512
    most_pairs: int = 10**9
    relax_first: bool = False
    starts: tuple[str, ...] = ("measures", "ones")

    @abstractmethod
    def prepare(
        self, problem: Problem, iterations: int, start: str = "measures", weight: float = 1.0
    ) -> Run:
        """Set up a solve of fixed length.

        Raises
        ------
        Unavailable
        """

    def check(self) -> None:
        """Raise `Unavailable` where the library is missing."""
        if importlib.util.find_spec(self.module) is None:
            raise Unavailable(f"{self.package} is not installed")

    @property
    def module(self) -> str:
        return self.package

    def version(self) -> str:
        return f"{self.package} {importlib.metadata.version(self.package)}"

    def seconds(self, problem: Problem, iterations: int) -> float:
        """Rough time of a call."""
        scale = (problem.n / 64) ** self.order
        return self.cost_at_64 * scale * self.pairs(problem) * iterations

    def bytes(self, problem: Problem) -> float:
        """Rough memory of a call."""
        return 64.0 * problem.batch * problem.n**2

    def pairs(self, problem: Problem) -> int:
        """Pairs that a call should be given."""
        return min(problem.batch, self.most_pairs)


class UnotFast(Method):
    """The public solver."""

    family = package = "unot_fast"
    cost_at_64 = 4e-5
    starts = ("measures",)

    def __init__(self, init: str = "zeros", backend: str = "auto", dtype=torch.float64):
        self.init, self.backend = init, backend
        self.torch_dtype = dtype
        self.dtype = str(dtype).removeprefix("torch.")
        self.name = f"unot_fast {self.dtype}"

    def check(self) -> None:
        from unot_fast import backends

        if self.backend != "auto" and not backends()[self.backend].available:
            raise Unavailable(backends()[self.backend].detail)

    def version(self) -> str:
        import unot_fast

        return f"unot_fast {unot_fast.__version__}"

    def prepare(self, problem, iterations, start="measures", weight: float | str = 1.0):
        return self.solve(
            problem, tol=0.0, max_iter=iterations, overrelaxation=weight, init=self.init
        )

    def solve(self, problem: Problem, **options) -> Run:
        """A solve with options of `unot_fast.sinkhorn`; none at all for its defaults."""
        from unot_fast import Grid, sinkhorn

        self.check()
        geom = Grid((problem.n, problem.n))
        a, b = problem.a.to(self.torch_dtype), problem.b.to(self.torch_dtype)

        def launch():
            return sinkhorn(a, b, geom, problem.epsilon, backend=self.backend, **options)

        return Run(launch, lambda r: (r.f.double(), r.g.double()), problem.batch)


class _Torch(Method):
    """A loop that a PyTorch user would write."""

    family = package = "torch"
    torch_dtype: torch.dtype

    def __init__(self, dtype: torch.dtype):
        self.torch_dtype = dtype
        self.dtype = str(dtype).removeprefix("torch.")
        self.name = f"{self.title} {self.dtype}"

    def prepare(self, problem, iterations, start="measures", weight=1.0):
        if problem.n > self.largest:
            raise Unavailable(f"its matrix of {problem.n}^4 entries is beyond reason")
        solve, potentials = self.solver(problem, weight)
        a, b = problem.a.to(self.torch_dtype), problem.b.to(self.torch_dtype)
        g = start_potential(problem, start).to(self.torch_dtype)

        def launch():
            return solve(a, b, g, iterations)

        return Run(launch, potentials, problem.batch)

    @abstractmethod
    def solver(self, problem: Problem, weight: float) -> tuple[Callable, Callable]:
        """``solve(a, b, g, iterations) -> state`` and ``potentials(state)``."""


class SeparableExp(_Torch):
    """Scalings, the kernel applied by two small matrix products."""

    title = "torch separable exp"
    cost_at_64 = 5e-5

    def solver(self, problem, weight):
        eps = problem.epsilon
        kernel = torch.exp(-problem.axis_cost / eps).to(self.torch_dtype)

        def solve(a, b, g, iterations):
            v = torch.exp(g / eps)
            u = None
            for _ in range(iterations):
                u = _relax_scaling(u, 1 / (kernel @ (b * v) @ kernel), weight)
                v = _relax_scaling(v, 1 / (kernel @ (a * u) @ kernel), weight)
            return u, v

        return solve, lambda state: tuple(eps * x.double().log() for x in state)


class SeparableLSE(_Torch):
    """Potentials, ``torch.logsumexp`` along rows, then along columns."""

    title = "torch separable logsumexp"
    cost_at_64 = 5e-3

    def bytes(self, problem):
        return 3.0 * problem.batch * problem.n**3 * self.torch_dtype.itemsize

    def solver(self, problem, weight):
        eps = problem.epsilon
        cost = (problem.axis_cost / eps).to(self.torch_dtype)

        def reduce(h):
            h = torch.logsumexp(h[..., None, :] - cost, -1)
            return torch.logsumexp(h.mT[..., None, :] - cost, -1).mT

        def solve(a, b, g, iterations):
            log_a, log_b = a.log(), b.log()
            g = g / eps
            f = None
            for _ in range(iterations):
                f = _relax_potential(f, -reduce(log_b + g), weight)
                g = _relax_potential(g, -reduce(log_a + f), weight)
            return f, g

        return solve, lambda state: tuple(eps * x.double() for x in state)


class CompiledLSE(SeparableLSE):
    """The same, an iteration under ``torch.compile``; plain iterations only."""

    title = "torch separable logsumexp, compiled"

    def solver(self, problem, weight):
        if weight != 1.0:
            raise Unavailable("plain iterations only")
        solve, potentials = super().solver(problem, weight)
        eps = problem.epsilon

        @functools.partial(torch.compile, fullgraph=True, dynamic=False)
        def iteration(a, b, g):
            return solve(a, b, eps * g, 1)

        def loop(a, b, g, iterations):
            g = g / eps
            for _ in range(iterations):
                f, g = iteration(a, b, g)
            return f, g

        return loop, potentials


class DenseExp(_Torch):
    """Scalings against the dense kernel matrix: the loop of the UNOT paper's code."""

    title = "torch dense exp (UNOT's loop)"
    cost_at_64 = 8e-4
    order = 4.0
    largest = 64

    def solver(self, problem, weight):
        eps, n = problem.epsilon, problem.n
        axis = torch.exp(-problem.axis_cost / eps)
        kernel = torch.kron(axis, axis).to(self.torch_dtype)

        def solve(a, b, g, iterations):
            a, b, v = a.flatten(1), b.flatten(1), torch.exp(g / eps).flatten(1)
            u = None
            for _ in range(iterations):
                u = _relax_scaling(u, 1 / ((b * v) @ kernel), weight)
                v = _relax_scaling(v, 1 / ((a * u) @ kernel), weight)
            return u, v

        return solve, lambda s: tuple(eps * x.double().log().unflatten(1, (n, n)) for x in s)


class GeomLossGrid(_Torch):
    """The per-axis KeOps soft-minimum of GeomLoss, in a Sinkhorn loop."""

    title = "GeomLoss softmin_grid"
    family = package = "geomloss"
    cost_at_64 = 9.1e-3
    order = 2.0

    def check(self):
        super().check()
        if importlib.util.find_spec("pykeops") is None:
            raise Unavailable("pykeops is not installed")

    def solver(self, problem, weight):
        self.check()
        with contextlib.redirect_stdout(None):  # KeOps announces every compilation
            from geomloss._legacy.utils import softmin_grid
        eps, n = problem.epsilon, problem.n
        # Its cost is |x - y|^2 / 2 on k / n; this temperature makes the exponent ours.
        temperature = eps * (n - 1) ** 2 / (2 * n**2)

        def softmin(h):
            return softmin_grid(temperature, 2, h[:, None])[:, 0] / temperature

        def solve(a, b, g, iterations):
            log_a, log_b = a.log(), b.log()
            g = g / eps
            f = None
            for _ in range(iterations):
                f = _relax_potential(f, softmin(log_b + g), weight)
                g = _relax_potential(g, softmin(log_a + f), weight)
            return f, g

        return solve, lambda state: tuple(eps * x.double() for x in state)


class Ott(Method):
    """OTT-JAX on its ``Grid``, jit and vmap, a fixed number of iterations.

    Parameters
    ----------
    mode : {"scaling", "lse"}
    variant : {None, "gaussian", "adaptive", "anderson"}
        Gaussian start from OTT's own tools, Lehmann's adaptive momentum, Anderson acceleration.
    """

    family = "ott-jax"
    package = "ott-jax"
    module = "ott"
    dtype = "float32"
    relax_first = True

    def __init__(self, mode: str, variant: str | None = None):
        self.mode, self.variant = mode, variant
        self.name = f"OTT Grid {mode}" + (f" {variant}" if variant else "")
        self.cost_at_64 = 4e-5 if mode == "scaling" else 9e-4
        if variant:
            self.starts = ("ones",)

    def bytes(self, problem):
        return (3.0 * problem.n if self.mode == "lse" else 64.0) * 4 * problem.batch * problem.n**2

    def prepare(self, problem, iterations, start="measures", weight=1.0):
        self.check()
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax
        import jax.numpy as jnp
        import numpy as np
        from ott.geometry.grid import Grid
        from ott.problems.linear.linear_problem import LinearProblem
        from ott.solvers.linear.acceleration import AndersonAcceleration, Momentum
        from ott.solvers.linear.sinkhorn import Sinkhorn

        n, eps = problem.n, problem.epsilon
        points = jnp.linspace(0, 1, n)
        lse = self.mode == "lse"
        options = {"inner_iterations": iterations}
        if self.variant == "adaptive":
            options = {
                "inner_iterations": 1,
                "momentum": Momentum(start=min(10, iterations), value=weight),
            }
        elif self.variant == "anderson":
            options["anderson"] = AndersonAcceleration(memory=5)
        elif weight != 1.0:
            options["momentum"] = Momentum(value=weight)
        solver = Sinkhorn(
            lse_mode=lse,
            min_iterations=iterations,
            max_iterations=iterations,
            threshold=0.0,
            **options,
        )

        def one(a, b):
            # OTT updates its second potential first: with the measures exchanged (the cost is
            # symmetric) that is f, then g.
            geom = Grid(x=[points, points], epsilon=eps)
            if self.variant == "gaussian":
                g = _ott_gaussian(a, b, points)
                init = (g, jnp.zeros_like(a)) if lse else (jnp.exp(g / eps), jnp.ones_like(a))
            elif start == "measures":
                init = (eps * jnp.log(b), eps * jnp.log(a)) if lse else (b, a)
            else:
                init = None
            out = solver(LinearProblem(geom, a=b, b=a), init=init)
            return out.g - eps * jnp.log(a), out.f - eps * jnp.log(b)

        a, b = (jnp.asarray(x.flatten(1).float().numpy()) for x in (problem.a, problem.b))
        solve = jax.jit(jax.vmap(one))

        def potentials(state):
            f, g = (torch.from_numpy(np.array(x)).double().unflatten(1, (n, n)) for x in state)
            return f, g

        return Run(lambda: jax.block_until_ready(solve(a, b)), potentials, problem.batch)


def _ott_gaussian(a, b, points):
    """Potential on the points of ``b`` between the Gaussians of the same moments."""
    import jax.numpy as jnp
    from ott.tools.gaussian_mixture.gaussian import Gaussian

    grid = jnp.stack(jnp.meshgrid(points, points, indexing="ij"), -1).reshape(-1, 2)
    source = Gaussian.from_samples(grid, weights=b)
    target = Gaussian.from_samples(grid, weights=a)
    g = 2 * source.f_potential(dest=target, points=grid)
    return g - jnp.sum(g * b)


class Pot(Method):
    """POT on the dense cost matrix, torch tensors, one pair after the other."""

    family = package = "POT"
    module = "ot"
    dtype = "float32"
    order = 4.0
    largest = 64
    most_pairs = 1

    def __init__(self, solver: str):
        self.solver = solver
        self.name = f"POT {solver}"
        self.cost_at_64 = 0.025 if solver == "sinkhorn" else 0.34

    def prepare(self, problem, iterations, start="measures", weight=1.0):
        self.check()
        if problem.n > self.largest:
            raise Unavailable(f"its matrix of {problem.n}^4 entries is beyond reason")
        if weight != 1.0:
            raise Unavailable("it has no momentum")
        import ot

        eps, n = problem.epsilon, problem.n
        one = torch.ones_like(problem.axis_cost)
        cost = (torch.kron(problem.axis_cost, one) + torch.kron(one, problem.axis_cost)).float()
        a, b = problem.a.flatten(1).float(), problem.b.flatten(1).float()
        solve = getattr(ot.bregman, "sinkhorn_knopp" if self.solver == "sinkhorn" else self.solver)

        def launch():
            logs = []
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for p, q in zip(a, b, strict=True):
                    # It updates its second scaling first, hence the exchange.
                    first = (q.log(), p.log()) if start == "measures" else (0 * q, 0 * p)
                    _, log = solve(
                        q, p, cost, eps, numItermax=iterations, stopThr=0.0, warn=False,
                        log=True, warmstart=first,
                    )  # fmt: skip
                    logs.append(log)
            return logs

        def potentials(logs):
            key = ("log_v", "log_u") if "log_u" in logs[0] else ("v", "u")
            pair = [torch.stack([log[k] for log in logs]).double() for k in key]
            if key[0] == "v":
                pair = [x.log() for x in pair]
            f, g = pair
            f, g = f - problem.a.flatten(1).log(), g - problem.b.flatten(1).log()
            return tuple(eps * x.unflatten(1, (n, n)) for x in (f, g))

        return Run(launch, potentials, problem.batch)


def rivals() -> list[Method]:
    """Every method but ours, plain; `variants` adds what a library has beyond momentum."""
    return [
        SeparableExp(torch.float64),
        SeparableExp(torch.float32),
        SeparableLSE(torch.float32),
        DenseExp(torch.float32),
        Ott("scaling"),
        Ott("lse"),
        GeomLossGrid(torch.float32),
        Pot("sinkhorn"),
        Pot("sinkhorn_log"),
    ]


def variants() -> list[Method]:
    """Accelerations whose iteration count has to be searched for."""
    return [Ott(m, v) for m in ("scaling", "lse") for v in ("gaussian", "adaptive", "anderson")]


def _relax_scaling(old: Tensor | None, new: Tensor, weight: float) -> Tensor:
    if old is None or weight == 1.0:
        return new
    ratio = new / old
    return new * (ratio.sqrt() if weight == 1.5 else ratio.pow(weight - 1))


def _relax_potential(old: Tensor | None, new: Tensor, weight: float) -> Tensor:
    return new if old is None or weight == 1.0 else torch.lerp(old, new, weight)
