"""Potentials of any shape, for the tests of operators."""

from __future__ import annotations

import itertools

import torch

SHAPES = [  # dim, widths, classes, rows of the quadratic term, points
    (3, (5, 7), 1, 3, 100),
    (2, (8,), 3, 0, 1),
    (64, (128, 128), 1, 64, 130),
    (17, (33, 20, 9), 4, 5, 70),
    (1, (3,), 1, 1, 65),
    (5, (16, 16), 2, 5, 0),
]
OPTIONS = {"strong": 0.1, "sharpness": 10.0}


def problem(dim, widths, classes, quadratic, points, convex=True):
    """x, labels, and the weights of a potential that is far from simple."""

    def normal(*shape, scale=1.0):
        return torch.randn(*shape, dtype=torch.float64) * scale

    maps = torch.cat(
        (
            normal(2 * sum(widths), dim, scale=0.5 * dim**-0.5),
            normal(quadratic, dim, scale=dim**-0.5),
        )
    )
    hidden = [normal(n, below) / below for below, n in itertools.pairwise(widths)]
    top = normal(widths[-1]) / widths[-1]
    if convex:
        hidden, top = [v.abs() for v in hidden], top.abs()
    labels = torch.randint(classes, (points,)) if classes > 1 else None
    bias, linear = normal(classes, sum(widths)), normal(classes, dim, scale=0.1)
    return [normal(points, dim), labels, maps, hidden, bias, top, linear]


def converted(arguments, dtype, grad=False):
    """In another precision; tensors that have a gradient, if asked for, second."""
    leaves = []

    def one(x):
        if isinstance(x, list):
            return [one(t) for t in x]
        if x is None or not x.is_floating_point():
            return x
        x = x.to(dtype).detach().requires_grad_(grad)
        leaves.append(x)
        return x

    return [one(x) for x in arguments], leaves
