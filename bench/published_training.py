"""The training loop of the published UNOT, as its authors have it, for its speed.

Dense kernels that every mini-batch builds anew, a network by `torch.fft`, gradients of the network
in the generator's step too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.unot import network, network_inputs, published_block
from unot_fast.models import Generator

EPSILON, STEPS, DUST = 0.01, 5, 1e-6


class PublishedTraining:
    """Predictor and generator, one mini-batch of either at a time."""

    def __init__(self, batch: int = 64, channels: int = 64, hidden: int = 256, depth: int = 4):
        self.batch = batch
        _, *parameters = network_inputs(64, 1, channels, hidden, 10, depth)
        self.parameters = []
        for p in parameters:
            p = p.to(torch.complex64 if p.is_complex() else torch.float32)
            self.parameters.append(p.detach().requires_grad_())
        self.generator = Generator(64)
        self.optimiser = torch.optim.AdamW(self.parameters, 1e-4, weight_decay=1e-4)
        self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), 1e-3)

    def predictor_step(self, n: int) -> float:
        """On pairs of the generator, brought to n x n points."""
        with torch.no_grad():
            pair = self.generator(torch.randn(self.batch, 2, 10, 10))
            mu, nu = (self._resized(x, n) for x in pair)
        self.optimiser.zero_grad()
        loss = self._loss(mu, nu)
        loss.backward()
        self.optimiser.step()
        return float(loss)

    def generator_step(self) -> float:
        """At the generator's own resolution."""
        self.generator_optimiser.zero_grad()
        loss = -self._loss(*self.generator(torch.randn(self.batch, 2, 10, 10)))
        loss.backward()
        self.generator_optimiser.step()
        self.optimiser.zero_grad()
        return float(loss)

    def _loss(self, mu: Tensor, nu: Tensor) -> Tensor:
        prediction = network(published_block, torch.stack([mu, nu], 1), *self.parameters)[:, 0]
        with torch.no_grad():
            target = _dense_steps(mu, nu, prediction)
        return F.mse_loss(prediction, target)

    def _resized(self, x: Tensor, n: int) -> Tensor:
        x = F.interpolate(x[:, None], size=(n, n), mode="bilinear", align_corners=False)[:, 0]
        x = x - x.amin((1, 2), keepdim=True)
        x = x / x.sum((1, 2), keepdim=True) + DUST
        return x / x.sum((1, 2), keepdim=True)


def _dense_steps(mu: Tensor, nu: Tensor, log_v: Tensor) -> Tensor:
    """Log of the scaling v after some iterations on the dense kernel, less its mean."""
    n = mu.shape[-1]
    line = torch.linspace(0, 1, n)
    points = torch.cartesian_prod(line, line)
    kernel = torch.exp(-torch.cdist(points, points).square() / EPSILON)
    mu, nu = mu.flatten(1), nu.flatten(1)
    v = log_v.flatten(1).exp()
    for _ in range(STEPS):
        u = mu / (v @ kernel.T)
        v = nu / (u @ kernel)
    log_v = v.log()
    return (log_v - log_v.mean(1, keepdim=True)).view(-1, n, n)
