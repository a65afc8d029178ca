"""Fourier layers and neural operators against neuralop, torch-harmonics and torch.fft by hand.

Rows of a model are timed in turns, because the speed of a shared machine drifts.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools

import pytest
import torch

import unot_fast
from bench import models, unot
from bench.turns import in_turns, info, report
from unot_fast.ops.backends import cpu_rounding

SECONDS = {"small": 4.0, "full": 15.0}
WHOLE = [("FNO", 64, 16), ("SFNO", 32, 16), ("FNO", 28, 64), ("FNO", 128, 1)]
SIZES, CHANNELS, MODES, BATCHES = (28, 64, 128, 256), (32, 64, 128), (10, 16, 32), (1, 16, 64)


@pytest.mark.parametrize("what", ["forward", "forward and backward"])
@pytest.mark.parametrize(("name", "n", "batch"), WHOLE)
@pytest.mark.parametrize("method", models.METHODS)
def test_model(benchmark, size, name, n, batch, what, method):
    """A whole model with 10 modes, 64 channels and 4 layers."""
    if importlib.util.find_spec("neuralop") is None:
        pytest.skip("neuralop is not installed")
    if size == "small" and ((n, batch) not in ((64, 16), (32, 16)) or "compiled" in method):
        pytest.skip("only with --bench-size full")
    methods = [m for m in models.METHODS if size == "full" or "compiled" not in m]
    problem = f"{name}, 10 modes, 64 channels"
    _report_model(benchmark, name, problem, n, batch, what, method, methods, SECONDS[size])


@pytest.mark.parametrize("what", ["forward", "forward and backward"])
@pytest.mark.parametrize("method", ["unot_fast", "neuralop eager"])
def test_model_in_bfloat16(benchmark, size, what, method):
    """The FNO with products in bfloat16, by their switch or, in neuralop, by autocast."""
    if importlib.util.find_spec("neuralop") is None:
        pytest.skip("neuralop is not installed")
    if models.rounded(cpu_rounding)() == "exact":
        pytest.skip("the processor does not multiply bfloat16")
    times, error = _rounded_model(what, SECONDS[size])
    benchmark.group = f"{what}, FNO in bfloat16, n=64, B=16"
    benchmark.extra_info.update(
        **(info(what, "FNO, 10 modes, 64 channels", 64, 16, method) | {"dtype": "bfloat16"}),
        error=error[method],
        error_kind="to neuralop in float32, relative, as vectors",
        unit="call",
    )
    report(benchmark, times[method])


@functools.cache
def _rounded_model(what, seconds):
    run = models.forward if what == "forward" else models.step
    exact = run(*models.prepare("FNO", "neuralop eager", 64, 16))()
    calls = {
        "unot_fast": models.rounded(run(*models.prepare("FNO", "unot_fast", 64, 16))),
        "neuralop eager": models.rounded(
            run(*models.prepare("FNO", "neuralop eager", 64, 16)), autocast=True
        ),
    }
    error = {m: float((call() - exact).norm() / exact.norm()) for m, call in calls.items()}
    assert max(error.values()) < 1e-2, error
    return in_turns(calls, seconds), error


@pytest.mark.parametrize("what", ["forward", "forward and backward"])
@pytest.mark.parametrize("name", [name for name in models.MODELS if "harmonics" in name])
@pytest.mark.parametrize("method", models.HARMONICS)
def test_harmonics_model(benchmark, size, name, what, method):
    """64 channels, 4 layers, all harmonics of 64 x 128 points."""
    if importlib.util.find_spec("torch_harmonics") is None:
        pytest.skip("torch-harmonics is not installed")
    problem = f"{name}, 64 channels"
    _report_model(benchmark, name, problem, 64, 4, what, method, models.HARMONICS, SECONDS[size])


def _report_model(benchmark, name, problem, n, batch, what, method, methods, seconds):
    times, error = _model(name, n, batch, what, tuple(methods), seconds)
    if method not in times:
        pytest.skip("torch.compile fails on this model")
    benchmark.group = f"{what}, {name}, n={n}, B={batch}"
    benchmark.extra_info.update(
        **info(what, problem, n, batch, method),
        error=error[method],
        error_kind="to the library's own, relative",
        peak_memory=models.peak_memory(name, method, n, batch),
        unit="call",
    )
    report(benchmark, times[method])


@functools.cache
def _model(name, n, batch, what, methods, seconds):
    """Times of all methods in turns, and how far each is from the library's own model."""
    calls, results = {}, {}
    for method in methods:
        model, x = models.prepare(name, method, n, batch)
        call = (models.forward if what == "forward" else models.step)(model, x)
        try:
            results[method] = call()
        except torch._dynamo.exc.TorchDynamoException:
            continue
        calls[method] = call
    exact = next(r for method, r in results.items() if method.endswith("eager"))
    error = {m: float((r - exact).abs().max() / exact.abs().max()) for m, r in results.items()}
    assert max(error.values()) < 1e-4, error
    return in_turns(calls, seconds), error


