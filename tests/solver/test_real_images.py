"""The promises of the default settings, on real images."""

import pytest
import torch

import unot_fast
from tests.conftest import normalised
from unot_fast import Grid

CELLS = {
    "MNIST": ("mnist", "mnist", 28),
    "CIFAR": ("cifar10", "cifar10", 28),
    "CIFAR-MNIST": ("cifar10", "mnist", 28),
    "LFW": ("lfw", "lfw", 64),
    "BEAR": ("bears", "bears", 64),
    "LFW-BEAR": ("lfw", "bears", 64),
}
EPS = 0.01


def pairs(images, cell, count, dust=1e-6):
    source, target, n = CELLS[cell]
    generator = torch.Generator().manual_seed(0)
    sides = []
    for name in (source, target):
        stack = normalised(images(name, n), dust=dust)
        sides.append(stack[torch.randint(len(stack), (count,), generator=generator)])
    return *sides, Grid((n, n))


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_iterations_to_one_percent_and_one_permille(images, cell):
    a, b, grid = pairs(images, cell, 128)
    exact = unot_fast.sinkhorn(a, b, grid, EPS, tol=1e-9)
    assert bool(exact.converged.all())
    errors = torch.stack(
        [
            (unot_fast.sinkhorn(a, b, grid, EPS, tol=0, max_iter=k).cost / exact.cost - 1).abs()
            for k in range(1, 21)
        ]
    )

    def iterations(threshold):
        reached = errors < threshold
        assert bool(reached.any(0).all())
        return float((reached.double().argmax(0) + 1.0).mean())

    assert float(errors[0].mean()) <= 0.008
    assert iterations(1e-2) <= 1.5
    assert iterations(1e-3) <= 4.5


@pytest.mark.parametrize("cell", CELLS)
def test_default_settings_are_accurate(images, cell):
    a, b, grid = pairs(images, cell, 32)
    exact = unot_fast.sinkhorn(a, b, grid, EPS, tol=1e-10, init="zeros")
    default = unot_fast.sinkhorn(a, b, grid, EPS)
    assert bool(default.converged.all())
    assert float((default.cost / exact.cost - 1).abs().max()) < 2e-3
    tight = unot_fast.sinkhorn(a, b, grid, EPS, tol=1e-10)
    assert torch.allclose(tight.cost, exact.cost, rtol=1e-8)


@pytest.mark.parametrize("dust", [0.0, 1e-12, 1e-4])
@pytest.mark.parametrize("eps", [0.002, 0.05])
def test_digits_with_any_background(images, dust, eps):
    a, b, grid = pairs(images, "MNIST", 8, dust)
    multi = unot_fast.sinkhorn(a, b, grid, eps, tol=1e-9, max_iter=20_000)
    zeros = unot_fast.sinkhorn(a, b, grid, eps, tol=1e-9, max_iter=20_000, init="zeros")
    both = multi.converged & zeros.converged
    assert int(both.sum()) >= 6  # a digit of separate strokes may need more iterations
    assert torch.allclose(multi.cost[both], zeros.cost[both], rtol=1e-7)
    assert bool(multi.f.isfinite().all() & multi.g.isfinite().all())
