"""A potential of input-convex shape, its gradients and its Hessian, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def potential(x: Tensor, *inputs) -> Tensor:
    return Network(x, *inputs).value().to(x.dtype)


def potential_gradient(x: Tensor, *inputs) -> Tensor:
    return Network(x, *inputs).gradient().to(x.dtype)


def potential_vjp(grad: Tensor, x: Tensor, *inputs) -> tuple[Tensor, ...]:
    net, grad = Network(x, *inputs), grad.double()
    dmaps, dbias, dhidden = [], [], []
    for k, layer in enumerate(net.layers):
        delta = grad[:, None] * layer.delta
        dmaps += [delta.T @ net.x, (2 * layer.r * delta).T @ net.x]
        dbias.append(delta)
        if k:
            dhidden.append(delta.T @ net.layers[k - 1].h)
    dmaps.append((grad[:, None] * (net.x @ net.a.T)).T @ net.x)
    chosen = torch.nn.functional.one_hot(net.labels, net.classes).double()
    return tuple(
        t.to(x.dtype)
        for t in (
            grad[:, None] * net.gradient(),
            torch.cat(dmaps),
            chosen.T @ torch.cat(dbias, dim=1),
            grad @ net.layers[-1].h,
            chosen.T @ (grad[:, None] * net.x),
            *dhidden,
        )
    )


@dataclass
class Layer:
    w: Tensor
    square: Tensor  # R
    r: Tensor  # R x
    p: Tensor
    h: Tensor
    slope: Tensor  # of the softplus
    delta: Tensor | None = None  # derivative of u in p


class Network:
    """Everything about the network at every row of ``x``."""

    def __init__(
        self,
        x: Tensor,
        labels: Tensor | None,
        maps: Tensor,
        hidden: Sequence[Tensor],
        bias: Tensor,
        top: Tensor,
        linear: Tensor,
        strong: float,
        sharpness: float,
    ) -> None:
        self.x, self.top, self.strong, self.sharpness = x.double(), top.double(), strong, sharpness
        self.labels = x.new_zeros(len(x), dtype=torch.int64) if labels is None else labels
        self.classes, self.hidden = len(bias), [v.double() for v in hidden]
        self.linear = linear.double()[self.labels]
        widths = [*(v.shape[1] for v in hidden), len(top)]
        sizes = [n for width in widths for n in (width, width)]
        *rows, self.a = maps.double().split([*sizes, len(maps) - sum(sizes)])
        self.layers: list[Layer] = []
        for k, b in enumerate(bias.double()[self.labels].split(widths, dim=1)):
            w, square = rows[2 * k : 2 * k + 2]
            r = self.x @ square.T
            p = r**2 + self.x @ w.T + b
            if k:
                p = p + self.layers[-1].h @ self.hidden[k - 1].T
            h = torch.logaddexp(sharpness * p, torch.zeros_like(p)) / sharpness
            self.layers.append(Layer(w, square, r, p, h, torch.sigmoid(sharpness * p)))
        above = self.top
        for k in reversed(range(len(self.layers))):
            self.layers[k].delta = above * self.layers[k].slope
            if k:
                above = self.layers[k].delta @ self.hidden[k - 1]

    def value(self) -> Tensor:
        square = (self.x @ self.a.T).square().sum(1) + self.strong * self.x.square().sum(1)
        return self.layers[-1].h @ self.top + square / 2 + (self.linear * self.x).sum(1)

    def gradient(self) -> Tensor:
        total = self.x @ self.a.T @ self.a + self.strong * self.x + self.linear
        for layer in self.layers:
            total = total + layer.delta @ layer.w + (2 * layer.r * layer.delta) @ layer.square
        return total

    def hessian(self) -> Tensor:
        """Shape (B, d, d): curvature of every activation, and of every square."""
        total = self.a.T @ self.a + self.strong * torch.eye(self.x.shape[1]).to(self.x)
        below = None
        for k, layer in enumerate(self.layers):
            slope = layer.w + 2 * layer.r[..., None] * layer.square  # of p in x
            if k:
                slope = slope + self.hidden[k - 1] @ (self.layers[k - 1].slope[..., None] * below)
            curved = layer.delta * self.sharpness * (1 - layer.slope)
            total = total + slope.mT @ (curved[..., None] * slope)
            total = total + 2 * layer.square.T @ (layer.delta[..., None] * layer.square)
            below = slope
        return total
