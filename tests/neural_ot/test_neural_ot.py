"""Learned maps between samples: what they find, and how a fit goes on."""

import dataclasses
import itertools
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from unot_fast import NeuralOT, NeuralPotential, PowerCost
from unot_fast.neural_ot.balance import balanced
from unot_fast.neural_ot.fit import Fit
from unot_fast.neural_ot.linear_map import gaussian_map
from unot_fast.neural_ot.maps import Maps

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


def test_more_points_of_the_source_than_of_the_target():
    """They cost no search; a discrepancy takes as many of both."""
    asked = {"source": [], "target": []}

    def side(name):
        def draw(n):
            asked[name].append(n)
            return torch.randn(n, 2)

        return draw

    ot = NeuralOT(2, (8, 8), batch=16, source_draws=3, held_back=7, energy=1.0)
    ot.fit(side("source"), side("target"), steps=2)
    assert asked == {"source": [10_000, 7, 48, 48], "target": [10_000, 7, 16, 16]}


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
    assert again.standardize
    NeuralOT(2, standardize=False).save(tmp_path / "plain")
    assert not NeuralOT.load(tmp_path / "plain").standardize
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
        (ValueError, "classes = 3", lambda: NeuralOT(2, classes=3, potential=NeuralPotential(2))),
        (TypeError, "source must hold floating-point", lambda: ot.fit(x.long(), x, steps=1)),
        (TypeError, "source must hold floating-point", lambda: ot.fit(x + 1j, x, steps=1)),
        (ValueError, "batch must be positive", lambda: NeuralOT(2, batch=0)),
        (ValueError, "source_draws must be positive", lambda: NeuralOT(2, source_draws=0)),
        (ValueError, "energy must not be negative", lambda: NeuralOT(2, energy=-1.0)),
        (ValueError, "source_labels are needed",
         lambda: NeuralOT(2, (8,), classes=2).fit(x, x, steps=1)),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()


def test_classes_as_often_as_they_come():
    """Three quarters of the source, and a quarter of the target, are of class 0."""

    def side(share, scale, shift):
        def draw(n, generator):
            labels = (torch.rand(n, generator=generator) > share).long()
            x = scale * torch.randn(n, 2, generator=generator)
            x[:, 0] += shift * (1 - 2 * labels)
            return x, labels

        return draw

    first, second = side(0.75, 1.0, 0.0), side(0.25, 0.5, 4.0)
    ot = NeuralOT(2, (32, 32), classes=2, batch=256).fit(first, second, steps=250)
    (x, labels), (z, other) = (f(4000, torch.Generator().manual_seed(5)) for f in (first, second))
    aim = 0.5 * x
    aim[:, 0] += 4.0 * (1 - 2 * labels)
    assert error(ot.transport(x, labels), aim) < 2.0
    value = ot.dual_value(x, z, (labels, other))
    assert value == pytest.approx((16 + 2 * 0.25) / 2, rel=0.05)
    assert ot.history[-1].dual == pytest.approx(ot.history[-2].dual, rel=0.05)
    with torch.no_grad():
        u = ot.potential.convex_value
        before = u(x[:1], labels[:1] * 0)
        ot.potential.bias[0, -1] += 3.0  # next to a constant, for class 0 alone
        assert (u(x[:1], labels[:1] * 0) - before).abs() > 0.001
    assert ot.dual_value(x, z, (labels, other)) == pytest.approx(value, rel=0.05)


def test_balanced_weights():
    x, z = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1, 2])
    own, others = balanced(x, z, 3)
    share = torch.tensor([0.75 + 0.2, 0.25 + 0.6]).double()
    share = share / share.sum()
    for labels, weights in ((x, own), (z, others)):
        for k in (0, 1):
            assert weights[labels == k].sum() == pytest.approx(float(share[k]))
    assert others[4] == 0
    own, others = balanced(x, z, 3, torch.zeros(5).bool())
    assert (own == 0).all()
    assert (others == 0).all()


