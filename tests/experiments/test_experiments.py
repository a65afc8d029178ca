"""Pairs with known maps, the measures of error, and what fits of them reach in seconds."""

import numpy as np
import pytest
import torch

from tests.conftest import DATA
from unot_fast import NeuralOT, NeuralPotential, c_transform
from unot_fast.experiments import (
    GaussianPair,
    W2Benchmark,
    cosine,
    fit_pair,
    gaussian_pair,
    judge,
    l2_uvp,
    table,
)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def benchmark(dim):
    path = DATA / f"w2_benchmark_{dim}.npz"
    if not path.exists():
        pytest.skip(f"no benchmark pair: {path} is missing (set UNOT_FAST_DATA)")
    return W2Benchmark(path)


def test_metrics():
    pair = GaussianPair.random(3, 0)
    x = pair.source(200_000, random())
    z = pair.transport(x)
    assert l2_uvp(z, z, pair.target_variance) == 0
    assert l2_uvp(torch.zeros_like(z), z, pair.target_variance) == pytest.approx(100, rel=0.01)
    assert cosine(x, z, z) == pytest.approx(1)
    assert cosine(x, x, z) == 0
    assert cosine(x, 2 * x - z, z) == pytest.approx(-1)


def test_gaussian_pair():
    pair = GaussianPair.random(4, 1)
    x = pair.source(400_000, random())
    covariance = x.T.double() @ x.double() / len(x)
    assert torch.allclose(covariance, pair.root @ pair.root, atol=0.02)
    z = pair.transport(x).double()
    second = pair.matrix @ pair.root @ pair.root @ pair.matrix
    assert torch.allclose(z.T @ z / len(z), second, atol=0.02)
    assert pair.w2() == pytest.approx(float((z - x).square().sum(1).mean()) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("dim", "forward", "backward"),
    [(2, 1.084, 1.270), (4, 3.305, 2.896), (16, 6.016, 5.298), (64, 3.177, 3.399)],
)
def test_what_convex_g_can_reach(dim, forward, backward):
    """Published constraint, published covariances: known to three digits from its conditions."""
    path = DATA / "gaussian_covariances.npz"
    if not path.exists():
        pytest.skip(f"no covariances: {path} is missing (set UNOT_FAST_DATA)")
    _, ahead, back = gaussian_pair(dim, 0, path).best_of_expansions()
    assert (ahead, back) == pytest.approx((forward, backward), rel=3e-3)


def test_a_fit_of_convex_g_lands_there():
    """Eigenvalues of the map on both sides of 1, so that the constraint matters."""
    eye = torch.eye(2, dtype=torch.float64)
    pair = GaussianPair(eye, torch.diag(torch.tensor([2.0, 0.6]).double()))
    _, ahead, back = pair.best_of_expansions()
    potential = NeuralPotential(2, (32, 32), quadratic=0, strong=1.0)
    ot = NeuralOT(2, potential=potential, standardize=False)
    found = judge(ot.fit(pair.source, pair.target, steps=400), pair, 0.0)
    assert found.forward == pytest.approx(ahead, rel=0.05)
    assert found.backward == pytest.approx(back, rel=0.05)


@pytest.mark.parametrize("dim", [2, 4, 16, 64])
def test_benchmark_pairs(dim):
    """The identity's error as published, the true potential's derivative, and its inverse."""
    pair = benchmark(dim)
    x = pair.source(2048, random())
    z = pair.transport(x)
    identity = {2: 32.7, 4: 42.0, 16: 87.0, 64: 137.0}[dim]
    assert l2_uvp(x, z, pair.target_variance) == pytest.approx(identity, rel=0.05)
    points = x[:20].double()
    true = pair.potential.double()
    generic = super(type(true), true).gradient(points)
    assert torch.allclose(true.gradient(points), generic, atol=1e-10)
    found = c_transform(true.float(), z, tol=1e-5, max_iter=500)
    assert found.converged.all()
    assert found.residual.max() < 1e-3
    assert l2_uvp(found.y, x, pair.source_variance) < 1e-5


def written(folder, dim, arrays):
    """Weights as the published benchmark's checkpoints name them."""
    for j in (1, 2):
        state = {"final_layer.weight": arrays[f"n{j}_w"].reshape(1, -1)}
        for k in range(3):
            layer = f"quadratic_layers.{k}"
            state[f"{layer}.quadratic_decomposed"] = arrays[f"n{j}_R{k}"][:, None]
            state[f"{layer}.weight"] = arrays[f"n{j}_W{k}"]
            state[f"{layer}.bias"] = arrays[f"n{j}_b{k}"]
        for k in (1, 2):
            state[f"convex_layers.{k - 1}.weight"] = arrays[f"n{j}_V{k}"]
        torch.save({k: torch.as_tensor(v) for k, v in state.items()}, folder / f"{dim}_v{j}.pt")
    return folder / f"{dim}_v1.pt"


@pytest.mark.parametrize("dim", [2, 16])
def test_published_checkpoints(dim, tmp_path):
    """Source, scale and shift follow from the dimension and the weights."""
    pair = benchmark(dim)
    with np.load(DATA / f"w2_benchmark_{dim}.npz") as file:
        path = written(tmp_path, dim, {k: file[k] for k in file.files if k.startswith("n")})
    again = W2Benchmark(path)
    assert torch.allclose(again.centers, pair.centers)
    assert torch.allclose(again.mix, pair.mix)
    x = pair.source(2048, random())
    assert l2_uvp(again.transport(x), pair.transport(x), pair.target_variance) < 1e-3
    assert again.target_variance == pytest.approx(pair.target_variance, rel=0.02)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be D_v1\.pt or D_v2\.pt"):
        W2Benchmark(tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"2_v1.pt is no checkpoint"):
        W2Benchmark(tmp_path / "2_v2.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "2_v1.pt")
    with pytest.raises(ValueError, match=r"2_v1.pt is no checkpoint"):
        W2Benchmark(tmp_path / "2_v1.pt")


def test_benchmark_in_seconds():
    pair = benchmark(2)
    ot = NeuralOT(2, (64, 64)).fit(pair.source, pair.target, steps=250)
    found = judge(ot, pair, 0.0)
    assert found.forward < 1.0
    assert found.backward < 1.0
    assert found.converged == 1


def test_a_pair_of_other_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", centers=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="is no pair of the benchmark"):
        W2Benchmark(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="has no d2_Sigma0"):
        gaussian_pair(2, 0, tmp_path / "a.npz")


def test_outcomes_and_their_table():
    found = [fit_pair(GaussianPair.random(2, k), 0.5, seed=k) for k in range(2)]
    assert all(o.seconds >= 0.5 and o.converged == 1 and o.forward < 5 for o in found)
    lines = table(found).splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("| 2 | 2 |")
    assert "±" in lines[-1]
