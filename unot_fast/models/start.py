"""The trained network that fits a problem, as a start of the solver."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from unot_fast.geometry import Geometry, Grid, Sphere
from unot_fast.models import weights
from unot_fast.models.unot import UNOT
from unot_fast.ops.compiling import constant_object_when_compiled


def unot_start(a: Tensor, b: Tensor, geom: Geometry, epsilon: Tensor) -> Tensor:
    """Potential g by the network that comes with the package for the cost of a geometry.

    Raises
    ------
    ValueError
        There is none, or epsilon is outside its range.
    """
    with torch.no_grad():
        return _network(geom, a.device)(a, b, geom, epsilon)


@constant_object_when_compiled
def _network(geom: Geometry, device: torch.device) -> UNOT:
    name = _name(geom)
    if name not in weights.pretrained():
        raise ValueError(
            f"init='unot': no trained network has the cost of {geom!r}; there are "
            + ", ".join(map(repr, weights.pretrained()))
        )
    return _loaded(name, device)


def _name(geom: Geometry) -> str | None:
    if isinstance(geom, Sphere):
        return "sphere" if geom.cost == "geodesic" and geom.p == 1 else None
    return geom.cost if isinstance(geom, Grid) and isinstance(geom.cost, str) else None


@functools.cache
def _loaded(name: str, device: torch.device) -> UNOT:
    return weights.load(name).to(device)
