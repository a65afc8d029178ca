"""The Triton backend of spectral layers on a CUDA device, against float64 references.

Kernels compile anew for other options, other tiles, and lengths that 16 divides or not, so shapes
are few and shared.
"""

import pytest
import torch

from bench.models import float32_products
from tests.gpu.graphs import captured
from tests.ops.agreement import BFLOAT16, compare, normal, run
from tests.ops.test_spectral_synthesis import problem
from unot_fast import spectral_conv2d
from unot_fast.ops import channel_mlp, spectral_analysis, spectral_mixing, spectral_synthesis

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TF32 = 4e-3
SYNTHESES = {  # batch, channels in and out, points, modes; skip, bias, hidden channels, gate
    "unot": (2, 64, 64, (64, 64), (10, 10), True, True, 0, False),
    "28": (2, 64, 64, (28, 28), (10, 6), True, True, 0, False),
    "100": (2, 64, 64, (100, 100), (10, 6), True, True, 0, False),
    "fno": (2, 64, 64, (64, 64), (10, 6), True, False, 32, True),
    "wide": (1, 128, 128, (6, 20), (5, 4), True, True, 64, True),
    "odd": (3, 7, 5, (9, 13), (4, 3), False, True, 9, False),
    "gate alone": (3, 5, 5, (9, 45), (4, 3), False, False, 0, True),
    "many modes": (1, 3, 4, (40, 70), (35, 40), True, True, 0, False),
    "one axis": (2, 3, 4, (70,), (9,), True, True, 0, False),
    "lines": (2, 5, 5, (9, 70), (1, 6), True, True, 8, True, True),
}


def check(operator, arguments, **options):
    compare(operator, arguments, "triton", torch.float32, device="cuda", **options)


def on_device(operator, arguments, backend="triton", **options):
    return run(operator, arguments, backend, torch.float32, "cuda", **options)


def analysis(points, modes, lead=(2, 3)):
    return [normal(*lead, *points), [normal(m, n, 2) for m, n in zip(modes, points, strict=True)]]


def mixing(batch, c_in, c_out, modes, bias):
    return [
        normal(batch, c_in, 2, *modes),
        normal(c_in, c_out, *modes, 2, scale=c_in**-0.5),
        normal(c_out, *modes, 2) if bias else None,
    ]


def mlp(batch, c_in, hidden, c_out, points, residual, gate):
    return [
        normal(batch, c_in, *points),
        normal(hidden, c_in, scale=c_in**-0.5),
        normal(hidden) if residual else None,
        normal(c_out, hidden, scale=hidden**-0.5),
        normal(c_out) if residual else None,
        normal(batch, c_out, *points) if residual else None,
        normal(c_out) if gate else None,
    ]


def unot(n=64, channels=64, hidden=256, modes=10):
    """Input, weights and biases of a layer, all of order 1 on the way."""
    return [
        normal(2, channels, n, n),
        normal(channels, hidden, modes, modes, 2, scale=channels**-0.5 / n),
        normal(hidden, modes, modes, 2),
        normal(hidden, channels, modes, modes, 2, scale=n * n * hidden**-0.5 / modes),
        normal(channels),
        normal(channels, channels, scale=channels**-0.5),
    ]


def unot_layer(x, w1, b1, w2, bias, skip, *, backend):
    return spectral_conv2d(
        x, (w1, b1, w2), bias, skip=skip, activation="gelu", norm="backward",
        frequencies="nonnegative", backend=backend,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("points", "modes"),
    [
        ((64, 64), (10, 10)),
        ((28, 28), (10, 6)),
        ((100, 100), (10, 6)),
        ((9, 13), (4, 3)),
        ((40, 70), (35, 40)),
        ((70,), (9,)),
        ((130,), (40,)),
    ],
)
def test_analysis(points, modes):
    check(spectral_analysis, analysis(points, modes))


@pytest.mark.parametrize("case", SYNTHESES)
def test_synthesis(case):
    check(spectral_synthesis, problem(*SYNTHESES[case]), gelu=case != "odd")


@pytest.mark.parametrize(
    ("case", "gelu"),
    [
        ((2, 64, 256, (10, 10), True), True),
        ((33, 128, 64, (10, 6), True), False),
        ((5, 17, 18, (5,), False), False),
    ],
)
def test_mixing(case, gelu):
    check(spectral_mixing, mixing(*case), gelu=gelu)


