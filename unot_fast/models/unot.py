"""The transport network: from two measures to the dual potential."""

from __future__ import annotations

import copy
import math
import operator
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from unot_fast.geometry import Geometry, Grid, Sphere
from unot_fast.models import weights
from unot_fast.models.config import UNOTConfig
from unot_fast.models.final_sweeps import final_sweeps
from unot_fast.models.inputs import DUST, Inputs, count, inputs, masses, sweep
from unot_fast.models.level import Level
from unot_fast.models.mlp import ResidualMLP
from unot_fast.models.network import FourierNetwork
from unot_fast.ops.autocast import in_full_precision
from unot_fast.ops.compiling import constant_object_when_compiled
from unot_fast.ops.folding import all_values
from unot_fast.solver.dispatch import backend_for


class UNOT(nn.Module):
    r"""A network that predicts the potential g of the entropic problem, for any two measures.

    The measures are summed over the cells of a coarse grid, where the network corrects the result
    of a few Sinkhorn iterations and a few more may follow; a half-step of Sinkhorn's iteration
    takes the potential from the cells to the grid, exact wherever it is evaluated. Without cells
    the network works on the grid itself, of any resolution.

    What the network sees does not depend on the resolution: densities relative to the uniform
    one, and potentials relative to the marginals in units of epsilon.

    A model is a start of the solver: ``sinkhorn(a, b, geom, epsilon, init=model)``.

    Parameters
    ----------
    config : UNOTConfig, optional
        One of `PRESETS`, for instance.

    References
    ----------
    Geuter et al., "Universal neural optimal transport", 2025.

    Examples
    --------
    >>> import torch
    >>> from unot_fast.models import PRESETS, UNOT
    >>> model = UNOT(PRESETS["tiny"])
    >>> a, b = torch.rand(2, 3, 28, 28)
    >>> model(a, b).shape
    torch.Size([3, 28, 28])
    """

    def __init__(self, config: UNOTConfig | None = None):
        super().__init__()
        self.config = config or UNOTConfig()
        c_in = count(self.config.cost, self.config.sweeps)
        if self.config.kind == "mlp":
            self.network = ResidualMLP(
                c_in, 1, self.config.cells, self.config.width, self.config.depth, scalars=1
            )
        else:
            self.network = _Fourier(c_in, self.config)
        nn.init.zeros_(self.network.projection.weight)  # begins as the start itself
        nn.init.zeros_(self.network.projection.bias)
        self.corrects, self.refinement = True, 0

    @property
    def epsilon(self) -> float:
        """Where a call does not say."""
        return self.config.default_epsilon

    @in_full_precision
    def forward(
        self,
        mu: Tensor,
        nu: Tensor,
        geom: Geometry | None = None,
        epsilon: float | Tensor | None = None,
    ) -> Tensor:
        r"""The potential g of the target, relative to the marginals and in units of cost.

        Its partner f is ``model(nu, mu)``, or better a half-step of Sinkhorn's iteration from g.

        Parameters
        ----------
        mu, nu : Tensor, shape (\*batch, n_1, n_2)
            Masses, of any totals.
        geom : Geometry, optional
            Default: the unit square, or an equiangular sphere, of the measures' shape, with the
            network's cost.
        epsilon : float or Tensor, shape (\*batch), optional
            Default: `epsilon`.

        Returns
        -------
        Tensor, shape (\*batch, n_1, n_2)
            Differentiable in the network's parameters, not in the measures: of a solve from
            there the solver has the gradients.

        Raises
        ------
        TypeError, ValueError
            The measures are none or have other shapes, the network was trained for another cost,
            or epsilon is outside its range.
        """
        level = self.level(self.geometry(mu.shape[-2:]) if geom is None else geom)
        _check_shapes(mu, nu, level.grid)
        if mu.numel() == 0:
            return torch.zeros_like(nu)
        dtype = next(self.parameters()).dtype
        real = torch.promote_types(dtype, torch.float32)
        flat = (math.prod(mu.shape[:-2]), *level.grid.shape)
        a, b = masses(*(x.detach().to(real).reshape(flat) for x in (mu, nu)))
        epsilon = self._epsilons(epsilon, level, mu.shape[:-2], a)
        backend = backend_for("auto", level.grid, a.device)
        cells = [level.pool(x).clamp_min(DUST / level.points) for x in (a, b)]
        own = level.epsilon(epsilon)
        g = self.predict(self.inputs(*cells, level, own)) * own.to(a)[:, None, None]
        if self.config.final_sweeps:
            g = final_sweeps(*cells, level.geom, own, g, self.config.final_sweeps)
        g = level.to_grid(*cells, g, epsilon, backend)
        if self.refinement:
            g = sweep(a, b, level.grid, epsilon, g, self.refinement, backend)
        return g.reshape(nu.shape).to(nu.dtype)

    def inputs(self, a: Tensor, b: Tensor, level: Level, epsilon: Tensor) -> Inputs:
        """What the network takes in, for masses on its own grid."""
        return inputs(a, b, level, epsilon, self.config.sweeps)

    def predict(self, inputs: Inputs) -> Tensor:
        """The potential g on the network's own grid, in units of epsilon."""
        if not self.corrects:
            return inputs.start
        dtype = next(self.parameters()).dtype
        found = self.network(inputs.planes.to(dtype), inputs.scalars.to(dtype))
        return inputs.start + found[:, 0].to(inputs.start)

    def without_network(self) -> UNOT:
        """The start that the network corrects: all sweeps and the way to the grid, alone.

        It shares the parameters, and does not use them.
        """
        model = copy.copy(self)
        model.corrects = False
        return model

    def refined(self, iterations: int = 1) -> UNOT:
        """The start with overrelaxed Sinkhorn iterations on the grid of the measures after it.

        They take away what cells cannot resolve, above all where these do not divide the grid.
        Each costs as much as an iteration of the solver, and no gradient passes through them. The
        parameters are shared.

        Raises
        ------
        ValueError
            The number is negative.

        Examples
        --------
        >>> import torch
        >>> from unot_fast import UNOT
        >>> start = UNOT.from_pretrained("sqeuclidean").refined()
        >>> start(*torch.rand(2, 8, 28, 28)).shape
        torch.Size([8, 28, 28])
        """
        if iterations < 0:
            raise ValueError(f"iterations must not be negative; got {iterations}")
        model = copy.copy(self)
        model.refinement = iterations
        return model

    def geometry(self, shape: tuple[int, int]) -> Geometry:
        """The unit square, or a sphere, of so many points, with the network's cost."""
        return _unit(self.config.cost, *map(operator.index, shape))

    def level(self, geom: Geometry) -> Level:
        """The network's own grid for measures on a geometry.

        Raises
        ------
        TypeError, ValueError
            The network was not trained for it.
        """
        if not isinstance(geom, Geometry):
            raise TypeError(
                f"geom must be a Geometry such as unot_fast.Grid; got {type(geom).__name__}"
            )
        cost = self.config.cost
        fits = isinstance(geom, Sphere) if cost == "geodesic" else isinstance(geom, Grid)
        if not fits or geom.cost != cost or (fits and cost == "geodesic" and geom.p != 1):
            raise ValueError(f"geom must have the cost {cost!r} of the network; got {geom!r}")
        if len(geom.shape) != 2:
            raise ValueError(f"geom must have two axes; got {geom!r}")
        return Level.of(geom, self.config.cells)

    def _epsilons(
        self, epsilon: float | Tensor | None, level: Level, lead: torch.Size, like: Tensor
    ) -> Tensor:
        """One for each problem, (B,), float64."""
        epsilon = self.epsilon if epsilon is None else epsilon
        given = torch.as_tensor(epsilon, dtype=torch.float64, device=like.device)
        try:
            given = given.expand(lead).reshape(-1)
        except RuntimeError:
            raise ValueError(
                f"epsilon must be one number or have shape {tuple(lead)}; got {tuple(given.shape)}"
            ) from None
        if not torch.compiler.is_compiling():
            low, high = (x * level.domain for x in self.config.epsilon)
            values = all_values(given)
            if not bool(((values > 0.99 * low) & (values < 1.01 * high)).all()):
                raise ValueError(
                    f"epsilon must be within [{low:.3g}, {high:.3g}] on {level.grid!r}, which the "
                    f"network was trained for; got {epsilon}"
                )
        return given

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> UNOT:
        """A trained network, for inference.

        Parameters
        ----------
        name_or_path : str or Path
            ``"sqeuclidean"``, ``"euclidean"`` or ``"sphere"``, which come with the package, or a
            file of `save_pretrained`.

        Raises
        ------
        ValueError
            There is no such name or file, or the file holds something else.
        """
        return weights.load(name_or_path)

    def save_pretrained(self, path: str | Path, **options) -> None:
        """Write the network to a file; options are those of `unot_fast.models.weights.save`.

        In float32 unless a ``dtype`` says otherwise, such as ``torch.float16``, which is half the
        size and raises a ValueError where a weight is beyond its range.
        """
        weights.save(self, path, **options)

    def extra_repr(self) -> str:
        return str(self.config)


