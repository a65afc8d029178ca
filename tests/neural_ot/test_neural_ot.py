"""Learned maps between samples: what they find, and how a fit goes on."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from unot_fast import NeuralOT, NeuralPotential
from unot_fast.neural_ot.linear_map import gaussian_map

MATRIX = torch.tensor([[1.4, 0.3], [0.3, 0.6]])
SHIFT = torch.tensor([5.0, -3.0])


def source(n, generator):
    return 2 + 0.1 * torch.randn(n, 2, generator=generator)


def target(n, generator):
    """Far from the source, and in other units."""
    return 100 * (source(n, generator) - 2) @ MATRIX + SHIFT


def exact(x):
    return 100 * (x - 2) @ MATRIX + SHIFT


def draw(n, seed):
    return source(n, torch.Generator().manual_seed(seed))


def error(found, expected):
    """L2-UVP in percent."""
    return float(100 * (found - expected).square().sum(1).mean() / expected.var(0).sum())


@pytest.mark.parametrize(("quadratic", "most"), [(None, 0.05), (0, 1.0)])
def test_gaussians(quadratic, most):
    ot = NeuralOT(2, (32, 32), quadratic=quadratic).fit(source, target, steps=300)
    x = draw(4000, 1)
    assert error(ot.transport(x), exact(x)) < most
    assert error(ot.inverse(exact(x)), x) < most
    true = float((exact(x) - x).square().sum(1).mean())
    assert ot.w2(x, exact(draw(4000, 2))) == pytest.approx(true**0.5, rel=0.02)
    assert [row.step for row in ot.history] == sorted({row.step for row in ot.history})


def test_a_map_that_is_not_linear():
    """The gradient of a convex function: its own inverse is not at hand, but for the search."""

    def bend(x):
        return x + 2 * torch.tanh(2 * x)

    def bent(n, generator):
        return bend(torch.randn(n, 2, generator=generator))

    ot = NeuralOT(2, (64, 64)).fit(
        lambda n, generator: torch.randn(n, 2, generator=generator), bent, steps=500
    )
    x = torch.randn(4000, 2)
    assert error(ot.transport(x), bend(x)) < 1.0
    assert error(ot.inverse(bend(x)), x) < 2.0
    assert error(ot.inverse(ot.transport(x)), x) < 1e-4


def test_the_dual_is_a_lower_bound():
    x, z = draw(20000, 1), exact(draw(20000, 2))
    half = float((exact(x) - x).square().sum(1).mean()) / 2
    for seed in range(3):
        ot = NeuralOT(2, (8,), seed=seed)
        with torch.no_grad():
            for p in ot.potential.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
        ot.potential.project()
        ot.units.measure(x, z)
        assert ot.dual_value(x, z) < 1.01 * half


@pytest.mark.parametrize("kind", ["tensor", "array", "loader", "plain function"])
def test_every_kind_of_samples(kind):
    x, z = draw(3000, 1), exact(draw(2000, 2))
    if kind == "array":
        x, z = x.numpy().astype(np.float64), z.numpy()
    elif kind == "loader":
        x, z = (torch.utils.data.DataLoader(torch.utils.data.TensorDataset(t), 700) for t in (x, z))
    elif kind == "plain function":
        x, z = (lambda n: draw(n, 1)), (lambda n: exact(draw(n, 2)))
    ot = NeuralOT(2, (16, 16), batch=256).fit(x, z, steps=60)
    x = draw(1000, 3)
    assert error(ot.transport(x), exact(x)) < 1.0


def test_classes():
    """Two classes that cross: class 0 to the right, class 1 to the left."""
    labels = torch.arange(2000) % 2
    x = torch.randn(2000, 2)
    z = 0.5 * torch.randn(3000, 2)
    other = torch.arange(3000) % 2
    z[:, 0] += 4.0 - 8.0 * other
    ot = NeuralOT(2, (32, 32), classes=2).fit(
        x, z, source_labels=labels, target_labels=other, steps=300
    )
    found = ot.transport(x, labels)
    for k, mean in ((0, 4.0), (1, -4.0)):
        assert found[labels == k].mean(0) == pytest.approx([mean, 0.0], abs=0.2)
        assert found[labels == k].std(0) == pytest.approx([0.5, 0.5], abs=0.1)
    back = ot.inverse(found, labels)
    assert torch.allclose(back, x, atol=1e-2)
    value = ot.dual_value(x, z, (labels, other))
    assert value == pytest.approx((16 + 2 * 0.25) / 2, rel=0.05)


def test_few_points_end_a_fit():
    """It stops when the points held back gain nothing, and keeps the best."""
    ot = NeuralOT(2, (64, 64), validations=200, patience=3)
    ot.fit(draw(60, 1), exact(draw(60, 2)), steps=2000)
    assert ot.history[-1].step < 2000
    best = max(range(len(ot.history)), key=lambda k: ot.history[k].dual)
    assert len(ot.history) - 1 - best <= 4


def test_interrupted_it_ends_the_same(tmp_path):
    x, z = draw(500, 1), exact(draw(500, 2))

    class Stop(Exception):
        pass

    def fit(path, stop_at=None):
        seen = []

        def report(row):
            seen.append(row)
            if stop_at is not None and len(seen) == stop_at:
                raise Stop

        ot = NeuralOT(2, (8, 8), batch=64, patience=100)
        return ot.fit(x, z, steps=60, checkpoint=path, report=report)

    whole = fit(None)
    from unot_fast.neural_ot import fit as module

    file, original = tmp_path / "fit.ckpt", module.Fit.run

    def run(self, **options):
        return original(self, **options | {"save_every": 0.0})

    module.Fit.run = run
    try:
        with pytest.raises(Stop):
            fit(file, stop_at=8)
        again = fit(file)
    finally:
        module.Fit.run = original
    for p, q in zip(whole.potential.parameters(), again.potential.parameters(), strict=True):
        assert torch.equal(p, q)
    assert len(again.history) == len(whole.history)
    with pytest.raises(ValueError, match="other settings"):
        NeuralOT(2, (8, 8), batch=32).fit(x, z, steps=60, checkpoint=file)


_PARALLEL = """
import sys, torch
from unot_fast import NeuralOT
from unot_fast.training.processes import rank
torch.set_num_threads(1)
if {processes} > 1:
    torch.distributed.init_process_group("gloo")