def test_a_class_that_is_absent_is_told():
    x, labels = torch.randn(60, 2), torch.arange(60) % 3
    ot = NeuralOT(2, (8,), classes=3)
    message = r"target must have points of all 3 classes; none of 60 is of class 2"
    with pytest.raises(ValueError, match=message):
        ot.fit(x, x, source_labels=labels, target_labels=labels % 2, steps=1)
    rare = torch.where(torch.arange(60) == 1, 1, 2 * (labels > 0))
    with pytest.raises(ValueError, match="source must have two rows of class 1 at least; got 1"):
        ot.fit(x, x, source_labels=rare, target_labels=labels, steps=1)
    with pytest.raises(ValueError, match="z must have points of all 3 classes"):
        ot.dual_value(x, x, (labels, labels % 2))


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    x, z, file = draw(200, 1), exact(draw(200, 2)), tmp_path / "fit.ckpt"
    options = {"steps": 5, "checkpoint": file}

    def make(cost=None, **more):
        return NeuralOT(2, (8, 8), batch=64, cost=cost, **more)

    make().fit(x, z, **options)
    make().fit(x, z, **options)
    for ot, first, second, other in (
        (make(), x + 1e-3, z, "source"),
        (make(), x, z[:150], "target"),
        (make(PowerCost(1.5)), x, z, "cost"),
        (make(standardize=False), x, z, "standardize"),
        (NeuralOT(2, batch=64, potential=NeuralPotential(2, (8, 8), strong=0.02)), x, z,
         "potential"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"of another .*{other}.*; delete .*fit.ckpt"):
            ot.fit(first, second, **options)
    make().fit(source, target, steps=5, checkpoint=tmp_path / "other")
    make().fit(source, target, steps=8, checkpoint=tmp_path / "other")
    with pytest.raises(ValueError, match="of another source or target"):
        make().fit(source, lambda n, generator: 3 + source(n, generator), steps=8,
                   checkpoint=tmp_path / "other")  # fmt: skip


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interruption_is_saved(tmp_path, error):
    file, asked = tmp_path / "fit.ckpt", []

    def broken(n, generator):
        asked.append(n)
        if len(asked) == 12:
            raise error
        return source(n, generator)

    ot = NeuralOT(2, (8, 8), batch=64)
    with pytest.raises(error):
        ot.fit(broken, target, steps=100, checkpoint=file)
    assert torch.load(file, weights_only=True)["steps"] == 9
    assert ot.fit(source, target, steps=12, checkpoint=file).history[-1].step == 12


def test_every_quarter_is_saved(tmp_path, monkeypatch):
    saved, original = [], Fit.save

    def save(self, path):
        saved.append(self.steps)
        original(self, path)

    monkeypatch.setattr(Fit, "save", save)
    ot = NeuralOT(2, (8, 8), batch=64, patience=0)
    ot.fit(source, target, steps=20, checkpoint=tmp_path / "fit")
    assert len(saved) == 4
    assert max(b - a for a, b in itertools.pairwise((0, *saved))) <= 6


def test_values_of_searches_that_did_not_converge_are_an_error():
    ot = NeuralOT(2, (8, 8), batch=64).fit(source, target, steps=20)
    x, z = draw(50, 1), exact(draw(50, 2))
    for call in (ot.dual_value, ot.w2):
        with pytest.raises(RuntimeError, match="dual_value: 50 of 50 points did not converge in 1"):
            call(x, z, tol=1e-7, max_iter=1)


def test_weights_that_cannot_be_judged_are_not_taken(monkeypatch):
    """The searches of the last validations fail: what is before them is the result, and told."""
    original, seen = Maps.search, []

    def search(self, z, labels=None, **options):
        found = original(self, z, labels, **options)
        if options["max_iter"] < 200:
            return found
        seen.append(0)
        bad = torch.zeros_like(found.converged) if len(seen) > 2 else found.converged
        return dataclasses.replace(found, converged=bad)

    monkeypatch.setattr(Maps, "search", search)
    ot = NeuralOT(2, (8, 8), batch=64, validations=4)
    with pytest.warns(UserWarning, match="what there was after 10 of 20 steps"):
        ot.fit(source, target, steps=20)
    assert [row.dual > -torch.inf for row in ot.history] == [True, True, False, False]


def test_columns_of_very_different_scale_are_told():
    x = torch.randn(500, 2)
    wide, narrow = x * torch.tensor([1.0, 1e-3]), x * torch.tensor([1e-3, 1.0])
    with pytest.warns(UserWarning, match="Columns of very different scale"):
        NeuralOT(2, (8,)).fit(wide, narrow, steps=1)
    with pytest.warns(UserWarning, match=r"strong = 1 keeps the map from contracting"):
        NeuralOT(2, potential=NeuralPotential(2, (8,), strong=1.0), standardize=False).fit(
            x, x / 2, steps=1
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NeuralOT(2, (8,)).fit(x, 2 * x, steps=1)


def test_one_point():
    ot = NeuralOT(2, (8, 8), batch=64).fit(source, target, steps=20)
    z = exact(draw(3, 1))
    assert torch.allclose(ot.inverse(z[0]), ot.inverse(z)[0], atol=1e-5)
    assert ot.conjugate(z[0]).value.shape == ()
    assert ot.inverse(z.view(1, 3, 1, 2)).shape == (1, 3, 1, 2)
    assert ot.transport(z[0]).shape == (2,)


def test_a_potential_of_another_precision_is_copied():
    potential = NeuralPotential(2, (8,)).double()
    ot = NeuralOT(2, potential=potential)
    assert potential.top.dtype is torch.float64
    assert ot.potential.top.dtype is torch.float32
    single = NeuralPotential(2, (8,))
    assert NeuralOT(2, potential=single).potential is single


def test_points_that_a_dual_value_cannot_take_are_told():
    x, z = torch.randn(40, 2), 2 * torch.randn(40, 2) + 5
    labels = torch.arange(40) % 2
    ot = NeuralOT(2).fit(x, z, steps=1)
    for left, right in ((x[:0], z), (x, z[:0])):
        with pytest.raises(ValueError, match="must have a point at least"):
            ot.w2(left, right)
    assert ot.dual_value(x, z, (labels, labels * 0)) == ot.dual_value(x, z)  # of one class
    ot = NeuralOT(2, classes=2).fit(x, z, source_labels=labels, target_labels=labels, steps=1)
    for wrong in (labels + 5, labels - 1, labels.float()):
        with pytest.raises(ValueError, match=r"labels of z must be whole numbers in 0\.\.1"):
            ot.dual_value(x, z, (labels, wrong))
