"""The Triton backend on a CUDA device, against float64 references."""

import pytest
import torch

from tests.conftest import adversarial, as_float32, normalised
from tests.gpu.graphs import captured
from tests.ops import potentials
from unot_fast import Grid, NeuralPotential, sinkhorn
from unot_fast import c_transform as public_c_transform
from unot_fast.ops import c_transform, potential_gradient, separable_lse, sinkhorn_separable

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHAPES = [
    ((1, 1), (1, 1)),
    ((7, 7), (7, 7)),
    ((9, 13), (9, 13)),
    ((5, 31), (12, 8)),
    ((28, 28), (28, 28)),
    ((50,), (50,)),
    ((70, 3), (70, 3)),
    ((4, 5, 6), (4, 5, 6)),
]
DTYPES = [torch.float64, torch.float32]


def nats(dtype, max_cost, eps):
    """Rounding of exponents as large as ``max_cost / eps``, or of masses as small as e^-100."""
    return 32 * torch.finfo(dtype).eps * (100 + max_cost / eps)


def solve(a, b, costs, epsilon, backend, dtype, *, device="cuda", **options):
    options = dict(tol=0.0, criterion="marginal", max_iter=12, overrelaxation=1.0) | options
    a, b = a.to(device, dtype), b.to(device, dtype)
    costs = [c.to(device, dtype) for c in costs]
    start = torch.zeros_like(b)
    return sinkhorn_separable(a, b, costs, epsilon.to(device), start, backend=backend, **options)


