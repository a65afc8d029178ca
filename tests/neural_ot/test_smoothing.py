"""Noise on rows, which leaves their moments as they are."""

import torch

from unot_fast import NeuralOT
from unot_fast.neural_ot.smoothing import smoothing


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(n, seed):
    return torch.randn(n, 3, generator=random(seed))


def test_moments_within_classes_stay():
    labels = torch.arange(400) % 2
    x = normal(400, 0) * torch.tensor([1.0, 2.0, 0.1]) + 10.0 * labels[:, None]
    noise = smoothing(x, labels, x[:50], labels[:50], 0.7)
    rows = torch.randint(400, (200_000,), generator=random())
    y = noise(x[rows], labels[rows], random(1))
    for k in (0, 1):
        own, drawn = x[labels == k], y[labels[rows] == k]
        assert torch.allclose(drawn.mean(0), own.mean(0), atol=0.03)
    before, after = (
        sum(torch.cov(p[q == k].T) for k in (0, 1)) for p, q in ((x, labels), (y, labels[rows]))
    )
    assert torch.allclose(after, before, atol=0.02 * float(before.max()))
    assert (y - x[rows]).norm(dim=1).min() > 0


def test_without_bandwidth_rows_are_rows():
    x = normal(50, 0)
    assert smoothing(x, None, x[:5], None, 0.0)(x, None, random()) is x


def clusters(n, seed, width=0.1):
    centres = torch.eye(3)[torch.randint(3, (n,), generator=random(seed))]
    return centres + width * normal(n, seed + 10)


def test_fewer_rows_are_smoothed_more():
    held = clusters(200, 1)
    few, more, many = (
        smoothing(clusters(n, 0), None, held, None, None).bandwidth for n in (30, 3000, 20000)
    )
    assert 0.5 > few > 1.2 * more
    assert more > 5 * many > 0


def test_narrow_clusters_are_smoothed_less():
    wide, narrow = (
        smoothing(clusters(500, 0, w), None, clusters(100, 1, w), None, None).bandwidth
        for w in (0.5, 0.02)
    )
    assert narrow < 0.3 * wide


def test_columns_that_hardly_vary_do_no_harm():
    x = normal(100, 0) * torch.tensor([1.0, 1.0, 0.0])
    noise = smoothing(x, None, x[:20] + 1e-3, None, None)
    assert noise.bandwidth > 0
    assert noise(x, None, random()).isfinite().all()


def test_fits_of_few_rows():
    """A map between the densities, not between the rows."""
    x, z, fresh = normal(80, 0), 2 * normal(80, 1), normal(2000, 2)
    errors = []
    for smooth in (0.0, None):
        ot = NeuralOT(3, (64, 64), smooth=smooth, patience=0).fit(x, z, steps=400)
        errors.append(float((ot.transport(fresh) - 2 * fresh).square().sum(1).mean()))
    assert errors[1] < 0.75 * errors[0]