@constant_object_when_compiled
@lru_cache(64)
def _unit(cost: str, *shape: int) -> Geometry:
    return Sphere(*shape) if cost == "geodesic" else Grid(shape, cost)


class _Fourier(FourierNetwork):
    """Numbers per sample, and coordinates, come in as planes."""

    def __init__(self, c_in: int, config: UNOTConfig):
        super().__init__(
            c_in + 1 + 2 * config.coordinates,
            1,
            config.width,
            config.modes,
            config.depth,
            config.hidden,
            domain="sphere" if config.cost == "geodesic" else "plane",
        )
        self.coordinates = config.coordinates

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        planes = [x, scalars[..., None, None].expand(-1, -1, *x.shape[-2:])]
        if self.coordinates:
            lines = (torch.linspace(-1, 1, n, dtype=x.dtype, device=x.device) for n in x.shape[-2:])
            grid = torch.stack(torch.meshgrid(*lines, indexing="ij"))
            planes.append(grid.expand(len(x), -1, -1, -1))
        return super().forward(torch.cat(planes, 1))


def _check_shapes(mu: Tensor, nu: Tensor, geom: Geometry) -> None:
    for name, x in (("mu", mu), ("nu", nu)):
        if not x.is_floating_point():
            raise TypeError(f"{name} must be floating point; got {x.dtype}: convert it")
        if tuple(x.shape[-2:]) != tuple(geom.shape):
            raise ValueError(
                f"{name} must have shape (*batch, {geom.shape[0]}, {geom.shape[1]}); "
                f"got {tuple(x.shape)}"
            )
    if mu.shape != nu.shape:
        raise ValueError(f"nu must have the shape of mu; got {tuple(nu.shape)}, {tuple(mu.shape)}")