def uniform(value, like):
    return torch.full((len(like),), value, dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("eps", [1e-4, 1e-3, 3e-3, 1e-2, 0.1, 1.0])
def test_plain_iterations_match_both_references(n, m, eps, dtype):
    a, b = adversarial(n, m)
    if dtype is torch.float32:
        _, (a, b) = as_float32(a, b)
    grid = Grid(n, target=m)
    epsilon = uniform(eps, a)
    fast = solve(a, b, grid.axis_costs, epsilon, "triton", dtype)
    dense = solve(a, b, grid.axis_costs, epsilon, "reference", torch.float64)
    cpu = solve(a, b, grid.axis_costs, epsilon, "cpu", torch.float64, device="cpu")
    tolerance = nats(dtype, grid.max_cost, eps)
    for other in (dense, cpu):
        for x, y in ((fast.f, other.f), (fast.g, other.g)):
            assert bool(x.isfinite().all())
            assert float((x.double() - y.to(x.device)).abs().max()) / eps <= tolerance
    torch.testing.assert_close(
        fast.cost.double(), dense.cost, rtol=4 * tolerance, atol=4 * tolerance * eps
    )
    torch.testing.assert_close(
        fast.marginal_error.double(), dense.marginal_error, rtol=0, atol=4 * tolerance
    )
    assert bool((fast.n_iters == 12).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [16, 28, 31, 64, 100, 150])
def test_converged_solutions_agree_with_the_cpu(n, dtype):
    """Default, adaptive iterations at every size class; the CPU backend computes in float64."""
    a, b = (normalised(torch.rand(3, n, n, dtype=torch.float64) ** 4, 2, 1e-6) for _ in "ab")
    grid = Grid((n, n))
    tol = 1e-4
    options = {"tol": tol, "max_iter": 2000}
    fast = sinkhorn(
        a.to("cuda", dtype), b.to("cuda", dtype), grid, 0.01, **options, backend="triton"
    )
    slow = sinkhorn(a, b, grid, 0.01, **options)
    assert fast.backend == "triton"
    assert bool(fast.converged.all())
    assert float(fast.marginal_error.max()) <= tol
    # Marginal errors of tol leave the costs within tol times the largest cost of the solution's.
    gap = (fast.cost.double().cpu() - slow.cost).abs()
    assert float(gap.max()) <= 2 * tol * grid.max_cost


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("eps", [1e-3, 1e-2, 1.0])
def test_separable_lse(n, m, eps, dtype):
    a, _ = adversarial(m, n)
    h, grid = a.log().to("cuda", dtype), Grid(n, target=m)
    costs = [c.to("cuda", dtype) for c in grid.axis_costs]
    epsilon = uniform(eps, a).cuda()
    fast = separable_lse(h, costs, epsilon, backend="triton")
    truth = separable_lse(h.double(), grid_costs(grid), epsilon, backend="reference")
    assert fast.dtype == dtype
    assert bool((fast.isinf() == truth.isinf()).all())
    finite = truth.isfinite()
    error = (fast.double() - truth)[finite].abs().max()
    assert float(error) <= nats(dtype, grid.max_cost, eps)


def grid_costs(grid):
    return [c.cuda() for c in grid.axis_costs]


def test_own_epsilon_and_own_stopping():
    a, b = adversarial((11, 6), (11, 6))
    epsilon = torch.logspace(-3, 0, len(a), dtype=torch.float64)
    options = {"tol": 1e-4, "max_iter": 300, "overrelaxation": 1.5}
    costs = Grid((11, 6)).axis_costs
    batch = solve(a, b, costs, epsilon, "triton", torch.float64, **options)
    for i in range(len(a)):
        part = slice(i, i + 1)
        alone = solve(a[part], b[part], costs, epsilon[part], "triton", torch.float64, **options)
        assert int(alone.n_iters) == int(batch.n_iters[i])
        torch.testing.assert_close(alone.f[0], batch.f[i])


def test_memory_that_was_never_written_is_not_read():
    a, b = adversarial((33, 20), (33, 20))
    epsilon = uniform(0.01, a)
    costs = Grid((33, 20)).axis_costs
    clean = solve(a, b, costs, epsilon, "triton", torch.float32)
    poison = [torch.full((2**k,), float("nan"), device="cuda") for k in range(8, 24)]
    del poison  # the caching allocator hands these blocks out next
    again = solve(a, b, costs, epsilon, "triton", torch.float32)
    for x, y in zip(clean, again, strict=True):
        assert torch.equal(x, y)


def test_empty_batch():
    empty = torch.zeros((0, 8, 8), dtype=torch.float32, device="cuda")
    out = sinkhorn(empty, empty, Grid((8, 8)), 0.01, backend="triton")
    assert out.f.shape == (0, 8, 8)
    assert out.cost.shape == (0,)


@pytest.mark.parametrize("n", [28, 64, 128])
def test_capture_and_replay(n):
    """A CUDA graph of a solve, replayed on other measures, gives what eager calls give."""
    grid = Grid((n, n))
    costs = [c.cuda().float() for c in grid.axis_costs]
    first, second = (
        normalised(torch.rand(2, 4, n, n, dtype=torch.float64), 2).float().cuda() for _ in "12"
    )
    a, b = first[0].clone(), first[1].clone()
    epsilon = uniform(0.01, a).cuda()
    start = torch.zeros_like(b)
    options = {"tol": 1e-3, "criterion": "marginal", "max_iter": 200, "overrelaxation": None}

    def run(x, y):
        return sinkhorn_separable(x, y, costs, epsilon, start, **options, backend="triton")

    graph, out = captured(lambda: run(a, b))
    for pair in (first, second):
        a.copy_(pair[0])
        b.copy_(pair[1])
        graph.replay()
        for x, y in zip(out, run(*pair), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_compiles_into_one_graph():
    grid = Grid((16, 16))
    costs = [c.cuda().float() for c in grid.axis_costs]
    a, b = (normalised(torch.rand(3, 16, 16, dtype=torch.float64), 2).float().cuda() for _ in "ab")
    epsilon = uniform(0.01, a).cuda()

    def cost(a, b):
        out = sinkhorn_separable(
            a, b, costs, epsilon, torch.zeros_like(b), tol=1e-4, criterion="marginal",
            max_iter=500, overrelaxation=None, backend="triton",
        )  # fmt: skip
        return (2 * out.cost).sum()

    gradients = []
    for function in (cost, torch.compile(cost, fullgraph=True)):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        value = function(x, y)
        value.backward()
        gradients.append((value.detach(), x.grad, y.grad))
    for eager, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(eager, compiled)


def test_runs_on_the_current_stream():
    """Work queued on a side stream is waited for by nobody else."""
    a, b = adversarial((28, 28), (28, 28))
    costs = Grid((28, 28)).axis_costs
    expected = solve(a, b, costs, uniform(0.01, a), "triton", torch.float32)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)
        out = solve(a, b, costs, uniform(0.01, a), "triton", torch.float32)
    stream.synchronize()
    assert torch.equal(out.f, expected.f)


@pytest.mark.parametrize("shape", potentials.SHAPES)
def test_gradients_of_potentials(shape):
    torch.manual_seed(0)
    arguments, _ = potentials.converted(potentials.problem(*shape), torch.float32)
    expected = potential_gradient(
        *potentials.converted(arguments, torch.float64)[0], **potentials.OPTIONS,
        backend="reference",
    )  # fmt: skip
    found = potential_gradient(*on_cuda(arguments), **potentials.OPTIONS, backend="triton")
    assert found.shape == expected.shape
    if found.numel():
        error = (found.double().cpu() - expected).abs().max()
        assert float(error / expected.abs().max()) <= 1e-5


@pytest.mark.parametrize("batch", [1, 2048, 20000])
@pytest.mark.parametrize("helped", [False, True])
@pytest.mark.parametrize("shape", potentials.SHAPES[:-1])
def test_c_transforms(shape, helped, batch):
    """Against the searches of the CPU; columns take further points in the largest batch."""
    torch.manual_seed(0)
    arguments, _ = potentials.converted(potentials.problem(*shape[:-1], batch), torch.float32)
    dim = shape[0]
    help_ = 0.5 * torch.eye(dim) + 0.01 if helped else None
    tolerance = torch.full((batch,), 1e-3)

    def run(backend, z, labels, *weights, preconditioner, tolerance):
        return c_transform(
            z, labels, z.clone(), tolerance, *weights, preconditioner, **potentials.OPTIONS,
            memory=6, max_iter=300, backend=backend,
        )  # fmt: skip

    slow = run("cpu", *arguments, preconditioner=help_, tolerance=tolerance)
    *moved, help_, tolerance = on_cuda([*arguments, help_, tolerance])
    fast = run("triton", *moved, preconditioner=help_, tolerance=tolerance)
    assert bool(fast.converged.all())
    distance = (fast.y.cpu() - slow.y).norm(dim=1)
    assert float(distance.max()) <= 2.2e-3 / potentials.OPTIONS["strong"]
    if batch > 1:
        assert abs(float((fast.n_iters.cpu() - slow.n_iters).float().mean())) <= 1
    again = run("triton", *moved, preconditioner=help_, tolerance=tolerance)
    for x, y in zip(fast, again, strict=True):
        assert torch.equal(x, y)


def test_c_transform_takes_triton_on_request():
    g = NeuralPotential(5, (16, 16)).cuda()
    z = torch.randn(100, 5, device="cuda")
    found = public_c_transform(g, z, backend="triton")
    assert found.backend == "triton"
    assert bool(found.converged.all())
    assert public_c_transform(g, z).backend == "torch"
    assert public_c_transform(g.double(), z.double()).backend == "torch"


def on_cuda(arguments):
    return [
        [t.cuda() for t in x] if isinstance(x, list) else None if x is None else x.cuda()
        for x in arguments
    ]
