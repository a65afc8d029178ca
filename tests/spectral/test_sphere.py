import pytest
import torch
from torch.library import opcheck

from unot_fast import spectral_conv_s2

harmonics = pytest.importorskip("torch_harmonics")


def by_torch_harmonics(x, weight, orders, grid, norm, to=None, output_grid=None):
    nlat, nlon = to or x.shape[2:]
    options = {"lmax": weight.shape[2], "mmax": orders, "norm": norm}
    c = harmonics.RealSHT(*x.shape[2:], grid=grid, **options)(x)
    c = torch.einsum("bilm,iolm->bolm" if weight.ndim == 4 else "bilm,iol->bolm", c, weight)
    return harmonics.InverseRealSHT(nlat, nlon, grid=output_grid or grid, **options)(c)


@pytest.mark.parametrize("grid", ["equiangular", "legendre-gauss", "lobatto"])
@pytest.mark.parametrize("norm", ["ortho", "four-pi"])
@pytest.mark.parametrize(
    ("points", "degrees", "orders"), [((16, 32), 8, 5), ((9, 17), 6, 6), ((33, 33), 10, 10)]
)
@pytest.mark.parametrize("per_order", [False, True])
def test_golden(points, degrees, orders, grid, norm, per_order):
    x = torch.randn(2, 3, *points, dtype=torch.float64)
    weight = torch.randn(3, 4, degrees, *[orders] * per_order, dtype=torch.cdouble)
    out = spectral_conv_s2(x, weight, orders=orders, grid=grid, norm=norm)
    assert torch.allclose(out, by_torch_harmonics(x, weight, orders, grid, norm), atol=1e-11)


def test_another_grid_for_the_result():
    x = torch.randn(2, 3, 16, 32, dtype=torch.float64)
    weight = torch.randn(3, 4, 8, dtype=torch.cdouble)
    for output_grid in (None, "legendre-gauss"):
        to = {"output_shape": (11, 20), "output_grid": output_grid}
        out = spectral_conv_s2(x, weight, orders=6, **to)
        expected = by_torch_harmonics(x, weight, 6, "equiangular", "ortho", *to.values())
        assert torch.allclose(out, expected, atol=1e-11)


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_network_on_each_harmonic(backend):
    x = torch.randn(2, 3, 9, 16, dtype=torch.float64)
    w1, b1, w2 = (torch.randn(*s, 6, 5, dtype=torch.cdouble) for s in ((3, 7), (7,), (7, 4)))
    options = {"lmax": 6, "mmax": 5}
    c = torch.einsum("bilm,iolm->bolm", harmonics.RealSHT(9, 16, **options)(x), w1) + b1
    c = torch.complex(*(torch.nn.functional.gelu(part) for part in (c.real, c.imag)))
    expected = harmonics.InverseRealSHT(9, 16, **options)(torch.einsum("bilm,iolm->bolm", c, w2))
    out = spectral_conv_s2(x, (w1, b1, w2), backend=backend)
    assert torch.allclose(out, expected, atol=1e-10)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_autocast(backend):
    x, weight = torch.randn(2, 3, 16, 32), torch.randn(3, 4, 8, dtype=torch.cfloat)
    expected = spectral_conv_s2(x, weight, orders=6, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(spectral_conv_s2(x, weight, orders=6, backend=backend), expected)


def test_the_whole_layer_and_its_gradients():
    x = torch.randn(1, 2, 5, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 4, dtype=torch.cdouble, requires_grad=True)
    skip = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def layer(x, weight, skip, bias):
        return spectral_conv_s2(x, weight, bias, skip=skip, activation="gelu", orders=3)

    z = by_torch_harmonics(x, weight, 3, "equiangular", "ortho")
    z = z + torch.einsum("oi,bixy->boxy", skip, x) + bias.view(-1, 1, 1)
    assert torch.allclose(layer(x, weight, skip, bias), torch.nn.functional.gelu(z), atol=1e-11)
    assert torch.autograd.gradcheck(layer, (x, weight, skip, bias))


@pytest.mark.parametrize("orders", [(), (6,)])
def test_compiles(orders):
    """In one graph, of complex weights or real ones, for grids of any size."""
    weight = torch.randn(3, 4, 8, *orders, dtype=torch.cfloat)
    compiled = torch.compile(
        lambda x, w: spectral_conv_s2(x, w, orders=6, activation="gelu"),
        fullgraph=True, dynamic=True, backend="aot_eager",
    )  # fmt: skip
    for shape in ((2, 3, 16, 32), (1, 3, 18, 36)):
        x = torch.randn(shape)
        for w in (weight, torch.view_as_real(weight).clone()):
            w = w.clone().requires_grad_()
            out = compiled(x, w)
            expected = spectral_conv_s2(x, w, orders=6, activation="gelu")
            torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
            grads = (torch.autograd.grad(y.square().sum(), w)[0] for y in (out, expected))
            torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("orders", [(), (5,)])
@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_no_samples_and_no_channels(backend, orders):
    x, weight = torch.randn(2, 3, 8, 9), torch.randn(3, 4, 5, *orders, dtype=torch.cfloat)
    assert spectral_conv_s2(x[:0], weight, backend=backend).shape == (0, 4, 8, 9)
    assert spectral_conv_s2(x, weight[:, :0], backend=backend).shape == (2, 0, 8, 9)
    assert not spectral_conv_s2(x[:, :0], weight[:0], backend=backend).any()


def test_tables_are_an_operator():
    arguments = (9, 6, 5, "equiangular", "ortho", torch.float64, torch.device("cpu"))
    opcheck(torch.ops.unot_fast.legendre_tables.default, arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orders": 6}, "orders must be from 1"),
        ({"weight": torch.zeros(3, 4, 5, 3, dtype=torch.cfloat), "orders": 2}, "those of weight"),
        ({"weight": torch.zeros(3, 4, 5, 3, 2, dtype=torch.cfloat)}, "weight must be complex of"),
        ({"grid": "healpix"}, "grid must be"),
        ({"norm": "forward"}, "norm must be one of"),
        ({"norm": "none"}, "norm must be one of"),
        ({"output_shape": (0, 4)}, "output_shape must have"),
        ({"x": torch.zeros(2, 3, 8, 0)}, "x must have points"),
        ({"output_grid": "healpix"}, "output_grid must be None or"),
        ({"output_grid": "lobatto", "skip": torch.zeros(4, 3)}, "grid of x where there is a skip"),
    ],
)
def test_errors_name_the_argument(change, message):
    arguments = {"x": torch.zeros(2, 3, 8, 9), "weight": torch.zeros(3, 4, 5, dtype=torch.cfloat)}
    with pytest.raises(ValueError, match=message):
        spectral_conv_s2(**(arguments | change))
