"""Fourier layers on the CPU after ``torch.set_float32_matmul_precision("medium")``."""

import subprocess
import sys

import pytest
import torch

from bench.models import float32_products
from tests.ops.agreement import BFLOAT16, compare, normal, run
from tests.ops.spectral_calls import CALLS, OPS, converted
from tests.ops.test_spectral_synthesis import CASES, PARTS, problem
from unot_fast import Grid, backends, sinkhorn
from unot_fast.ops import channel_mlp, spectral_analysis, spectral_mixing, spectral_synthesis
from unot_fast.ops.backends import cpu_rounding


def rounds():
    with float32_products("medium"):
        return cpu_rounding() != "exact"


def ways():
    """To multiply bfloat16 on this processor."""
    with float32_products("medium"):
        return {"exact": [], "vectors": ["vectors"], "tiles": ["vectors", "tiles"]}[cpu_rounding()]


@pytest.fixture(params=["vectors", "tiles"])
def way(request, monkeypatch):
    if request.param not in ways():
        pytest.skip("not on this processor, or its kernels are not in use")
    module = sys.modules[cpu_rounding.__module__]
    monkeypatch.setattr(module, "_bfloat16", lambda isa: request.param)
    return request.param


in_every_way = pytest.mark.usefixtures("way")


def rounded(arguments):
    """Arguments as bfloat16 holds them."""
    return converted(converted(arguments, torch.bfloat16), torch.float64)


def whole(*shape, most=1, share=0.5):
    """Small whole numbers: with them bfloat16 and sums in float32 are exact."""
    numbers = torch.randint(-most, most + 1, shape).double()
    return numbers * (torch.rand(shape) < share)


def assert_exact(operator, *arguments):
    """Value as by the reference, to the last bit, of an operator that takes a backend."""
    expected = operator(*arguments, "reference")
    with float32_products("medium"):
        found = operator(*converted(arguments, torch.float32), "cpu")
    found, expected = ((x,) if torch.is_tensor(x) else x for x in (found, expected))
    for x, y in zip(found, expected, strict=True):
        if y.numel():
            assert torch.equal(x.double(), y)


def mixing(batch, c_in, c_out, *modes):
    weight = normal(c_in, c_out, *modes, 2, scale=c_in**-0.5)
    return [normal(batch, c_in, 2, *modes), weight]


def analysis(n, modes, images=3):
    return [normal(images, 2, n), [normal(modes, n, 2, scale=n**-0.5)]]


def synthesis(n, modes, channels=5):
    return [normal(2, channels, 2, modes), [normal(n, modes, 2, scale=modes**-0.5)]]


@in_every_way
@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (spectral_mixing, mixing(9, 7, 3, 37)),
        (spectral_mixing, mixing(8, 1, 1, 1)),
        (spectral_mixing, mixing(12, 16, 33, 4, 4)),
        (spectral_mixing, mixing(41, 70, 19, 5, 4)),
        (spectral_analysis, analysis(33, 5)),
        (spectral_analysis, analysis(500, 40)),
        (spectral_synthesis, synthesis(7, 1)),
        (spectral_synthesis, synthesis(129, 170)),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_one_product_is_that_of_rounded_factors(operator, arguments):
    """Of factors that bfloat16 holds, the product is float32's; others are rounded first."""
    expected = operator(*rounded(arguments), backend="reference")
    with float32_products("medium"):
        found = operator(*converted(arguments, torch.float32), backend="cpu")
    assert float((found - expected).abs().max() / expected.abs().max()) < 3e-6


@in_every_way
def test_few_samples_are_mixed_exactly_in_tiles(way):
    arguments = converted(mixing(7, 5, 6, 9), torch.float32)
    plain = spectral_mixing(*arguments, backend="cpu")
    with float32_products("medium"):
        again = spectral_mixing(*arguments, backend="cpu")
    assert torch.equal(plain, again) is (way == "tiles")


@in_every_way
@pytest.mark.parametrize("modes", [1, 9, 16, 37])
@pytest.mark.parametrize(
    ("batch", "c_in", "c_out"), [(1, 2, 3), (8, 5, 4), (9, 17, 16), (35, 20, 18)]
)
def test_mixing_of_whole_numbers(batch, c_in, c_out, modes):
    c, weight = whole(batch, c_in, 2, modes, most=3), whole(c_in, c_out, modes, 2, most=3)
    bias, grad = whole(c_out, modes, 2), whole(batch, c_out, 2, modes, most=3)
    assert_exact(OPS.spectral_mixing, c, weight, bias, False, False)
    nothing = c.new_empty(0)
    assert_exact(OPS.spectral_mixing_vjp, grad, c, weight, bias, False, nothing, True)


@in_every_way
@pytest.mark.parametrize("n", [(3, 7), (1, 65), (13, 100), (17, 33), (2, 385), (1, 771)])
def test_analysis_of_whole_numbers(n):
    tables = [whole(m, k, 2) for m, k in zip((3, 5), n, strict=True)]
    assert_exact(OPS.spectral_analysis, whole(2, 3, *n, share=0.2), tables)


