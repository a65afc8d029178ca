"""The search of the published fixed-point method, as its authors have it, for its speed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unot_fast.models import Potential


class Plain(Potential):
    """The same network in plain torch, for automatic differentiation."""

    def __init__(self, network) -> None:
        super().__init__(network.dim)
        self.network = network

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        net, h = self.network, None
        biases = net.bias[0].split(net.widths)
        for k, (w, r, b) in enumerate(zip(net.slopes, net.squares, biases, strict=True)):
            p = F.linear(x, w, b) + F.linear(x, r).square()
            h = F.softplus(p if k == 0 else p + F.linear(h, net.hidden[k - 1]), net.sharpness)
        square = F.linear(x, net.quadratic).square().sum(1) + net.strong * x.square().sum(1)
        return h @ net.top + square / 2 + x @ net.linear[0] - x.square().sum(1) / 2


def published_search(
    potential, z: Tensor, tol: float = 1e-3, max_iter: int = 1000
) -> tuple[Tensor, int]:
    """Damped gradient steps until the worst point of the batch is below ``tol``.

    A step 0.1 / L, L from 20 power iterations through two backward passes at the start; a gradient
    by automatic differentiation for the step and one more for the residual; the host is asked
    after every step.

    Returns
    -------
    tuple of Tensor, shape (B, d), and int
        The points, and the steps taken.
    """

    def gradient(y: Tensor, graph: bool = False) -> Tensor:
        y = y.requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(potential(y).sum(), y, create_graph=graph)[0]

    step = 0.1 / (_greatest_curvature(gradient, z) + 1e-8)
    y = z.clone()
    steps = 0
    while steps < max_iter:
        steps += 1
        y = (y - step * (y - z + gradient(y))).detach()
        residual = (y - z + gradient(y)).norm(dim=1).max().item()
        y = y.detach()
        if residual < tol:
            break
    return y, steps


def _greatest_curvature(gradient, z: Tensor) -> float:
    y = z.clone().requires_grad_()
    v = torch.nn.functional.normalize(torch.randn_like(z), dim=1)
    for _ in range(21):
        (product,) = torch.autograd.grad((gradient(y, graph=True) * v).sum(), y)
        length = product.norm(dim=1, keepdim=True)
        v = product / length.clamp_min(1e-12)
    return float(length.max())
