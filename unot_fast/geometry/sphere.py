"""The sphere, on grids of latitudes and longitudes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unot_fast.geometry.base import Coarser, Geometry, Structure, lasting
from unot_fast.geometry.cells import block_middles, blocks, pooled
from unot_fast.geometry.lines import CELL_BLUR, LineCost, pairs
from unot_fast.geometry.numbers import check_integer

GRIDS = ("equiangular", "legendre-gauss")
COSTS = ("geodesic", "chordal")


class Sphere(Geometry):
    r"""Points on the unit sphere, with a cost that is a power of their distance.

    Source and target are the same grid. Measures on it are masses per point. What is given as a
    density, per unit of area, becomes masses by `masses`; the cells near the poles are small.

    Parameters
    ----------
    nlat, nlon : int
        Circles of latitude, from the north to the south, and points on each, from longitude 0
        eastwards; the last one is not the first one again.
    cost : {"geodesic", "chordal"}
        ``"geodesic"`` is the angle :math:`\arccos \langle x, y \rangle`, ``"chordal"`` the
        straight :math:`|x - y|`.
    p : float
        Exponent of the distance, p >= 1.
    grid : {"equiangular", "legendre-gauss"}
        ``"equiangular"`` has equally spaced colatitudes from 0 to pi, poles included, with
        Clenshaw-Curtis weights; ``"legendre-gauss"`` has the nodes and weights of Gauss-Legendre
        quadrature in the sine of the latitude. Names and conventions are those of
        torch-harmonics.

    Attributes
    ----------
    latitudes, longitudes : Tensor, shapes (nlat,) and (nlon,)
        In radians, float64.
    weights : Tensor, shape (nlat, nlon)
        Area of every point, of total 4 pi. None on the published grid, which has none.
    lines : LineCost
        The cost between circles of latitude.
    max_cost : float

    Raises
    ------
    ValueError
        An argument is out of its range; the message names it.

    Examples
    --------
    >>> from unot_fast import Sphere
    >>> Sphere(32, 64).shape
    (32, 64)
    """

    structure = Structure.SPHERICAL
    _blur = (0.0, 0.0)  # added to squared distances, between cells: of latitudes, of longitudes

    @lasting
    def __init__(
        self,
        nlat: int,
        nlon: int,
        cost: str = "geodesic",
        *,
        p: float = 1.0,
        grid: str = "equiangular",
    ):
        for name, n, least in (("nlat", nlat, 2), ("nlon", nlon, 1)):
            check_integer(name, n, least=least)
        if grid not in GRIDS:
            raise ValueError(f"grid must be one of {GRIDS}; got {grid!r}")
        nodes, weights = _QUADRATURES[grid](nlat)
        longitudes = torch.arange(nlon, dtype=torch.float64) * (2 * math.pi / nlon)
        self._set(torch.asin(nodes), longitudes, cost, p)
        self.weights = (weights * (2 * math.pi / nlon))[:, None].expand(nlat, nlon)
        self.grid = grid

    @classmethod
    @lasting
    def published(cls, n: int) -> Sphere:
        """The n x n grid and cost of the published spherical model.

        Latitudes and longitudes run over ``linspace`` with both ends, so that every pole stands n
        times and the seam twice; there are no areas; the cost is the angle divided by 10.
        """
        check_integer("n", n, least=2)
        sphere = cls.__new__(cls)
        latitudes = torch.linspace(-math.pi / 2, math.pi / 2, n, dtype=torch.float64)
        longitudes = torch.linspace(0, 2 * math.pi, n, dtype=torch.float64)
        sphere._set(latitudes, longitudes, "geodesic", 1.0, scale=0.1)
        sphere.grid = "published"
        return sphere

    def _set(
        self, latitudes: Tensor, longitudes: Tensor, cost: str, p: float, scale: float = 1.0
    ) -> None:
        if cost not in COSTS:
            raise ValueError(f"cost must be one of {COSTS}; got {cost!r}")
        if not 1 <= p < math.inf:
            raise ValueError(f"p must be a number >= 1; got {p!r}")
        self.cost, self.p, self.scale = cost, float(p), scale
        self.latitudes, self.longitudes = latitudes, longitudes
        self.weights = None
        self.shape = self.target_shape = (len(latitudes), len(longitudes))
        self.lines = self._between(
            latitudes, latitudes, len(longitudes), self._spacing, blur=self._blur
        )
        self.max_cost = float(self.lines.table.max())

    @property
    def _spacing(self) -> float:
        return float(self.longitudes[1]) if len(self.longitudes) > 1 else 0.0

    @property
    def ndim(self) -> int:
        return 2

    @property
    def kernel_costs(self) -> tuple[str, tuple[Tensor, ...]]:
        return "stationary", (self.lines.table, self.lines.row_class)

    def masses(self, density: Tensor) -> Tensor:
        """Mass of every point, of a density per unit of area, shape (\\*batch, nlat, nlon)."""
        return density * self._areas().to(density)

    def density(self, mass: Tensor) -> Tensor:
        """Mass per unit of area, the inverse of `masses`."""
        return mass / self._areas().to(mass)

    def _areas(self) -> Tensor:
        if self.weights is None:
            raise ValueError("this grid has no areas: its poles and its seam stand several times")
        return self.weights

    def points(self, side: str = "source") -> Tensor:
        return _on_sphere(self.latitudes, self.longitudes)

    def cost_matrix(self, rows: Tensor | None = None) -> Tensor:
        y = self.points().reshape(-1, 3)
        x = (y if rows is None else y[rows])[:, None]
        level = y[..., 2].square().neg().add(1).clamp_min(0).sqrt()  # cosines of the latitudes
        own = level if rows is None else level[rows]
        blur = self._blur[0] + self._blur[1] * own[:, None] * level
        return self._distance_cost((x - y).norm(dim=-1), (x + y).norm(dim=-1), blur)

    @lasting
    def halved(self) -> Coarser:
        """The sphere on cells of two circles and two longitudes."""
        nlat, nlon = self.shape
        rows, columns = pairs(nlat), pairs(nlon, nlon > 1)
        step = 2 if nlon > 1 else 1
        latitudes = (rows @ self.latitudes) / rows.sum(1)
        longitudes = (torch.arange(len(columns)) * step + 0.5 * (step - 1)) * self._spacing
        coarse = Sphere.__new__(Sphere)
        width = float(latitudes.diff().abs().mean()) if nlat > 2 else 1.0
        coarse._blur = CELL_BLUR * width**2, CELL_BLUR * (step * self._spacing) ** 2
        coarse._set(latitudes, longitudes - longitudes[0], self.cost, self.p, self.scale)
        coarse.grid = "cells"
        half = tuple(blur / 2 for blur in coarse._blur)
        prolongation = self._between(
            self.latitudes, latitudes, len(columns), self._spacing, step, nlon, half
        )
        resolved = self.scale * width**self.p * 4 ** (min(self.p, 2.0) - 2)
        return Coarser(coarse, (rows, columns), (rows, columns), prolongation, resolved)

    @lasting
    def cells(self, shape: Sequence[int]) -> Coarser:
        nlat, nlon = shape
        pools = blocks(self.shape[0], nlat), blocks(self.shape[1], nlon)
        latitudes = pools[0] @ self.latitudes / pools[0].sum(1)
        longitudes = block_middles(self.longitudes, nlon)
        coarse = Sphere.__new__(Sphere)
        width, step = float(latitudes.diff().abs().mean()), float(longitudes.diff().mean())
        height = float(self.latitudes.diff().abs().mean())
        excess = max(width**2 - height**2, 0.0), max(step**2 - self._spacing**2, 0.0)
        coarse._blur = tuple(CELL_BLUR * x for x in excess)
        coarse._set(latitudes, longitudes - longitudes[0], self.cost, self.p, self.scale)
        coarse.grid = "cells"
        if self.weights is not None:
            coarse.weights = pooled(self.weights[None], pools)[0]
        x, y = self.points().reshape(-1, 1, 3), _on_sphere(latitudes, longitudes).reshape(-1, 3)
        blur = (coarse._blur[0] + coarse._blur[1] * latitudes.cos().square()) / 2
        blur = blur.repeat_interleave(nlon)
        cost = self._distance_cost((x - y).norm(dim=-1), (x + y).norm(dim=-1), blur)
        resolved = self.scale * width**self.p * 4 ** (min(self.p, 2.0) - 2)
        return Coarser(coarse, pools, pools, cost, resolved)

    def _between(
        self,
        source: Tensor,
        target: Tensor,
        m: int,
        spacing: float,
        step: int = 1,
        n: int | None = None,
        blur: tuple[float, float] = (0.0, 0.0),
    ) -> LineCost:
        """Cost between circles; target positions stand at the middle of ``step`` source ones."""
        # sin^2(d / 2) = sin^2((lat - lat') / 2) + cos(lat) cos(lat') sin^2(dlon / 2), and
        # cos^2(d / 2) is the same with lat + lat' and the cosine of dlon / 2.
        x, y = source[:, None], target
        key = torch.stack(
            [
                torch.sin((x - y) / 2) ** 2,
                torch.sin((x + y) / 2) ** 2,
                (torch.cos(x) * torch.cos(y)).clamp_min(0),
            ],
            dim=-1,
        )

        def cost(key: Tensor, shift: Tensor) -> Tensor:
            angle = (shift - 0.5 * (step - 1)) * (spacing / 2)
            near = key[..., 0] + key[..., 2] * torch.sin(angle) ** 2
            far = key[..., 1] + key[..., 2] * torch.cos(angle) ** 2
            widths = blur[0] + key[..., 2] * blur[1]
            return self._distance_cost(near.sqrt(), far.sqrt(), widths)

        return LineCost.of(key, m if n is None else n, m, cost, step)

    def _distance_cost(self, near: Tensor, far: Tensor, blur: Tensor | float = 0.0) -> Tensor:
        """Cost by a multiple of the chords to a point and to its antipode.

        The angle between them, not the arccosine of a dot product, which cannot tell near points
        apart, nor points near the antipode.
        """
        angle = 2 * torch.atan2(near, far)
        distance = angle if self.cost == "geodesic" else 2 * torch.sin(angle / 2)
        return self.scale * (distance.square() + blur).pow(self.p / 2)

    def __repr__(self) -> str:
        p = "" if self.p == 1 else f", p={self.p:g}"
        return f"Sphere({self.shape[0]}, {self.shape[1]}, {self.cost!r}{p}, grid={self.grid!r})"


def _on_sphere(latitudes: Tensor, longitudes: Tensor) -> Tensor:
    """Unit vectors, shape (nlat, nlon, 3)."""
    latitude, longitude = torch.meshgrid(latitudes, longitudes, indexing="ij")
    level = latitude.cos()
    return torch.stack([level * longitude.cos(), level * longitude.sin(), latitude.sin()], dim=-1)


def _clenshaw_curtis(n: int) -> tuple[Tensor, Tensor]:
    """Nodes cos(pi i / (n - 1)) and the weights that integrate their polynomials."""
    theta = torch.linspace(0, math.pi, n, dtype=torch.float64)
    k = torch.arange(0, n, 2, dtype=torch.float64)
    # Integrals of T_k over [-1, 1], by the discrete cosine transform with halved ends.
    coefficients = 2 / (1 - k**2)
    ends = torch.where((k == 0) | (k == n - 1), 0.5, 1.0)
    weights = (torch.cos(theta[:, None] * k) * (coefficients * ends)).sum(1) * 2 / (n - 1)
    weights[0] /= 2
    weights[-1] /= 2
    nodes = torch.cos(theta)
    return nodes, weights


def _legendre_gauss(n: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    order = np.argsort(-nodes)
    return torch.from_numpy(nodes[order].copy()), torch.from_numpy(weights[order].copy())


_QUADRATURES = {"equiangular": _clenshaw_curtis, "legendre-gauss": _legendre_gauss}
