"""Regular grids in the plane, on the line and in space."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from numbers import Integral

import torch
from torch import Tensor

from unot_fast.geometry.base import Coarser, Geometry, Structure, lasting
from unot_fast.geometry.cells import block_middles, blocks, spread
from unot_fast.geometry.lines import CELL_BLUR, LineCost, pairs
from unot_fast.geometry.numbers import is_integer

Displacement = Callable[[Tensor], Tensor]
COSTS = ("sqeuclidean", "lp", "euclidean")


class Grid(Geometry):
    r"""A grid of 1, 2 or 3 axes with the cost :math:`|x - y|_p^p = \sum_k |x_k - y_k|^p`,
    :math:`|x - y|` or any function of :math:`x - y`.

    Parameters
    ----------
    shape : int or sequence of int
        Points along each axis; any lengths.
    cost : {"sqeuclidean", "lp", "euclidean"} or callable
        ``"sqeuclidean"`` is p = 2: the squared Euclidean distance, not halved. ``"lp"`` takes
        ``p`` from the argument of that name; p = 1 is the city-block distance. ``"euclidean"`` is
        the Euclidean distance, which is no sum over the axes; its solvers need equally spaced
        points along the last axis, as far apart in the target as in the source. A function takes
        displacements x - y, shape (..., d), and returns their costs, shape (...), finite and not
        negative; it too needs such points.
    p : float, optional
        Exponent of ``cost="lp"``, p >= 1.
    extent : float or sequence of float, optional
        Physical length of each axis, from the first point to the last; default 1, so that the
        coordinates are ``linspace(0, 1, n)`` with both ends.
    spacing : float or sequence of float, optional
        Distance between neighbours along each axis, instead of ``extent``.
    target : Grid, int or sequence of int, optional
        The grid of the second measure, where it differs: its coordinates are used; a bare shape
        takes the same extent. Default: this grid.

    Attributes
    ----------
    coordinates, target_coordinates : tuple of Tensor
        Positions along each axis, float64.
    axis_costs : tuple of Tensor
        Cost along each axis, shapes (n_k, m_k), float64; the cost is their sum, of
        ``"euclidean"`` its square is. Of a function there are none.
    lines : LineCost
        Of ``"euclidean"`` or a function: the cost between rows.
    max_cost : float
        Largest cost between any two points.

    Raises
    ------
    ValueError
        An argument is out of its range; the message names it.

    Examples
    --------
    >>> from unot_fast import Grid
    >>> Grid((28, 28)).max_cost
    2.0
    >>> Grid((64, 48), spacing=0.5, target=(32, 24)).target_shape
    (32, 24)
    """

    _blur = 0.0  # added to squared distances, between cells

    @lasting
    def __init__(
        self,
        shape: int | Sequence[int],
        cost: str | Displacement = "sqeuclidean",
        *,
        p: float | None = None,
        extent: float | Sequence[float] | None = None,
        spacing: float | Sequence[float] | None = None,
        target: Grid | int | Sequence[int] | None = None,
    ):
        self.shape = _as_shape("shape", shape)
        self.cost = cost
        self.p = _exponent(cost, p)
        if extent is not None and spacing is not None:
            raise ValueError("spacing: give either extent or spacing, not both")
        lengths = _lengths(self.shape, extent, spacing)
        self.coordinates = tuple(
            torch.linspace(0, length, n, dtype=torch.float64)
            for n, length in zip(self.shape, lengths, strict=True)
        )
        other = self if target is None else target
        if not isinstance(other, Grid):
            sizes = _as_shape("target", other)
            other = Grid(sizes, extent=lengths) if len(sizes) == len(lengths) else Grid(sizes)
        if len(other.shape) != len(self.shape):
            raise ValueError(
                f"target must have {len(self.shape)} axes, as shape has; got {other.shape}"
            )
        self.target_shape, self.target_coordinates = other.shape, other.coordinates
        self._set_costs()

    @classmethod
    @lasting
    def from_coordinates(
        cls,
        coordinates: Sequence[Tensor],
        target_coordinates: Sequence[Tensor] | None = None,
        cost: str | Displacement = "sqeuclidean",
        *,
        p: float | None = None,
    ) -> Grid:
        """A grid whose points along each axis are given, increasing but not equally spaced.

        Parameters
        ----------
        coordinates, target_coordinates : sequence of Tensor
            One 1-D tensor per axis; the target defaults to the source.
        cost, p
            As for `Grid`.
        """
        source = tuple(map(_own, coordinates))
        target = source
        if target_coordinates is not None:
            target = tuple(map(_own, target_coordinates))
        for name, side in (("coordinates", source), ("target_coordinates", target)):
            for c in side:
                if c.ndim != 1 or not c.isfinite().all() or bool((c.diff() <= 0).any()):
                    raise ValueError(f"{name} must be finite, increasing 1-D tensors")
        grid = cls([len(c) for c in source], target=[len(c) for c in target])
        grid.cost, grid.p = cost, _exponent(cost, p)
        grid.coordinates, grid.target_coordinates = source, target
        grid._set_costs()
        return grid

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def _set_costs(self) -> None:
        self.__dict__.pop("lines", None)
        if callable(self.cost):
            self.structure, self.axis_costs = Structure.STATIONARY, ()
            table = self.lines.table
            if not bool(table.isfinite().all() & (table >= 0).all()):
                raise ValueError("cost must return finite costs that are not negative")
            self.max_cost = float(table.max())
            return
        # Differences of coordinates, never |x|^2 + |y|^2 - 2xy, which cancels.
        # Axes with the same points share one tensor, by which operators know them.
        axes = list(zip(self.coordinates, self.target_coordinates, strict=True))
        costs = []
        for k, (x, y) in enumerate(axes):
            same = next((j for j in range(k) if _equal(axes[j], axes[k])), None)
            costs.append((x[:, None] - y).abs().pow(self.p) if same is None else costs[same])
        self.axis_costs = tuple(costs)
        self.max_cost = float(sum(c.max() for c in self.axis_costs))
        self.structure = Structure.SEPARABLE
        if self.cost == "euclidean":
            self.max_cost = self.max_cost**0.5
            same = _spacing(self.coordinates[-1], self.target_coordinates[-1]) is not None
            self.structure = Structure.STATIONARY if same else Structure.DENSE

    def points(self, side: str = "source") -> Tensor:
        axes = self.coordinates if side == "source" else self.target_coordinates
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)

    def cost_matrix(self, rows: Tensor | None = None) -> Tensor:
        x = self.points("source").reshape(-1, 1, self.ndim)
        x = x if rows is None else x[rows]
        y = self.points("target").reshape(1, -1, self.ndim)
        if callable(self.cost):
            return self._of_displacements(x - y)
        cost = (x - y).abs().pow(self.p).sum(-1)
        return (cost + self._blur).sqrt() if self.cost == "euclidean" else cost

    @property
    def kernel_costs(self) -> tuple[str, tuple[Tensor, ...]]:
        if self.structure is Structure.SEPARABLE:
            return "separable", self.axis_costs
        return "stationary", (self.lines.table, self.lines.row_class)

    @functools.cached_property
    @lasting
    def lines(self) -> LineCost:
        spacing = _spacing(self.coordinates[-1], self.target_coordinates[-1])
        if spacing is None:
            raise ValueError(
                "geom: a cost that is no sum over the axes needs points that are equally spaced "
                "along the last axis, as far apart in the target as in the source"
            )
        return self._lines(self.coordinates, self.target_coordinates, spacing, blur=self._blur)

    @lasting
    def halved(self) -> Coarser:
        """The grid on cells of two points per axis."""
        pools, coordinates = [], []
        for points in (self.coordinates, self.target_coordinates):
            pools.append(tuple(pairs(len(c), len(c) > 1) for c in points))
            # Cells of two, the last one too where a point is missing: all as far apart.
            coordinates.append(tuple(_cells(c) for c in points))
        coarse = Grid.from_coordinates(*coordinates, self.cost)
        widths = [float(c[1] - c[0]) if len(c) > 1 else 0.0 for c in coarse.coordinates]
        coarse._blur = CELL_BLUR * sum(width**2 for width in widths)
        step = 2 if len(self.coordinates[-1]) > 1 else 1
        spacing = _spacing(self.target_coordinates[-1], self.coordinates[-1])
        # From the finer target, whose cost to the source is of the opposite displacement.
        prolongation = self._lines(
            self.target_coordinates, coarse.coordinates, spacing, step, coarse._blur / 2, -1.0
        )
        resolved = max(widths, default=0.0) / 4
        if callable(self.cost):
            neighbours = self._of_displacements(torch.diag(torch.tensor(widths).double()))
            at_rest = self._of_displacements(torch.zeros(1, self.ndim, dtype=torch.float64))
            resolved = float((neighbours - at_rest).abs().max()) / 4
        return Coarser(coarse, *pools, prolongation, resolved=resolved)

    @lasting
    def cells(self, shape: Sequence[int]) -> Coarser:
        if self.shape != self.target_shape or not all(
            map(torch.equal, self.coordinates, self.target_coordinates)
        ):
            raise ValueError("geom must have the same points on either side")
        sizes = _as_shape("shape", shape)
        if len(sizes) != self.ndim:
            raise ValueError(f"shape must have {self.ndim} axes; got {sizes}")
        pools = tuple(blocks(n, m) for n, m in zip(self.shape, sizes, strict=True))
        if self.structure is Structure.SEPARABLE and all(
            n >= m for n, m in zip(self.shape, sizes, strict=True)
        ):
            centres = [p @ c / p.sum(1) for p, c in zip(pools, self.coordinates, strict=True)]
        else:  # equally spaced, as the points should be
            centres = [block_middles(c, m) for c, m in zip(self.coordinates, sizes, strict=True)]
        p = self.p if self.cost == "lp" else None
        coarse = Grid.from_coordinates(centres, cost=self.cost, p=p)
        widths = [float(c.diff().mean()) if len(c) > 1 else 0.0 for c in centres]
        if self.structure is Structure.SEPARABLE:
            prolongation = tuple(
                (x[:, None] - c).abs().pow(self.p)
                for x, c in zip(self.coordinates, centres, strict=True)
            )
            blur = 0.0
            if self.p == 2:  # a Gaussian kernel of variance epsilon / 2, and cells on one side
                spreads = map(spread, pools, centres, self.coordinates)
                blur = 2 * sum(spreads) / self.ndim
            return Coarser(
                coarse,
                pools,
                pools,
                prolongation,
                resolved=max(widths) ** 2,
                blur=2 * blur,
                blur_between=blur,
            )
        if self.cost == "euclidean":
            steps = [float(c.diff().mean()) if len(c) > 1 else 0.0 for c in self.coordinates]
            excess = (max(w**2 - s**2, 0.0) for w, s in zip(widths, steps, strict=True))
            coarse._blur = CELL_BLUR * sum(excess)
        prolongation = self._between(self.points(), coarse.points(), coarse._blur / 2)
        return Coarser(coarse, pools, pools, prolongation, resolved=max(widths) / 4)

    def _between(self, y: Tensor, x: Tensor, blur: float) -> Tensor:
        """Cost from source points x to target points y, shape (targets, sources)."""
        d = x.reshape(1, -1, self.ndim) - y.reshape(-1, 1, self.ndim)
        if callable(self.cost):
            return self._of_displacements(d)
        return (d.square().sum(-1) + blur).sqrt()

    def _of_displacements(self, d: Tensor) -> Tensor:
        cost = self.cost(d)
        if not isinstance(cost, Tensor) or cost.shape != d.shape[:-1]:
            got = tuple(cost.shape) if isinstance(cost, Tensor) else type(cost).__name__
            raise ValueError(
                f"cost must map displacements {tuple(d.shape)} to {tuple(d.shape[:-1])}; got {got}"
            )
        if cost.requires_grad:
            raise ValueError("cost must not require a gradient: solutions have none in the cost")
        return cost.double()

    def _lines(
        self,
        x: Sequence[Tensor],
        y: Sequence[Tensor],
        spacing: float,
        step: int = 1,
        blur: float = 0.0,
        sign: float = 1.0,
    ) -> LineCost:
        """Cost of ``sign`` times the displacements from y to x, between rows of points."""
        leading = [s[:, None] - t for s, t in zip(x[:-1], y[:-1], strict=True)]
        origin, distance = float(x[-1][0] - y[-1][0]), not callable(self.cost)
        # Of a distance the rows' squared distance, of a function zero and their displacement.
        key = torch.zeros((1, 1, 1), dtype=torch.float64)
        for d in leading:
            outer, inner = key[:, None, :, None], d[None, :, None, :, None]
            if distance:
                key = outer + inner.square()
            else:
                shape = torch.broadcast_shapes(outer.shape[:-1], inner.shape[:-1])
                key = torch.cat([outer.expand(*shape, -1), inner.expand(*shape, -1)], -1)
            key = key.flatten(0, 1).flatten(1, 2)

        def cost(key: Tensor, shift: Tensor) -> Tensor:
            last = origin + spacing * shift
            if distance:
                return torch.sqrt(key[..., 0] + last**2 + blur)
            shape = (len(key), len(last), 1)
            rows = key[..., 1:].expand(-1, len(last), -1)
            return self._of_displacements(sign * torch.cat([rows, last[:, None].expand(shape)], -1))

        return LineCost.of(key, len(x[-1]), len(y[-1]), cost, step)

    def __repr__(self) -> str:
        target = "" if self.target_shape == self.shape else f", target={self.target_shape}"
        p = f", p={self.p:g}" if self.cost == "lp" else ""
        cost = getattr(self.cost, "__name__", self.cost)
        return f"Grid({self.shape}, {cost!r}{p}{target})"


def _spacing(x: Tensor, y: Tensor) -> float | None:
    """Distance between neighbours of both, if it is one."""
    steps = torch.cat([x.diff(), y.diff()])
    if len(steps) == 0:
        return 1.0
    low, high = float(steps.min()), float(steps.max())
    return float(steps.mean()) if high - low <= 1e-9 * high else None


def _cells(x: Tensor) -> Tensor:
    """Middles of cells of two points, as far apart as two steps."""
    if len(x) == 1:
        return x
    return x[0] + (x[1] - x[0]) * (2 * torch.arange((len(x) + 1) // 2, dtype=torch.float64) + 0.5)


def _equal(axis: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(axis, other, strict=True))


def _own(coordinates) -> Tensor:
    """A copy, which nobody else can change."""
    return torch.as_tensor(coordinates, dtype=torch.float64).detach().clone()


def _as_shape(name: str, shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, Integral) else tuple(shape)
    if not 1 <= len(sizes) <= 3:
        raise ValueError(f"{name} must have 1, 2 or 3 axes; got {sizes}")
    if not all(map(is_integer, sizes)):
        raise ValueError(f"{name} must hold positive integers; got {sizes}")
    return tuple(map(int, sizes))


def _exponent(cost: str | Displacement, p: float | None) -> float:
    if not callable(cost) and cost not in COSTS:
        raise ValueError(f"cost must be one of {COSTS} or a function; got {cost!r}")
    if cost != "lp":
        if p not in (None, 2):
            raise ValueError(f"p goes with cost='lp'; {cost!r} has none")
        return 2.0
    if p is None or not 1 <= p < float("inf"):
        raise ValueError(f"p must be a number >= 1 with cost='lp'; got {p!r}")
    return float(p)


def _lengths(shape, extent, spacing) -> list[float]:
    name, given = ("extent", extent) if spacing is None else ("spacing", spacing)
    given = 1.0 if given is None else given
    values = [float(given)] * len(shape) if isinstance(given, int | float) else list(given)
    if len(values) != len(shape):
        raise ValueError(f"{name} must hold one number per axis of {shape}; got {given}")
    if any(not 0 < v < float("inf") for v in values):
        raise ValueError(f"{name} must be positive and finite; got {given}")
    if spacing is not None:
        values = [v * max(n - 1, 1) for v, n in zip(values, shape, strict=True)]
    return [float(v) for v in values]