@in_every_way
@pytest.mark.parametrize(("n", "channels"), [((3, 7), 401), ((8, 9), 33), ((13, 100), 3)])
def test_synthesis_of_whole_numbers(n, channels):
    """With bypass, bias and gate, and all gradients; depths beyond a block of products, too."""
    c, x = whole(2, channels, 2, 3, 5), whole(2, channels, *n)
    tables = [whole(k, m, 2) for m, k in zip((3, 5), n, strict=True)]
    skip, bias, gate = whole(channels, channels), whole(channels), whole(channels)
    arguments = c, tables, x, skip, bias, None, None, None, None, gate, False
    assert_exact(lambda *rest: OPS.spectral_synthesis(*rest)[0], *arguments, False)
    grad = whole(2, channels, *n, share=0.1)
    assert_exact(OPS.spectral_synthesis_vjp, grad, *arguments, c.new_empty(0), True)


@in_every_way
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("case", CASES)
def test_synthesis(case, parts):
    with float32_products("medium"):
        compare(
            spectral_synthesis, problem(*case, *parts), "cpu", torch.float32, gelu=True,
            tolerance=2 * BFLOAT16,
        )  # fmt: skip


@in_every_way
@pytest.mark.parametrize(("c_in", "hidden", "c_out"), [(3, 20, 5), (64, 33, 1), (1, 200, 64)])
def test_channel_mlp(c_in, hidden, c_out):
    arguments = [
        normal(2, c_in, 3, 37),
        normal(hidden, c_in, scale=c_in**-0.5),
        normal(hidden),
        normal(c_out, hidden, scale=hidden**-0.5),
        normal(c_out),
    ]
    with float32_products("medium"):
        compare(channel_mlp, arguments, "cpu", torch.float32, tolerance=2 * BFLOAT16)


@in_every_way
def test_invalid_numbers_stay_visible():
    x, tables = converted(analysis(40, 7), torch.float32)
    for bad in (float("nan"), float("inf")):
        x[1, 0, 33] = bad
        with float32_products("medium"):
            out = spectral_analysis(x, tables, backend="cpu")
        assert not out[1, 0].isfinite().any()
        assert out[0].isfinite().all()
        assert out[1, 1].isfinite().all()


@pytest.mark.parametrize(
    ("operator", "precision", "dtype"),
    [
        ("legendre_products", "medium", torch.float32),
        *(
            (name, precision, dtype)
            for name in ("spectral_mixing", "spectral_synthesis", "channel_mlp")
            for precision, dtype in (("medium", torch.float64), ("high", torch.float32))
        ),
    ],
)
def test_nothing_else_is_rounded(operator, precision, dtype):
    call, arguments = getattr(OPS, operator), converted(CALLS[operator], dtype)
    plain = call(*arguments, "cpu")
    with float32_products(precision):
        again = call(*arguments, "cpu")
    torch.testing.assert_close(plain, again, rtol=0, atol=0)


def test_other_instruction_sets_round_nothing(monkeypatch):
    monkeypatch.setenv("UNOT_FAST_ISA", "baseline")
    assert not rounds()
    arguments = mixing(2, 3, 4, 5)
    with float32_products("medium"):
        compare(spectral_mixing, arguments, "cpu", torch.float32)


def test_solvers_round_nothing():
    a, b = torch.rand(2, 3, 12, 12)
    costs = []
    for precision in ("highest", "medium"):
        with float32_products(precision):
            costs.append(sinkhorn(a, b, Grid((12, 12)), 0.05, normalize=True).cost)
    torch.testing.assert_close(*costs, rtol=0, atol=0)


def test_what_rounds_can_be_asked():
    with float32_products("medium"):
        assert ("multiply as bfloat16" in backends()["cpu"].detail) is rounds()
    with float32_products("highest"):
        assert cpu_rounding() == "exact"
        assert "multiply as bfloat16" not in backends()["cpu"].detail
        assert ("bfloat16 in" in backends()["cpu"].detail) is rounds()


@pytest.mark.parametrize("switch", ["cuda", "mkldnn"])
def test_newer_switches_of_torch(switch):
    """After which torch no longer answers to the older question."""
    script = f"""
import torch, unot_fast
from unot_fast.ops.backends import cpu_rounding
torch.backends.{switch}.matmul.fp32_precision = {"'bf16'" if switch == "mkldnn" else "'tf32'"}
a = torch.rand(1, 8, 8)
unot_fast.sinkhorn(a, a, unot_fast.Grid((8, 8)), 0.1, normalize=True)
unot_fast.spectral_conv2d(a[None], torch.randn(1, 2, 4, 3, dtype=torch.cfloat))
print(unot_fast.backends()["cpu"].detail, cpu_rounding() != "exact")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(switch == "mkldnn" and rounds())


@in_every_way
def test_threads_do_not_change_products():
    arguments, threads = problem(*CASES[1], *PARTS[-1]), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with float32_products("medium"):
                found.append(run(spectral_synthesis, arguments, "cpu", torch.float32, gelu=True)[0])
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*found, rtol=0, atol=0)
