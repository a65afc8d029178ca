import pytest
import torch

import unot_fast
from tests.conftest import adversarial, normalised
from unot_fast import Grid


def solved(n=(5, 6), m=(4, 7), eps=0.02, batch=3):
    a = normalised(torch.rand(batch, *n, dtype=torch.float64), len(n))
    b = normalised(torch.rand(batch, *m, dtype=torch.float64), len(m))
    return a, b, unot_fast.sinkhorn(a, b, Grid(n, target=m), eps, tol=1e-11, max_iter=50_000)


@pytest.mark.parametrize("eps", [0.5, 0.02, 5e-4])  # the last one needs the log domain
def test_apply_is_the_plan_times_data(eps):
    a, _, result = solved(eps=eps)
    plan = result.plan()
    x = torch.randn(3, 2, 4, 7, dtype=torch.float64)
    assert torch.allclose(result.apply(x), torch.einsum("bijkl,bckl->bcij", plan, x), atol=1e-14)
    y = torch.randn(3, 5, 6, dtype=torch.float64)
    expected = torch.einsum("bijkl,bij->bkl", plan, y)
    assert torch.allclose(result.apply(y, transpose=True), expected, atol=1e-14)
    ones = torch.ones(3, 4, 7, dtype=torch.float64)
    assert torch.allclose(result.apply(ones), a, atol=1e-11)


@pytest.mark.parametrize("eps", [0.5, 0.02, 5e-4])
def test_barycentric_map_is_the_conditional_mean(eps):
    _, _, result = solved(eps=eps)
    plan = result.plan()
    points = result.geom.points("target")
    mean = torch.einsum("bijkl,klc->bijc", plan, points) / plan.sum((3, 4))[..., None]
    assert torch.allclose(result.barycentric_map(), mean, atol=1e-12)


def test_cost_is_the_plan_against_the_cost_matrix():
    _, _, result = solved()
    plan = result.plan().flatten(3).flatten(1, 2)
    assert torch.allclose((plan * result.geom.cost_matrix()).sum((1, 2)), result.cost, rtol=1e-10)


def test_everything_is_finite_on_empty_pixels():
    a, b = adversarial((9, 8), (9, 8))
    for eps in (1e-3, 0.05):
        result = unot_fast.sinkhorn(a, b, Grid((9, 8)), eps)
        for x in (result.f, result.g, result.barycentric_map(), result.interpolate(0.3)):
            assert bool(x.isfinite().all())
        inside = result.barycentric_map()
        assert bool(((inside >= -1e-9) & (inside <= 1 + 1e-9)).all())


def splat(plan, points, target, shape, t):
    """Direct push-forward, pair by pair."""
    image = torch.zeros(shape, dtype=torch.float64)
    scale = torch.tensor([n - 1 for n in shape], dtype=torch.float64)
    for i, x in enumerate(points):
        for j, y in enumerate(target):
            q = ((1 - t) * x + t * y) * scale
            low = torch.minimum(q.floor(), scale - 1)
            w = q - low
            for corner in range(2 ** len(shape)):
                index, share = [], plan[i, j]
                for k in range(len(shape)):
                    up = corner >> k & 1
                    index.append(int(low[k]) + up)
                    share = share * (w[k] if up else 1 - w[k])
                image[tuple(index)] += share
    return image


@pytest.mark.parametrize("shape", [(9,), (5, 6), (3, 4, 3)])
@pytest.mark.parametrize("eps", [0.5, 0.02, 5e-4])
def test_interpolation_pushes_the_plan(shape, eps):
    a, b, result = solved(shape, shape, eps, batch=1)
    d = len(shape)
    plan = result.plan()[0].flatten(d).flatten(0, d - 1)
    points = result.geom.points().reshape(-1, d)
    expected = splat(plan, points, points, shape, 0.37)
    assert torch.allclose(result.interpolate(0.37)[0], expected, atol=1e-14)
    assert torch.allclose(result.interpolate(0.0), a, atol=1e-10)
    assert torch.allclose(result.interpolate(1.0), b, atol=1e-10)
    assert float(result.interpolate(0.5).sum()) == pytest.approx(1.0)


def test_interpolation_between_different_grids_keeps_mass_and_ends():
    a, _, result = solved((5, 6), (8, 9))
    assert torch.allclose(result.interpolate(0.0), a, atol=1e-10)
    for t in (0.25, 1.0):
        image = result.interpolate(t)
        assert image.shape == (3, 5, 6)
        assert torch.allclose(image.sum((1, 2)), torch.ones(3, dtype=torch.float64))


def test_a_plan_too_large_is_refused_with_its_size():
    a = torch.ones(1, 256, 256, dtype=torch.float64)
    result = unot_fast.sinkhorn(a, a, Grid((256, 256)), 0.1, normalize=True, max_iter=1)
    with pytest.raises(MemoryError, match=r"32\.0 GiB"):
        result.plan()


def test_bad_arguments_are_named():
    _, _, result = solved()
    with pytest.raises(ValueError, match="t must be in"):
        result.interpolate(1.5)
    with pytest.raises(ValueError, match="x must have shape"):
        result.apply(torch.zeros(3, 5, 6))


def test_unbatched_result():
    a, b = torch.rand(2, 6, 6, dtype=torch.float64)
    result = unot_fast.sinkhorn(a, b, Grid((6, 6)), 0.1, normalize=True)
    assert result.f.shape == result.interpolate(0.5).shape == (6, 6)
    assert result.barycentric_map().shape == (6, 6, 2)
    assert result.plan().shape == (6, 6, 6, 6)
    assert result.apply(b).shape == (6, 6)
    assert result.cost.shape == result.n_iters.shape == result.converged.shape == ()
