"""The points where u(y) - z . y is least, by damped Newton steps with dense Hessians in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from unot_fast.reference.potential import Network


def c_transform(
    z: Tensor,
    labels: Tensor | None,
    start: Tensor,
    tolerance: Tensor,
    maps: Tensor,
    hidden: list[Tensor],
    bias: Tensor,
    top: Tensor,
    linear: Tensor,
    preconditioner: Tensor | None,
    strong: float,
    sharpness: float,
    memory: int,
    max_iter: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def network(y: Tensor) -> Network:
        return Network(y, labels, maps, hidden, bias, top, linear, strong, sharpness)

    y, target, tol = start.double(), z.double(), tolerance.double()
    n_iters = torch.ones(len(z), dtype=torch.int32, device=z.device)
    for _ in range(max_iter - 1):
        net = network(y)
        f = net.gradient() - target
        open_ = f.norm(dim=1) > tol
        if not open_.any():
            break
        eigenvalues, vectors = torch.linalg.eigh(net.hessian())
        newton = vectors @ ((vectors.mT @ f[..., None]) / eigenvalues.abs()[..., None])
        step = torch.where(open_[:, None], -newton[..., 0], 0.0)
        here, down = net.value() - (target * y).sum(1), (f * step).sum(1)
        length = torch.ones_like(tol)
        for _ in range(50):
            trial = y + length[:, None] * step
            gain = here - (network(trial).value() - (target * trial).sum(1))
            # Near the end what is gained drowns in rounding.
            short = (gain < -1e-4 * length * down) & (down.abs() > 1e-13 * (1 + here.abs()))
            if not short.any():
                break
            length = torch.where(short, length / 2, length)
        y = y + length[:, None] * step
        n_iters += open_.int()
    residual = (network(y).gradient() - target).norm(dim=1)
    return y.to(z.dtype), residual.to(z.dtype), n_iters, residual <= tol