random = torch.Generator().manual_seed(0)
x, z = torch.randn(300, 2, generator=random), 2 * torch.randn(300, 2, generator=random)
ot = NeuralOT(2, (8, 8), batch=64, shards=2)
ot.fit(lambda n, generator: torch.randn(n, 2, generator=generator), z, steps=20)
if rank() == 0:
    ot.save(sys.argv[1])
if {processes} > 1:
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_fit_the_same(tmp_path):
    found = []
    for processes in (1, 2):
        script, out = tmp_path / f"{processes}.py", tmp_path / f"{processes}.safetensors"
        script.write_text(_PARALLEL.format(processes=processes))
        run = [sys.executable]
        if processes > 1:
            run += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        subprocess.run(
            [*run, str(script), str(out)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        found.append(NeuralOT.load(out))
    x = torch.randn(100, 2)
    assert torch.allclose(found[0].transport(x), found[1].transport(x), atol=1e-4)


def test_save_and_load(tmp_path):
    ot = NeuralOT(2, (8, 8), batch=64).fit(source, target, steps=20)
    ot.save(tmp_path / "ot.safetensors")
    again, x = NeuralOT.load(tmp_path / "ot.safetensors"), draw(50, 1)
    assert torch.equal(ot.transport(x), again.transport(x))
    assert torch.equal(ot.inverse(exact(x)), again.inverse(exact(x)))
    assert again.config == ot.config
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no safetensors"):
        NeuralOT.load(tmp_path / "other")


def test_an_inverse_that_was_not_found_is_an_error():
    ot = NeuralOT(2, (8, 8), batch=64).fit(source, target, steps=20)
    z = exact(draw(50, 1))
    with pytest.raises(RuntimeError, match="of 50 points did not converge in 1 gradients"):
        ot.inverse(z, tol=1e-7, max_iter=1)
    assert not ot.conjugate(z, tol=1e-7, max_iter=1).converged.all()


def test_a_free_potential_that_folds_is_told():
    """A convex net, one with concave kinks, and one that falls without end."""
    x, z = draw(3000, 1), draw(3000, 2)
    ot = NeuralOT(2, potential=NeuralPotential(2, (8, 8), convex=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ot.fit(x, z, steps=1)
    with torch.no_grad():
        ot.potential.top.fill_(-0.2)
    with pytest.warns(UserWarning, match="not one to one"):
        ot.fit(x, z, steps=1)
    with torch.no_grad():
        ot.potential.top.fill_(-1.0)
    with pytest.raises(RuntimeError, match="the dual on the points held back was never finite"):
        ot.fit(x, z, steps=1)
    assert all(p.isfinite().all() for p in ot.potential.parameters())


def test_the_map_of_gaussians():
    x = torch.randn(100_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    root = torch.tensor([[1.0, 0.2, 0.0], [0.2, 2.0, 0.3], [0.0, 0.3, 0.5]]).double()
    assert torch.allclose(gaussian_map(x, x @ root), root, atol=2e-3)


def test_arguments_are_checked():
    x, ot = torch.randn(50, 2), NeuralOT(2, (8,))
    for error, message, call in (
        (ValueError, "give either budget or steps", lambda: ot.fit(x, x, budget=1.0, steps=3)),
        (ValueError, "steps must be positive", lambda: ot.fit(x, x, steps=0)),
        (ValueError, r"source must have shape \(N, 2\)", lambda: ot.fit(x[:, :1], x, steps=1)),
        (ValueError, "target must be finite", lambda: ot.fit(x, x / 0, steps=1)),
        (TypeError, "source must be an array", lambda: ot.fit(3, x, steps=1)),
        (ValueError, "gave 3", lambda: ot.fit(lambda n: x[:3], x, steps=1)),
        (ValueError, "source has no spread", lambda: ot.fit(0 * x, x, steps=1)),
        (ValueError, r"x must have shape", lambda: ot.transport(x[:, :1])),
        (ValueError, r"z must be finite", lambda: ot.inverse(x / 0)),
        (TypeError, "potential must be", lambda: NeuralOT(2, potential=torch.nn.Linear(2, 1))),
        (ValueError, "dim = 2", lambda: NeuralOT(2, potential=NeuralPotential(3))),
        (ValueError, "batch must be positive", lambda: NeuralOT(2, batch=0)),
        (ValueError, "energy must not be negative", lambda: NeuralOT(2, energy=-1.0)),
        (ValueError, "source_labels are needed",
         lambda: NeuralOT(2, (8,), classes=2).fit(x, x, steps=1)),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
