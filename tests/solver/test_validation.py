"""Whatever is passed, the answer is right or the error names the argument."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import unot_fast
from unot_fast import Grid
from unot_fast.ops import _cuda, sinkhorn_separable

GRID = Grid((3, 4))
GOOD = torch.full((3, 4), 1 / 12, dtype=torch.float64)


def bad(value):
    x = GOOD.clone()
    x[1, 2] = value
    return x


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize(
    ("measure", "error", "message"),
    [
        (bad(-1e-9), ValueError, "negative"),
        (bad(math.nan), ValueError, "NaN"),
        (bad(math.inf), ValueError, "infinite"),
        (torch.zeros(3, 4), ValueError, "positive total mass"),
        (torch.ones(4, 3), ValueError, r"must have shape \(\.\.\., 3, 4\)"),
        (torch.ones(4), ValueError, "must have shape"),
        (torch.ones(3, 4, dtype=torch.uint8), TypeError, "floating point"),
        (torch.ones(3, 4, dtype=torch.complex64), TypeError, "floating point"),
        (torch.ones(3, 4).to_sparse(), TypeError, "dense"),
        ("picture", TypeError, "tensor or an array"),
        (None, TypeError, "tensor or an array"),
        (torch.ones(3, 4), ValueError, "equal totals"),
    ],
)
def test_bad_measures(side, measure, error, message):
    pair = {"a": GOOD, "b": GOOD} | {side: measure}
    with pytest.raises(error, match=message) as caught:
        unot_fast.sinkhorn(pair["a"], pair["b"], GRID, 0.1)
    assert side in str(caught.value).split(" must")[0].split(" and ")


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (dict(epsilon=0), ValueError, "epsilon must be positive"),
        (dict(epsilon=-1.0), ValueError, "epsilon must be positive"),
        (dict(epsilon=math.nan), ValueError, "epsilon must be positive"),
        (dict(epsilon=math.inf), ValueError, "epsilon must be positive"),
        (dict(epsilon=1e-12), ValueError, "epsilon must be between"),
        (dict(epsilon="small"), TypeError, "epsilon must be a number"),
        (dict(epsilon=None), TypeError, "epsilon must be a number"),
        (dict(geom=(3, 4)), TypeError, "geom must be a Geometry"),
        (dict(init="ones"), ValueError, "init must be"),
        (dict(init=3), TypeError, "init must be"),
        (dict(init=torch.zeros(5, 5)), ValueError, "init must be broadcastable"),
        (dict(init=bad(math.nan)), ValueError, "init must be finite"),
        (dict(init=lambda *_: torch.zeros(2)), ValueError, "init must return"),
        (dict(tol=-1), ValueError, "tol must be"),
        (dict(tol=math.nan), ValueError, "tol must be"),
        (dict(criterion="L2"), ValueError, "criterion must be"),
        (dict(max_iter=0), ValueError, "max_iter must be"),
        (dict(max_iter=2.5), ValueError, "max_iter must be"),
        (dict(overrelaxation=2), ValueError, "overrelaxation must be"),
        (dict(overrelaxation=0.5), ValueError, "overrelaxation must be"),
        (dict(overrelaxation="fast"), ValueError, "overrelaxation must be"),
        (dict(overrelaxation=None), ValueError, "overrelaxation must be"),
        (dict(backend="tpu"), ValueError, "backend must be"),
        (dict(dtype=torch.int32), ValueError, "dtype must be"),
    ],
)
def test_bad_options(kwargs, error, message):
    call = dict(a=GOOD, b=GOOD, geom=GRID, epsilon=0.1) | kwargs
    with pytest.raises(error, match=message):
        unot_fast.sinkhorn(**call)


def test_leading_dimensions_must_broadcast():
    with pytest.raises(ValueError, match="a, b and epsilon must have leading dimensions"):
        unot_fast.sinkhorn(GOOD.expand(2, 3, 4), GOOD.expand(3, 3, 4), GRID, 0.1)


def test_an_unavailable_backend_raises():
    if not torch.cuda.is_available() and unot_fast.backends()["triton"].devices == ("cuda",):
        with pytest.raises(RuntimeError, match="backend 'triton' cannot run here"):
            unot_fast.sinkhorn(GOOD, GOOD, GRID, 0.1, backend="triton")


def test_meta_device_is_refused():
    with pytest.raises(ValueError, match="b must be on the device of a"):
        unot_fast.sinkhorn(GOOD, GOOD.to("meta"), GRID, 0.1, validate=False)


def test_arrays_are_taken():
    result = unot_fast.sinkhorn(GOOD.numpy(), GOOD.numpy(), GRID, 0.1)
    assert float(result.cost) >= 0


masses = st.one_of(
    st.floats(0, 1e3),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, 1e-300, 5e-324, 1e300, -0.0, 1.0]),
)
measures = hnp.arrays(np.float64, (3, 4), elements=masses)
any_shape = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=0, max_dims=4, max_side=4), elements=masses
)
epsilons = st.one_of(st.floats(1e-4, 10), st.floats(allow_nan=True, allow_infinity=True))


def valid(x):
    with np.errstate(over="ignore"):
        return (
            x.shape[-2:] == (3, 4)
            and bool(np.all(np.isfinite(x) & (x >= 0)))
            and bool(np.all((x.sum((-1, -2)) > 0) & np.isfinite(x.sum((-1, -2)))))
        )


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(a=st.one_of(measures, any_shape), b=measures, eps=epsilons, normalize=st.booleans())
def test_any_input_is_solved_or_refused(a, b, eps, normalize):
    """Valid input gives finite numbers; invalid input an error that names it; never NaN."""
    ok = valid(a) and valid(b) and 1e-10 * GRID.max_cost <= eps <= 1e10 * GRID.max_cost

    def solve():
        return unot_fast.sinkhorn(
            torch.from_numpy(a), torch.from_numpy(b), GRID, eps, normalize=normalize, max_iter=50
        )

    if not ok:
        with pytest.raises(ValueError, match=r"a must|b must|epsilon|a and b|a, b"):
            solve()
        return
    if not normalize and not np.allclose(a.sum((-1, -2)), b.sum((-1, -2)), rtol=1e-9, atol=0):
        with pytest.raises(ValueError, match="a and b must have equal totals"):
            solve()
        return
    result = solve()
    for x in (result.f, result.g, result.cost, result.value, result.marginal_error):
        assert bool(x.isfinite().all())


@settings(max_examples=300, deadline=None)
@given(
    a=hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 1)),
    b=hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 1)),
    eps=st.floats(1e-3, 10),
)
def test_solved_plans_are_plans(a, b, eps):
    if not (valid(a) and valid(b)):
        return
    result = unot_fast.sinkhorn(
        torch.from_numpy(a), torch.from_numpy(b), GRID, eps, normalize=True, max_iter=3000
    )
    plan = result.plan()
    assert bool((plan >= 0).all())
    rows = (plan.sum((2, 3)) - torch.from_numpy(a / a.sum())).abs().sum()
    columns = (plan.sum((0, 1)) - torch.from_numpy(b / b.sum())).abs().sum()
    assert float(rows + columns) == pytest.approx(float(result.marginal_error), abs=1e-9)
    if bool(result.converged):
        assert float(rows + columns) < 1e-3 + 1e-12
    assert 0 <= float(result.cost) <= GRID.max_cost * (1 + float(result.marginal_error)) + 1e-12


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(coarsest=0),
        dict(coarsest="a"),
        dict(tol=math.nan),
        dict(max_iter=-1),
        dict(resolution=-1),
    ],
)
def test_bad_pyramids(kwargs):
    with pytest.raises(ValueError, match=f"{next(iter(kwargs))} must be"):
        unot_fast.Pyramid(**kwargs)


@pytest.mark.parametrize(
    "geom", [GRID, unot_fast.Grid((6, 6), "euclidean"), unot_fast.Sphere(6, 8)]
)
def test_a_batch_of_no_pairs(geom):
    a, b = torch.rand(2, 0, *geom.shape)
    r = unot_fast.sinkhorn(a, b, geom, 0.1, normalize=True)
    assert r.apply(torch.rand(0, 3, *geom.shape)).shape == (0, 3, *geom.shape)
    assert r.plan().shape == (0, *geom.shape, *geom.shape)
    assert r.barycentric_map().shape[0] == r.interpolate(0.5).shape[0] == 0


def test_a_cost_with_parameters_is_refused():
    scale = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="cost must not require a gradient"):
        unot_fast.Grid((5, 5), lambda d: scale * d.norm(dim=-1))


def test_integers_of_numpy_are_taken():
    grid = unot_fast.Grid((np.int64(5), np.int32(4)))
    assert grid.shape == unot_fast.Sphere(np.int64(5), np.int64(4)).shape == (5, 4)
    a, b = torch.rand(2, 5, 4)
    options = dict(tol=np.float32(1e-3), max_iter=np.int64(7), normalize=True)
    assert unot_fast.sinkhorn(a, b, grid, np.float32(0.1), **options).n_iters <= 7


def test_operators_refuse_what_their_kernels_cannot_see():
    a, b = torch.rand(2, 3, 5, 5)
    costs = [torch.rand(5, 5).double()] * 2
    epsilon = torch.full((3,), 0.1, dtype=torch.float64)
    options = dict(tol=1e-3, criterion="marginal", max_iter=5, overrelaxation=None, backend="cpu")
    for wrong, message in (
        ((a.half(), b.half(), costs, epsilon, b.half()), "a must be float32 or float64"),
        ((a, b.double(), costs, epsilon, b), "b must have the dtype of a"),
        ((a, b[:2], costs, epsilon, b), "b must have shape"),
        ((a, b, costs, epsilon[:2], b), "epsilon must have shape"),
        ((a, b, [costs[0][:4]] * 2, epsilon, b), "a must have shape"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            sinkhorn_separable(*wrong, **options)
    with pytest.raises(ValueError, match="one or two axes"):
        _cuda._separable((4, 4, 4), (4, 4, 4), (None,) * 3)
