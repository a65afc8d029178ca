import pytest
import torch

import unot_fast
from unot_fast import spectral_conv1d, spectral_conv2d, spectral_conv3d

CONVS = {1: spectral_conv1d, 2: spectral_conv2d, 3: spectral_conv3d}


def by_fft(x, weight, norm="forward", output_shape=None, signed=True):
    """The layer with full spectra, frequency by frequency."""
    d = x.ndim - 2
    axes = tuple(range(2, d + 2))
    to = output_shape or x.shape[2:]
    spectrum = torch.fft.rfftn(x, dim=axes, norm=norm)
    half = to[-1] // 2 + 1
    out = torch.zeros(x.shape[0], weight.shape[1], *to[:-1], half, dtype=spectrum.dtype)

    def on_grid(frequency, n):
        return frequency % n if not signed else (
            frequency % n if -(n // 2) <= frequency <= (n - 1) // 2 else None
        )  # fmt: skip

    for index in torch.cartesian_prod(*(torch.arange(m) for m in weight.shape[2:])).view(-1, d):
        index = tuple(index.tolist())
        k = [
            i - m // 2 if signed else i for i, m in zip(index[:-1], weight.shape[2:], strict=False)
        ]
        if not signed and any(f >= n for f, n in zip(k, x.shape[2:], strict=False)):
            continue
        source = [on_grid(f, n) for f, n in zip(k, x.shape[2:], strict=False)]
        target = [on_grid(f, n) for f, n in zip(k, to, strict=False)]
        if None in source or index[-1] > x.shape[-1] // 2:
            continue
        if None in target or index[-1] >= half:
            continue
        mixed = spectrum[(..., *source, index[-1])] @ weight[(..., *index)]
        out[(slice(None), slice(None), *target, index[-1])] += mixed
    return torch.fft.irfftn(out, s=to, dim=axes, norm=norm)


GRIDS = [  # points, modes
    ((16, 16), (4, 3)),
    ((13, 17), (5, 4)),
    ((12, 15), (12, 8)),
    ((8, 9), (12, 9)),
    ((9, 8), (10, 5)),
    ((1, 6), (3, 2)),
    ((15,), (4,)),
    ((8,), (9,)),
    ((6, 5, 8), (4, 3, 3)),
    ((5, 4, 6), (6, 6, 6)),
]


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize(("points", "modes"), GRIDS)
def test_is_the_truncated_fourier_transform(points, modes, backend):
    x = torch.randn(2, 3, *points, dtype=torch.float64)
    weight = torch.randn(3, 4, *modes, dtype=torch.cdouble)
    for norm in ("forward", "backward", "ortho"):
        out = CONVS[len(points)](x, weight, norm=norm, backend=backend)
        assert torch.allclose(out, by_fft(x, weight, norm), atol=1e-12)


@pytest.mark.parametrize(
    ("points", "to"), [((16, 16), (24, 20)), ((16, 15), (9, 8)), ((6, 6), (31, 4)), ((12,), (30,))]
)
def test_another_grid_for_the_result(points, to):
    x = torch.randn(2, 2, *points, dtype=torch.float64)
    weight = torch.randn(2, 3, *((6, 4)[-len(points) :]), dtype=torch.cdouble)
    for norm in ("forward", "backward", "ortho"):
        out = CONVS[len(points)](x, weight, norm=norm, output_shape=to)
        assert torch.allclose(out, by_fft(x, weight, norm, to), atol=1e-12)


def published(x, w1, b1, w2):
    """UNOT's layer: the first ten modes of either axis, aliases included; one layer without w2."""
    n, _ = x.shape[2:]
    modes = ..., slice(min(n, 10)), slice(min(n // 2 + 1, 10))
    spectrum = torch.fft.rfft2(x)
    z = torch.einsum("bixy,ioxy->boxy", spectrum[modes], w1[modes])
    if w2 is not None:
        z = z if b1 is None else z + b1[modes]
        z = torch.complex(*(torch.nn.functional.gelu(part) for part in (z.real, z.imag)))
        z = torch.einsum("bhxy,hoxy->boxy", z, w2[modes])
    kept = torch.zeros(*z.shape[:2], *spectrum.shape[2:], dtype=spectrum.dtype)
    kept[modes] = z
    return torch.fft.irfft2(kept, s=x.shape[2:])


def network(*modes, dtype=torch.cdouble):
    """w1, b1 and w2 from 3 channels to 4."""
    return [torch.randn(*c, *modes, dtype=dtype) for c in ((3, 6), (6,), (6, 4))]


@pytest.mark.parametrize("n", [8, 10, 13, 19, 28])
def test_published_layer(n):
    x = torch.randn(2, 3, n, n, dtype=torch.float64, requires_grad=True)
    w1, b1, w2 = (t.requires_grad_() for t in network(10, 10))
    options = {"norm": "backward", "frequencies": "nonnegative"}
    for weight, args in (
        (w1, (w1, None, None)),
        ((w1, b1, w2), (w1, b1, w2)),
        ([w1, None, w2], (w1, None, w2)),
    ):
        out, expected = spectral_conv2d(x, weight, **options), published(x, *args)
        assert torch.allclose(out, expected, atol=1e-11)
        leaves = [x, *(t for t in args if t is not None)]
        grads = (torch.autograd.grad(y.square().sum(), leaves) for y in (out, expected))
        for found, wanted in zip(*grads, strict=True):
            assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))


def test_the_whole_layer():
    x = torch.randn(2, 3, 12, 10, dtype=torch.float64)
    weight = torch.randn(3, 4, 4, 3, dtype=torch.cdouble)
    skip, bias = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 1, 1, dtype=torch.float64)
    out = spectral_conv2d(x, weight, bias, skip=skip, activation="gelu")
    z = by_fft(x, weight) + torch.einsum("oi,bixy->boxy", skip, x) + bias
    assert torch.allclose(out, torch.nn.functional.gelu(z), atol=1e-12)