@pytest.mark.parametrize("what", ["forward", "forward and backward"])
@pytest.mark.parametrize(("n", "batch"), [(64, 16), (28, 16), (64, 1)])
@pytest.mark.parametrize("method", ["unot_fast", "unot_fast, torch products", "published"])
def test_published_network(benchmark, size, n, batch, what, method):
    """The whole network of the published UNOT, of 26.4 million parameters."""
    times, error = _published(n, batch, what, SECONDS[size])
    benchmark.group = f"{what}, published UNOT, n={n}, B={batch}"
    benchmark.extra_info.update(
        **info(what, "published UNOT", n, batch, method),
        error=error[method],
        error_kind="to the published one in float64, relative",
        unit="call",
    )
    report(benchmark, times[method])


@functools.cache
def _published(n, batch, what, seconds):
    torch.manual_seed(0)
    exact = unot.network_inputs(n, batch, 64, 256, 10, 4)
    single = [t.to(torch.cfloat if t.is_complex() else torch.float32) for t in exact]
    blocks = {
        "unot_fast": functools.partial(unot.fast_block, backend="auto"),
        "unot_fast, torch products": functools.partial(unot.fast_block, backend="torch"),
        "published": unot.published_block,
    }

    def run(block, tensors):
        if what == "forward":
            with torch.no_grad():
                return [unot.network(block, *tensors)]
        leaves = [t.requires_grad_() for t in tensors]
        return torch.autograd.grad(unot.network(block, *leaves).square().sum(), leaves)

    expected = run(unot.published_block, exact)
    calls = {name: functools.partial(run, block, single) for name, block in blocks.items()}
    error = _errors(calls, expected)
    return in_turns(calls, seconds), error


@pytest.mark.parametrize("what", ["forward", "forward and backward"])
@pytest.mark.parametrize(
    ("n", "channels", "modes", "batch"), list(itertools.product(SIZES, CHANNELS, MODES, BATCHES))
)
@pytest.mark.parametrize("method", ["unot_fast", "unot_fast, torch products", "torch.fft by hand"])
def test_layer(benchmark, size, n, channels, modes, batch, what, method):
    """GELU(convolution + pointwise bypass), the layer of the published UNOT."""
    if size == "small" and (channels, modes, batch) != (64, 10, 16):
        pytest.skip("only with --bench-size full")
    if batch * channels * n * n > (1 << 24 if size == "small" else 1 << 26) or modes > n:
        pytest.skip("too large, or more modes than points")
    times, error = _layer(n, channels, modes, batch, what, SECONDS[size] / 4)
    benchmark.group = f"{what}, layer, n={n}, C={channels}, modes={modes}, B={batch}"
    problem = f"layer, {channels} channels, {modes} modes"
    benchmark.extra_info.update(
        **info(what, problem, n, batch, method),
        error=error[method],
        error_kind="to torch.fft in float64, relative",
        unit="call",
    )
    report(benchmark, times[method])


@functools.cache
def _layer(n, channels, modes, batch, what, seconds):
    torch.manual_seed(0)
    x = torch.randn(batch, channels, n, n)
    weight = torch.randn(channels, channels, modes, modes // 2 + 1, dtype=torch.cfloat) / channels
    skip = torch.randn(channels, channels) / channels**0.5
    arguments = [t.requires_grad_(what != "forward") for t in (x, weight, skip)]

    def ours(x, weight, skip, backend="auto"):
        return unot_fast.spectral_conv2d(x, weight, skip=skip, activation="gelu", backend=backend)

    layers = {
        "unot_fast": ours,
        "unot_fast, torch products": functools.partial(ours, backend="torch"),
        "torch.fft by hand": _by_fft,
    }

    def call(layer, arguments):
        if what == "forward":
            return [layer(*arguments)]
        return torch.autograd.grad(layer(*arguments).square().sum(), arguments)

    wide = [t.detach().to(torch.cdouble if t.is_complex() else torch.float64) for t in arguments]
    exact = call(_by_fft, [t.requires_grad_(what != "forward") for t in wide])
    calls = {name: functools.partial(call, f, arguments) for name, f in layers.items()}
    error = _errors(calls, exact)
    return in_turns(calls, seconds), error


def _errors(calls, exact):
    """Of each method, relative to the largest value of a result."""
    errors = {
        name: max(
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(run(), exact, strict=True)
        )
        for name, run in calls.items()
    }
    assert max(errors.values()) < 1e-4, errors
    return errors


def _by_fft(x, weight, skip):
    n, (rows, columns) = x.shape[-2:], weight.shape[2:]
    spectrum = torch.fft.rfft2(x, norm="forward")
    low, high = rows // 2, rows - rows // 2
    out = torch.zeros(
        x.shape[0], weight.shape[1], n[0], n[1] // 2 + 1, dtype=spectrum.dtype, device=x.device
    )
    for part, kept in ((slice(0, high), slice(low, None)), (slice(-low, None), slice(0, low))):
        out[:, :, part, :columns] = torch.einsum(
            "bixy,ioxy->boxy", spectrum[:, :, part, :columns], weight[:, :, kept]
        )
    bypass = (skip @ x.flatten(2)).unflatten(2, n)
    return torch.nn.functional.gelu(torch.fft.irfft2(out, s=n, norm="forward") + bypass)
