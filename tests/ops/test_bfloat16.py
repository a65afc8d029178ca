"""Fourier layers on the CPU after ``torch.set_float32_matmul_precision("medium")``."""

import pytest
import torch

from tests.ops.agreement import BFLOAT16, compare, float32_products, normal, run
from tests.ops.spectral_calls import CALLS, OPS, converted
from tests.ops.test_spectral_synthesis import CASES, PARTS, problem
from unot_fast import backends
from unot_fast.ops import channel_mlp, spectral_analysis, spectral_mixing, spectral_synthesis
from unot_fast.ops.backends import cpu_rounds_factors


def rounds():
    with float32_products("medium"):
        return cpu_rounds_factors()


needs_instructions = pytest.mark.skipif(
    not rounds(), reason="the processor has no AVX512-BF16, or its kernels are not in use"
)


def rounded(arguments):
    """Arguments as bfloat16 holds them."""
    return [
        [t.bfloat16().double() for t in x]
        if isinstance(x, list)
        else None
        if x is None
        else x.bfloat16().double()
        for x in arguments
    ]


def mixing(batch, c_in, c_out, *modes):
    weight = normal(c_in, c_out, *modes, 2, scale=c_in**-0.5)
    return [normal(batch, c_in, 2, *modes), weight]


def analysis(n, modes, images=3):
    return [normal(images, 2, n), [normal(modes, n, 2, scale=n**-0.5)]]


def synthesis(n, modes, channels=5):
    return [normal(2, channels, 2, modes), [normal(n, modes, 2, scale=modes**-0.5)]]


@needs_instructions
@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        *((spectral_mixing, mixing(*sizes)) for sizes in [(5, 7, 3, 37), (1, 1, 1, 1)]),
        *((spectral_mixing, mixing(*sizes)) for sizes in [(4, 16, 33, 4, 4), (6, 3, 8, 17)]),
        *((spectral_analysis, analysis(*sizes)) for sizes in [(1, 1), (33, 5), (500, 40)]),
        *((spectral_synthesis, synthesis(*sizes)) for sizes in [(7, 1), (64, 33), (129, 170)]),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_one_product_is_that_of_rounded_factors(operator, arguments):
    """Of factors that bfloat16 holds, the product is float32's; others are rounded first."""
    expected = operator(*rounded(arguments), backend="reference")
    with float32_products("medium"):
        found = operator(*converted(arguments, torch.float32), backend="cpu")
    assert float((found - expected).abs().max() / expected.abs().max()) < 3e-6


@needs_instructions
def test_gradients_of_one_product():
    """The gradients are products of the rounded factors with the rounded gradient of the result."""
    c, weight = rounded(mixing(9, 5, 6, 20))
    grad = normal(9, 6, 2, 20).bfloat16().double()
    nothing = grad.new_empty(0)
    arguments = grad, c, weight, None, False, nothing, True
    expected = OPS.spectral_mixing_vjp(*arguments, "reference")
    with float32_products("medium"):
        found = OPS.spectral_mixing_vjp(*converted(arguments, torch.float32), "cpu")
    for x, y in zip(found[:2], expected[:2], strict=True):
        assert float((x - y).abs().max() / y.abs().max()) < 3e-6


@needs_instructions
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("case", CASES)
def test_synthesis(case, parts):
    with float32_products("medium"):
        compare(
            spectral_synthesis, problem(*case, *parts), "cpu", torch.float32, gelu=True,
            tolerance=2 * BFLOAT16,
        )  # fmt: skip


@needs_instructions
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


@needs_instructions
def test_invalid_numbers_stay_visible():
    x, tables = converted(analysis(40, 7), torch.float32)
    for bad in (float("nan"), float("inf")):
        x[1, 0, 33] = bad
        with float32_products("medium"):
            out = spectral_analysis(x, tables, backend="cpu")
        assert not out[1, 0].isfinite().any()
        assert out[0].isfinite().all()
        assert out[1, 1].isfinite().all()


@pytest.mark.parametrize("operator", ["spectral_mixing", "spectral_synthesis", "channel_mlp"])
@pytest.mark.parametrize(("precision", "dtype"), [("medium", torch.float64), ("high", None)])
def test_nothing_else_is_rounded(operator, precision, dtype):
    call, arguments = getattr(OPS, operator), converted(CALLS[operator], dtype or torch.float32)
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


def test_what_rounds_can_be_asked():
    assert not cpu_rounds_factors()
    with float32_products("medium"):
        assert ("multiply as bfloat16" in backends()["cpu"].detail) is cpu_rounds_factors()
    assert "multiply as bfloat16" not in backends()["cpu"].detail
    assert ("with bfloat16" in backends()["cpu"].detail) is rounds()


@needs_instructions
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
