"""Sinkhorn iterations after a network."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.geometry import Geometry
from unot_fast.models.inputs import centred, sweep
from unot_fast.solver.dispatch import backend_for, half_step

_WEIGHT = 1.7


def final_sweeps(
    a: Tensor, b: Tensor, geom: Geometry, epsilon: Tensor, g: Tensor, count: int
) -> Tensor:
    """The potential g after overrelaxed iterations, for masses (B, m_1, m_2) without zeros.

    The points are the same on either side. Where g has a gradient so has the result: then the
    iterations of the solver, which gives none for its start, are taken one by one.
    """
    backend = backend_for("auto", geom, a.device)
    if not g.requires_grad:
        return sweep(a, b, geom, epsilon, g, count, backend, _WEIGHT)
    scale = epsilon.to(g)[:, None, None]
    f = None
    for _ in range(count):
        plain = half_step(geom, b, g, epsilon, backend)
        f = plain if f is None else _relaxed(f, plain, scale)
        g = _relaxed(g, half_step(geom, a, f, epsilon, backend), scale)
    return centred(g, b)


def _relaxed(old: Tensor, new: Tensor, scale: Tensor) -> Tensor:
    """Beyond the new potential, as the solver has it: by log(w / (2 - w)) epsilon at most."""
    step = torch.tanh((new - old) / (2 * scale))
    return new + 2 * scale * torch.atanh((_WEIGHT - 1) * step)
