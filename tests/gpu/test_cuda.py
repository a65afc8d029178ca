"""The CUDA kernels on a device: the emulator's cases, and what only a device can show."""

import pytest
import torch

from tests.conftest import normalised
from tests.cuda.cases import *  # noqa: F403
from tests.gpu.graphs import captured
from unot_fast import Grid, Pyramid, backends, sinkhorn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(not backends()["cuda"].available, reason=backends()["cuda"].detail),
]


def pairs(n, batch, dtype=torch.float32):
    return (
        normalised(torch.rand(batch, n, n, dtype=torch.float64)).to("cuda", dtype) for _ in "ab"
    )


def test_is_what_a_device_gets():
    a, b = pairs(20, 2)
    assert sinkhorn(a, b, Grid((20, 20)), 0.01).backend == "cuda"
    a, b = pairs(300, 1)
    assert sinkhorn(a, b, Grid((300, 300)), 0.05, max_iter=1).backend == "triton"


@pytest.mark.parametrize("n", [28, 64, 128])
@pytest.mark.parametrize("batch", [1, 3, 500])
def test_capture_and_replay(n, batch):
    """A CUDA graph of a whole call, replayed on other measures, gives what eager calls give."""
    grid = Grid((n, n))
    first, second = (tuple(pairs(n, batch)) for _ in "12")
    a, b = (x.clone() for x in first)
    epsilon = torch.full((batch,), 0.01, dtype=torch.float64, device="cuda")

    def run(x, y):
        return sinkhorn(x, y, grid, epsilon, validate=False, pyramid=Pyramid(tol=0.01))

    graph, out = captured(lambda: run(a, b))
    for x, y in (first, second):
        a.copy_(x)
        b.copy_(y)
        graph.replay()
        expected = run(x, y)
        assert torch.equal(out.f, expected.f)
        assert torch.equal(out.cost, expected.cost)


def test_runs_on_the_current_stream():
    """Work queued on a side stream is waited for by nobody else."""
    a, b = pairs(28, 4)
    expected = sinkhorn(a, b, Grid((28, 28)), 0.01, validate=False)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)
        out = sinkhorn(a, b, Grid((28, 28)), 0.01, validate=False)
    stream.synchronize()
    assert torch.equal(out.f, expected.f)


def test_memory_that_was_never_written_is_not_read():
    a, b = pairs(33, 200)
    clean = sinkhorn(a, b, Grid((33, 33)), 0.01)
    poison = [torch.full((2**k,), float("nan"), device="cuda") for k in range(8, 24)]
    del poison  # the caching allocator hands these blocks out next
    again = sinkhorn(a, b, Grid((33, 33)), 0.01)
    assert torch.equal(clean.f, again.f)
    assert torch.equal(clean.cost, again.cost)


def test_compiles_into_one_graph():
    grid = Grid((16, 16))
    a, b = pairs(16, 3)

    def cost(a, b):
        return sinkhorn(a, b, grid, 0.01, validate=False).cost.sum()

    gradients = []
    for function in (cost, torch.compile(cost, fullgraph=True)):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        value = function(x, y)
        value.backward()
        gradients.append((value.detach(), x.grad, y.grad))
    for eager, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(eager, compiled)
