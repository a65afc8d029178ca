"""Layers of neuralop on grids of all lengths, and from one grid to another."""

import contextlib
import io

import pytest
import torch

import unot_fast
from tests.spectral.outcomes import assert_close, outcome

pytest.importorskip("neuralop")
from neuralop.layers.spectral_convolution import SpectralConv
from neuralop.layers.spherical_convolution import SphericalConv
from neuralop.models import FNO, SFNO, UNO

GRIDS = [  # points, modes
    *(((n,), (9,)) for n in (15, 17, 21)),
    *(((n, n), (8, 8)) for n in (15, 17, 21)),
    ((15, 16), (7, 6)),
    ((16, 15), (7, 6)),
    ((15, 17), (16, 40)),  # all that there are
    ((1, 5), (3, 4)),
    *(((n, n, n), (6, 5, 4)) for n in (15, 17, 21)),
    ((5, 7, 9), (8, 8, 16)),
]


def assert_stays(model, x, *args, **options):
    """Accelerated and by itself, the model has the same results."""
    expected = outcome(lambda x: model(x, *args, **options), x, model.parameters())
    done = unot_fast.accelerate(model, verbose=False)
    assert done.replaced
    assert not done.kept
    found = outcome(lambda x: model(x, *args, **options), x, model.parameters())
    assert_close(found, expected)


@pytest.mark.parametrize(("points", "modes"), GRIDS)
def test_grids_of_odd_length(points, modes):
    assert_stays(SpectralConv(2, 3, modes), torch.randn(2, 2, *points))


@pytest.mark.parametrize("points", [(15,), (15, 17), (21, 15, 9)])
def test_models_on_grids_of_odd_length(points):
    modes = (8, 6, 6)[: len(points)]
    model = FNO(n_modes=modes, in_channels=2, out_channels=1, hidden_channels=4, n_layers=2)
    assert_stays(model, torch.randn(1, 2, *points))


def test_own_layers_keep_the_frequencies():
    """On grids of odd length spectral_conv2d is not what neuralop has."""
    conv, x = SpectralConv(2, 3, (8, 8), bias=False), torch.randn(2, 2, 15, 15)
    z = torch.fft.rfft2(x, norm="forward")
    k = torch.arange(-4, 4) % 15
    out = torch.zeros(2, 3, 15, 8, dtype=z.dtype)
    out[:, :, k, :5] = torch.einsum("bixy,ioxy->boxy", z[:, :, k, :5], conv.weight.tensor)
    expected = torch.fft.irfft2(out, s=(15, 15), norm="forward")
    torch.testing.assert_close(unot_fast.spectral_conv2d(x, conv.weight.tensor), expected)
    assert not torch.allclose(conv(x), expected, atol=1e-3)


@pytest.mark.parametrize("to", [(16, 16), (15, 15), (24, 20), (9, 31), (6, 4), (40, 7)])
@pytest.mark.parametrize("points", [(16, 16), (15, 17), (20, 9)])
def test_another_grid_for_the_result(points, to):
    x = torch.randn(2, 2, *points)
    assert_stays(SpectralConv(2, 3, (8, 8)), x, output_shape=to)
    model = FNO(n_modes=(8, 6), in_channels=2, out_channels=1, hidden_channels=4, n_layers=2)
    assert_stays(model, x, output_shape=to)


@pytest.mark.parametrize("norm", ["forward", "backward", "ortho", None])
@pytest.mark.parametrize("factor", [1, 2, 0.5, [2.0, 0.7], [1.0, 1.0]])
def test_resolution_scaling(factor, norm):
    options = {"resolution_scaling_factor": factor, "fft_norm": norm}
    assert_stays(SpectralConv(2, 3, (8, 8), **options), torch.randn(2, 2, 15, 18))
    conv = SpectralConv(2, 3, (8, 8), **options)
    assert_stays(conv, torch.randn(2, 2, 12, 16), output_shape=(11, 13))


@pytest.mark.parametrize("points", [(14,), (6, 9, 8)])
def test_resolution_scaling_of_lines_and_volumes(points):
    conv = SpectralConv(2, 3, (6,) * len(points), resolution_scaling_factor=1.5)
    assert_stays(conv, torch.randn(2, 2, *points))


@pytest.mark.parametrize("points", [(12, 16), (15, 17)])
def test_blocks_with_resolution_scaling(points):
    model = FNO(
        n_modes=(8, 6), in_channels=2, out_channels=3, hidden_channels=4, n_layers=3,
        resolution_scaling_factor=[1, 2, 0.5],
    )  # fmt: skip
    assert_stays(model, torch.randn(2, 2, *points))


@pytest.mark.parametrize("factor", [None, 1, 2, [0.5, 1.5]])
@pytest.mark.parametrize("grids", ["equiangular", ["equiangular", "legendre-gauss"]])
def test_spheres(factor, grids):
    options = {"resolution_scaling_factor": factor, "sht_grids": grids, "factorization": None}
    x = torch.randn(2, 2, 13, 24)
    assert_stays(SphericalConv(2, 3, (8, 10), **options), x)
    assert_stays(SphericalConv(2, 3, (8, 10), **options), x, output_shape=(15, 12))


def test_spherical_model_on_another_grid():
    model = SFNO(n_modes=(8, 10), in_channels=2, out_channels=1, hidden_channels=4, n_layers=2)
    assert_stays(model, torch.randn(2, 2, 13, 24), output_shape=(20, 40))


@pytest.mark.parametrize("points", [(16, 16), (15, 18)])
@pytest.mark.parametrize("skip", ["linear", "identity"])
def test_u_shaped_models(points, skip):
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its options
        model = UNO(
            2, 1, 6, uno_out_channels=[6, 4, 6], uno_n_modes=[[6, 6], [4, 4], [6, 6]],
            uno_scalings=[[1.0, 1.0], [0.5, 0.5], [2, 2]], n_layers=3, channel_mlp_skip="linear",
            horizontal_skip=skip, lifting_channels=8, projection_channels=8,
        )  # fmt: skip
    expected = outcome(model, x := torch.randn(2, 2, *points))
    done = unot_fast.accelerate(model, verbose=False)
    assert sum(kind == "SpectralConv" for kind in done.replaced.values()) == 3
    assert_close(outcome(model, x), expected)


@pytest.mark.parametrize("factorization", [None, "cp"])
@pytest.mark.parametrize("points", [(17,), (15, 16), (6, 5, 8)])
def test_separable_weights(points, factorization):
    modes = (8, 6, 4)[: len(points)]
    options = {"separable": True, "factorization": factorization}
    assert_stays(SpectralConv(3, 3, modes, **options), torch.randn(2, 3, *points))
    conv = SpectralConv(3, 3, modes, max_n_modes=(9, 8, 5)[: len(points)], **options)
    assert_stays(conv, torch.randn(2, 3, *points))


def test_more_modes_than_at_most_are_left():
    conv, x = SpectralConv(2, 3, (4, 4)), torch.randn(2, 2, 16, 16)
    conv.n_modes = 8, 8
    assert "n_modes" in unot_fast.accelerate(conv, verbose=False).kept[""]
    conv.n_modes = 4, 4
    unot_fast.accelerate(conv, verbose=False)
    conv.n_modes = 8, 8
    found = conv(x)
    assert torch.equal(found, unot_fast.restore(conv)(x))