@pytest.mark.parametrize(("points", "modes"), GRIDS)
def test_network_without_its_activation_is_a_product(points, modes):
    """A large bias is beyond the bend of the GELU, where it is the identity."""
    x = torch.randn(2, 3, *points, dtype=torch.float64)
    w1, b1, w2 = network(*modes)
    b1 = torch.full_like(b1, 1e3 + 1e3j)
    conv = CONVS[len(points)]
    product = torch.einsum("ih...,ho...->io...", w1, w2)
    constant = conv(torch.zeros_like(x), (w1, b1, w2))
    for backend in ("auto", "torch", "reference"):
        out = conv(x, (w1, b1, w2), backend=backend) - constant
        assert torch.allclose(out, conv(x, product), atol=1e-8)


@pytest.mark.parametrize("weight", ["one layer", "two layers"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_does_not_depend_on_the_resolution(dtype, weight):
    """The same weights on samples of one band-limited function."""

    def samples(n):
        t = torch.arange(n, dtype=torch.float64) / n * 2 * torch.pi
        a, b = t[:, None], t[None, :]
        waves = [torch.sin(3 * a - 2 * b), torch.cos(4 * b + a), 0.3 + torch.sin(2 * a) + 0 * b]
        return torch.stack(waves)[None].to(dtype)

    layers = network(10, 6, dtype=torch.cfloat)
    weight = layers[0] if weight == "one layer" else layers
    fine = spectral_conv2d(samples(128), weight)
    for n in (32, 64):
        out = spectral_conv2d(samples(n), weight)
        assert torch.allclose(out, fine[..., :: 128 // n, :: 128 // n], atol=1e-5)
    # 48 does not divide 128: by the function's own interpolation.
    out = spectral_conv2d(samples(48), weight)
    assert torch.allclose(
        out, spectral_conv2d(samples(128), weight, output_shape=(48, 48)), atol=1e-5
    )


def test_gradients():
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 3, 2, dtype=torch.cdouble, requires_grad=True)
    skip = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def layer(x, weight, skip, bias):
        return spectral_conv2d(x, weight, bias, skip=skip, activation="gelu")

    assert torch.autograd.gradcheck(layer, (x, weight, skip, bias))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    x, layers = torch.randn(2, 3, 16, 16), network(6, 4, dtype=torch.cfloat)
    for weight in (layers[0], layers, [torch.view_as_real(t).to(dtype) for t in layers]):
        out = spectral_conv2d(x.to(dtype), weight)
        assert out.dtype == dtype
        assert torch.equal(out, spectral_conv2d(x.to(dtype).float(), weight).to(dtype))
    assert spectral_conv2d(x.double(), layers).dtype == torch.float64


def test_any_strides():
    x = torch.randn(2, 3, 12, 10)
    weight = torch.randn(3, 4, 4, 3, dtype=torch.cfloat)
    out = spectral_conv2d(x, weight)
    assert torch.equal(spectral_conv2d(x.to(memory_format=torch.channels_last), weight), out)
    permuted = weight.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    assert torch.equal(spectral_conv2d(x, permuted), out)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_autocast_changes_nothing(backend):
    x, skip = torch.randn(2, 3, 8, 9), torch.randn(4, 3)
    weight = torch.randn(3, 4, 4, 3, 2, requires_grad=True)

    def layer(x):
        return spectral_conv2d(x, weight, skip=skip, activation="gelu", backend=backend)

    def results(layer, x):
        out = layer(x)
        return out, *torch.autograd.grad(out.float().square().sum(), weight)

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for given in (x, x.bfloat16()):
        expected = results(layer, given)
        with torch.autocast("cpu", torch.bfloat16):
            found = results(layer, given), results(compiled, given)
        assert all(torch.equal(a, b) for out in found for a, b in zip(out, expected, strict=True))


@pytest.mark.slow
def test_compile():
    weight = torch.randn(3, 3, 6, 4, dtype=torch.cfloat, requires_grad=True)
    skip = torch.randn(3, 3, requires_grad=True)

    def layer(x, real):
        return spectral_conv2d(x, real, skip=skip, activation="gelu").square().sum()

    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for n in (16, 21):
        x = torch.randn(2, 3, n, n + 2)
        real = torch.view_as_real(weight)
        expected = torch.autograd.grad(layer(x, real), (weight, skip))
        found = torch.autograd.grad(compiled(x, torch.view_as_real(weight)), (weight, skip))
        assert all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(found, expected, strict=True))


@pytest.mark.slow
def test_network_compiles():
    x = torch.randn(2, 3, 16, 18)
    weights = [t.requires_grad_() for t in network(6, 4, dtype=torch.cfloat)]

    def layer(x, *real):
        return spectral_conv2d(x, real).square().sum()

    # No code need be generated for it: that is as in test_compile.
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    expected, found = (
        torch.autograd.grad(f(x, *map(torch.view_as_real, weights)), weights)
        for f in (layer, compiled)
    )
    assert all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3, 8)}, "x must have shape"),
        ({"x": torch.zeros(2, 5, 8, 8)}, "weight must take the 5 channels"),
        ({"x": torch.zeros(2, 3, 8, 8, dtype=torch.int64)}, "x must be real"),
        ({"x": torch.zeros(2, 3, 8, 8, dtype=torch.cfloat)}, "x must be real"),
        ({"weight": torch.zeros(3, 4, 4, 3)}, "weight must be complex"),
        ({"weight": torch.zeros(3, 4, 4, dtype=torch.cfloat)}, "weight must be complex of shape"),
        ({"weight": "w1"}, "weight must be a tensor, or three"),
        ({"weight": network(4, 3)[:2]}, "weight must be a tensor, or three"),
        ({"weight": [*network(4, 3)[:2], None]}, "weight must be a tensor, or three"),
        ({"weight": [network(4)[0], *network(4, 3)[1:]]}, "weight must be complex of shape"),
        ({"weight": [network(4, 3)[0], *network(4, 2)[1:]]}, "weight must have b1 of shape"),
        ({"weight": [*network(4, 3)[:2], network(4, 2)[2]]}, "weight must have w1"),
        ({"weight": network(4, 3)[::-1]}, "weight must have b1 of shape"),
        ({"weight": network(4, 3), "x": torch.zeros(2, 5, 8, 8)}, "weight must take the 5"),
        ({"x": torch.zeros(2, 3, 0, 8)}, "x must have points on each axis"),
        ({"weight": torch.zeros(3, 4, 4, 3, 2, dtype=torch.int64)}, "weight must be complex or fl"),
        ({"weight": [t.real.int() for t in network(4, 3)]}, "weight must be complex or floating"),
        ({"bias": torch.zeros(3)}, r"bias must have shape \(4,\)"),
        ({"bias": torch.zeros(2, 2)}, r"bias must have shape \(4,\) or \(4, 1, 1\)"),
        ({"bias": torch.zeros(4, dtype=torch.cfloat)}, "bias must be real and floating point"),
        ({"skip": torch.zeros(4, 3, dtype=torch.cfloat)}, "skip must be real and floating point"),
        ({"skip": torch.zeros(4, 3, dtype=torch.int64)}, "skip must be real and floating point"),
        ({"skip": torch.zeros(3, 4)}, "skip must have shape"),
        ({"skip": torch.zeros(4, 3), "output_shape": (4, 4)}, "output_shape must be"),
        ({"output_shape": (4,)}, "output_shape must have 2"),
        ({"output_shape": (0, 4)}, "output_shape must have 2 entries, all positive"),
        ({"output_shape": (-1, 4)}, "output_shape must have 2 entries, all positive"),
        ({"output_shape": (8.0, 4)}, "output_shape must have 2 entries, all positive"),
        ({"activation": "relu"}, "activation must be"),
        ({"norm": "none"}, "norm must be"),
        ({"frequencies": "all"}, "frequencies must be"),
        ({"backend": "cuda"}, "backend must be"),
    ],
)
def test_errors_name_the_argument(change, message):
    arguments = {
        "x": torch.zeros(2, 3, 8, 8),
        "weight": torch.zeros(3, 4, 4, 3, dtype=torch.cfloat),
    }
    with pytest.raises((TypeError, ValueError), match=message):
        spectral_conv2d(**(arguments | change))


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_no_channels_and_no_modes(backend):
    x, weight = torch.randn(2, 3, 8, 9), torch.randn(3, 4, 4, 3, dtype=torch.cfloat)
    bias, skip = torch.randn(4), torch.randn(4, 3)
    rest = torch.einsum("oi,bixy->boxy", skip, x) + bias.view(-1, 1, 1)
    for none in (weight[..., :0], weight[:, :, :0]):
        out = spectral_conv2d(x, none, bias, skip=skip, backend=backend)
        torch.testing.assert_close(out, rest)
    out = spectral_conv2d(x[:, :0], weight[:0], bias, backend=backend)
    assert torch.equal(out, bias.view(-1, 1, 1).expand(2, 4, 8, 9))
    assert spectral_conv2d(x, weight[:, :0], backend=backend).shape == (2, 0, 8, 9)
    assert spectral_conv2d(x[:0], weight, bias, backend=backend).shape == (0, 4, 8, 9)


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1), (1, 4, 1, 1)])
def test_shapes_of_bias(shape):
    x, weight = torch.zeros(2, 3, 8, 9), torch.zeros(3, 4, 4, 3, dtype=torch.cfloat)
    out = spectral_conv2d(x, weight, torch.arange(4.0).view(shape))
    assert torch.equal(out[0, :, 0, 0], torch.arange(4.0))


@pytest.mark.parametrize("conv", CONVS.values())
def test_unknown_options_are_errors_of_the_function(conv):
    with pytest.raises(TypeError, match=f"{conv.__name__}.* unexpected keyword"):
        conv(torch.zeros(1), torch.zeros(1), modes=3)


def test_backend_can_be_asked():
    x = torch.zeros(2, 3, 8, 8)
    assert unot_fast.spectral_backend(x) == "cpu"
    assert unot_fast.spectral_backend(x, 3) == "torch"
    with pytest.raises(RuntimeError, match="one and two dimensions"):
        unot_fast.spectral_backend(x, 3, "cpu")
