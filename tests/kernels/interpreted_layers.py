"""The Triton kernels of spectral layers in Triton's interpreter; see `test_interpreter.py`."""

import pytest
import torch

import unot_fast
from bench.models import float32_products
from tests.ops.agreement import BFLOAT16, compare, normal
from tests.ops.test_spectral_synthesis import PARTS, problem
from unot_fast.ops import channel_mlp, spectral_analysis, spectral_mixing, spectral_synthesis


def check(operator, arguments, **options):
    compare(operator, arguments, "triton", torch.float32, **options)


@pytest.mark.parametrize(
    ("points", "modes"),
    [((8, 9), (4, 3)), ((40, 70), (10, 6)), ((3, 70), (35, 40)), ((17,), (5,)), ((130,), (40,))],
)
def test_analysis(points, modes):
    tables = [normal(m, n, 2) for m, n in zip(modes, points, strict=True)]
    check(spectral_analysis, [normal(1, 2, *points), tables])


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("batch", "c_in", "c_out", "modes"), [(2, 3, 5, (4, 3)), (33, 17, 18, (1,)), (1, 40, 2, (3, 3))]
)
def test_mixing(batch, c_in, c_out, modes, bias, gelu):
    arguments = [
        normal(batch, c_in, 2, *modes),
        normal(c_in, c_out, *modes, 2, scale=c_in**-0.5),
        normal(c_out, *modes, 2) if bias else None,
    ]
    check(spectral_mixing, arguments, gelu=gelu)


@pytest.mark.parametrize("parts", PARTS)
def test_synthesis(parts):
    for gelu in (False, True):
        check(spectral_synthesis, problem(1, 3, 5, (3, 20), (4, 3), *parts), gelu=gelu)


@pytest.mark.parametrize("parts", [PARTS[0], PARTS[3]])
@pytest.mark.parametrize(
    "case",
    [  # batch, channels in and out, points, modes
        (1, 20, 18, (2, 37), (3, 2)),
        (3, 3, 4, (17,), (5,)),
        (1, 2, 3, (2, 20), (2, 35)),
        (1, 2, 3, (2, 10), (33, 3)),
    ],
)
def test_synthesis_of_other_shapes(case, parts):
    check(spectral_synthesis, problem(*case, *parts), gelu=True)


def test_lines_in_place_of_modes():
    for modes in (6, 35):
        arguments = problem(1, 3, 5, (3, 20), (1, modes), True, True, 8, True, lines=True)
        check(spectral_synthesis, arguments, gelu=True)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("residual", [None, "plain", "gated"])
@pytest.mark.parametrize(("c_in", "hidden", "c_out"), [(3, 20, 5), (18, 3, 1)])
def test_channel_mlp(c_in, hidden, c_out, residual, gelu):
    arguments = [
        normal(2, c_in, 3, 37),
        normal(hidden, c_in, scale=c_in**-0.5),
        normal(hidden) if residual else None,
        normal(c_out, hidden, scale=hidden**-0.5),
        normal(c_out) if residual else None,
        normal(2, c_out, 3, 37) if residual else None,
        normal(c_out) if residual == "gated" else None,
    ]
    check(channel_mlp, arguments, gelu=gelu)


def test_bfloat16():
    """Each product is as far from the reference as its rounded factors, and no farther."""
    tables = [normal(m, n, 2) for m, n in ((4, 8), (3, 9))]
    weight, small = normal(17, 18, 3, 3, 2, scale=17**-0.5), normal(20)
    mlp = normal(20, 18, scale=18**-0.5), small, normal(5, 20, scale=20**-0.5), normal(5)
    for operator, arguments, options in (
        (spectral_analysis, [normal(1, 2, 8, 9), tables], {}),
        (spectral_mixing, [normal(3, 17, 2, 3, 3), weight, normal(18, 3, 3, 2)], {"gelu": True}),
        (spectral_synthesis, problem(1, 3, 5, (3, 20), (4, 3), *PARTS[-1]), {"gelu": True}),
        (channel_mlp, [normal(2, 18, 37), *mlp], {"gelu": True}),
    ):
        with float32_products("medium"):
            check(operator, arguments, tolerance=BFLOAT16, **options)
            with pytest.raises(AssertionError, match="value"):
                check(operator, arguments, **options)


def test_empty_batches():
    x = torch.zeros(0, 3, 8, 9)
    weight = torch.zeros(3, 5, 4, 3, 2, requires_grad=True)
    y = unot_fast.spectral_conv2d(x, weight, skip=torch.zeros(5, 3), backend="triton")
    assert y.shape == (0, 5, 8, 9)
    (dw,) = torch.autograd.grad(y.sum(), weight)
    assert not dw.any()


def test_through_the_public_layer():
    x, weight = torch.randn(1, 3, 12, 10), torch.randn(3, 4, 5, 4, dtype=torch.cfloat)
    assert unot_fast.spectral_backend(x, backend="triton") == "triton"
    found = unot_fast.spectral_conv2d(x, weight, activation="gelu", backend="triton")
    torch.testing.assert_close(found, unot_fast.spectral_conv2d(x, weight, activation="gelu"))
    with pytest.raises(TypeError, match="float32"):
        unot_fast.spectral_conv2d(x.double(), weight, backend="triton")
    wide = torch.randn(3, 129, 5, 4, dtype=torch.cfloat)
    with pytest.raises(ValueError, match="up to 128 channels"):
        unot_fast.spectral_conv2d(x, wide, activation="gelu", backend="triton")
    with pytest.raises(RuntimeError, match="two dimensions"):
        unot_fast.spectral_conv3d(x[:, :, None], weight[:, :, None], backend="triton")