@pytest.mark.parametrize(
    ("case", "gelu"),
    [
        ((2, 64, 32, 64, (64, 64), True, True), True),
        ((2, 64, 128, 64, (28, 28), True, False), True),
        ((3, 5, 64, 1, (9, 13), False, False), False),
    ],
)
def test_channel_mlp(case, gelu):
    check(channel_mlp, mlp(*case), gelu=gelu)


def test_layer_of_unot():
    check(unot_layer, unot())


@pytest.mark.parametrize(
    ("operator", "arguments", "options"),
    [
        (unot_layer, unot, {}),
        (channel_mlp, lambda: mlp(2, 64, 32, 64, (64, 64), True, True), {"gelu": True}),
    ],
)
def test_lower_precision(operator, arguments, options):
    for precision, tolerance in (("high", TF32), ("medium", BFLOAT16)):
        with float32_products(precision):
            check(operator, arguments(), tolerance=tolerance, **options)


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (unot_layer, unot),
        (channel_mlp, lambda: mlp(2, 64, 32, 64, (64, 64), True, True)),
        (spectral_synthesis, lambda: problem(*SYNTHESES["wide"])),
        (spectral_synthesis, lambda: problem(*SYNTHESES["many modes"])),
    ],
)
def test_results_are_the_same_every_time(operator, arguments):
    """To the last bit, and also where memory that was never written holds NaN."""
    arguments, options = arguments(), {} if operator is unot_layer else {"gelu": True}
    first, second = (on_device(operator, arguments, **options) for _ in "12")
    torch.cuda.empty_cache()
    poison = [torch.full((2**k,), float("nan"), device="cuda") for k in range(8, 25) for _ in "123"]
    del poison  # the caching allocator hands these blocks out next
    third = on_device(operator, arguments, **options)
    for x, y, z in zip(first, second, third, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(x, z)


def layer():
    x = torch.randn(2, 64, 64, 64, device="cuda")
    weight = torch.randn(64, 64, 10, 10, dtype=torch.cfloat, device="cuda") / 64
    skip = torch.randn(64, 64, device="cuda") / 8
    return [x, weight, torch.randn(64, device="cuda"), skip]


def convolution(x, weight, bias, skip, backend="triton"):
    return spectral_conv2d(x, weight, bias, skip=skip, activation="gelu", backend=backend)


def step(function, tensors):
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y.square().sum(), leaves)


def assert_near(found, expected, tolerance=3e-5):
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape
        assert float((x - y).abs().max() / y.abs().max()) < tolerance


def test_agrees_with_products_of_torch():
    x, *rest = layer()
    for tensors in ([x, *rest], [x.mT, *rest]):
        expected = step(lambda *t: convolution(*t, backend="torch"), tensors)
        assert_near(step(convolution, tensors), expected)


def test_compiles_into_one_graph():
    tensors = layer()
    compiled = torch.compile(convolution, fullgraph=True)
    assert_near(step(compiled, tensors), step(convolution, tensors))


@pytest.mark.parametrize("function", [convolution, lambda *t: step(convolution, t)])
def test_capture_and_replay(function):
    """A CUDA graph, forward or with gradients, replayed on another input."""
    first, second = layer(), layer()
    tensors = [t.clone() for t in first]
    graph, out = captured(lambda: function(*tensors))
    for others in (first, second):
        for t, other in zip(tensors, others, strict=True):
            t.copy_(other)
        graph.replay()
        expected = function(*others)
        pairs = zip(out, expected, strict=True) if isinstance(out, tuple) else [(out, expected)]
        for x, y in pairs:
            assert torch.equal(x, y)


def test_runs_on_the_current_stream():
    """Work queued on a side stream is waited for by nobody else."""
    tensors = layer()
    expected = convolution(*tensors)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)
        out = convolution(*tensors)
    stream.synchronize()
    assert torch.equal(out, expected)


def test_empty_batch():
    x, *rest = layer()
    y, dx, *others = step(convolution, [x[:0], *rest])
    assert y.shape == dx.shape == (0, 64, 64, 64)
    assert all(not d.any() for d in others)
