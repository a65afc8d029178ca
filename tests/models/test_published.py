"""The published network against its definition by plain FFTs, with a state dict in its layout."""

import pytest
import torch
import torch.nn.functional as F

import unot_fast
from unot_fast import Grid, Sphere
from unot_fast.models import PublishedUNOT

SIZES = {"channels": 5, "depth": 2, "hidden": 7}


def state_dict(channels, depth, hidden, modes=(10, 10), inputs=2):
    """Random parameters under the published names."""
    shapes = {
        "lifting.weight": (channels, inputs, 1, 1),
        "lifting.bias": (channels,),
        "projection.weight": (1, channels, 1, 1),
        "projection.bias": (1,),
    }
    for k in range(depth):
        block = f"fno_blocks.{k}"
        shapes[f"{block}.bypass_conv.weight"] = (channels, channels, 1, 1)
        shapes[f"{block}.bypass_conv.bias"] = (channels,)
        for part in ("real", "imag"):
            layers = f"{block}.spectral_conv.layers"
            shapes[f"{layers}.0.{part}_weights"] = (channels, hidden, *modes)
            shapes[f"{layers}.0.{part}_bias"] = (hidden, *modes)
            shapes[f"{layers}.1.{part}_weights"] = (hidden, channels, *modes)
    return {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}


def by_definition(state, x, depth, transform, inverse):
    """``transform`` gives the coefficients that the grid holds, of 10 x 10 at most."""
    state = {k: v.to(x.dtype) for k, v in state.items()}
    x = F.conv2d(x, state["lifting.weight"], state["lifting.bias"])
    for k in range(depth):
        layers = f"fno_blocks.{k}.spectral_conv.layers"
        c = transform(x)
        w1, b1, w2 = (
            torch.complex(*(state[f"{layers}.{name.format(p)}"] for p in ("real", "imag")))[
                ..., : c.shape[2], : c.shape[3]
            ]
            for name in ("0.{}_weights", "0.{}_bias", "1.{}_weights")
        )
        c = torch.einsum("bixy,ioxy->boxy", c, w1) + b1
        c = torch.einsum("bixy,ioxy->boxy", torch.complex(F.gelu(c.real), F.gelu(c.imag)), w2)
        bypass = (state[f"fno_blocks.{k}.bypass_conv.{name}"] for name in ("weight", "bias"))
        x = F.gelu(inverse(c, x) + F.conv2d(x, *bypass))
    return F.conv2d(x, state["projection.weight"], state["projection.bias"])


def in_the_plane():
    def inverse(c, x):
        full = torch.zeros_like(torch.fft.rfft2(x))
        full[:, :, : c.shape[2], : c.shape[3]] = c
        return torch.fft.irfft2(full, s=x.shape[2:])

    return lambda x: torch.fft.rfft2(x)[:, :, :10, :10], inverse


def on_the_sphere(n):
    harmonics = pytest.importorskip("torch_harmonics")
    sizes = {"lmax": 10, "mmax": min(10, n // 2 + 1)}
    transform = harmonics.RealSHT(n, n, **sizes)
    inverse = harmonics.InverseRealSHT(n, n, **sizes)
    return transform, lambda c, x: inverse(c)


def measures(n, *batch):
    return torch.rand(2, *batch, n, n, dtype=torch.float64) + 0.1


def dusted(x, dust=1e-6):
    x = x / x.sum((-2, -1), keepdim=True) + dust
    return x / x.sum((-2, -1), keepdim=True)


@pytest.mark.parametrize("n", [10, 13, 28])
@pytest.mark.parametrize("domain", ["plane", "sphere"])
def test_values(n, domain):
    state = state_dict(**SIZES)
    if domain == "sphere":  # theirs keep the transforms of the resolutions that they met
        state["fno_blocks.0.spectral_conv.sht_handle._SHT_cache.10_10.weights"] = torch.zeros(3)
    model = PublishedUNOT.from_state_dict(state, domain=domain).double()
    mu, nu = measures(n, 3)
    transforms = on_the_sphere(n) if domain == "sphere" else in_the_plane()
    x = torch.stack((dusted(mu), dusted(nu)), 1)
    log_v = by_definition(state, x, SIZES["depth"], *transforms)[:, 0]
    expected = 0.01 * (log_v - dusted(nu).log())
    assert torch.allclose(model(mu, nu), expected, rtol=1e-9, atol=1e-10)
    assert torch.allclose(model(mu[0], 5 * nu[0]), expected[0], rtol=1e-9, atol=1e-10)


def test_coordinates_and_epsilon_as_inputs():
    state = state_dict(**SIZES, inputs=5)
    model = PublishedUNOT.from_state_dict(state, dust=1e-4).double()
    (mu, nu), epsilon = measures(12, 2, 3), torch.rand(2, 3, dtype=torch.float64)
    x, y = torch.meshgrid(*(torch.linspace(0, 1, 12, dtype=torch.float64),) * 2, indexing="ij")
    planes = dusted(mu, 1e-4), dusted(nu, 1e-4), x, y, epsilon[..., None, None]
    planes = torch.stack([p.expand_as(mu) for p in planes], 2).flatten(0, 1)
    log_v = by_definition(state, planes, SIZES["depth"], *in_the_plane()).view(nu.shape)
    expected = epsilon[..., None, None] * (log_v - planes[:, 1].view(nu.shape).log())
    assert torch.allclose(model(mu, nu, epsilon=epsilon), expected, rtol=1e-9, atol=1e-10)
    with pytest.raises(ValueError, match="epsilon must be given"):
        model(mu, nu)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [({}, 26_436_097), ({"channels": 32, "depth": 6, "hidden": 128}, 9_990_465)],
)
def test_published_sizes(sizes, count):
    """Of unot_fno.pt and unot_sphere.pt, and of unot_small.pt."""
    with torch.device("meta"):
        model = PublishedUNOT(**sizes)
    assert sum(p.numel() for p in model.parameters()) == count


def test_load(tmp_path):
    state = state_dict(**SIZES)
    torch.save(state, tmp_path / "unot.pt")
    model = PublishedUNOT.load(tmp_path / "unot.pt")
    mu, nu = measures(16)
    assert torch.equal(model(mu, nu), PublishedUNOT.from_state_dict(state)(mu, nu))
    again = PublishedUNOT(**SIZES)
    again.load_state_dict(model.state_dict())
    assert torch.equal(model(mu, nu), again(mu, nu))


def without(name):
    return lambda state: state.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("lifting.weight"), "lifting.weight of 4 axes is missing"),
        (without("fno_blocks.1.bypass_conv.bias"), "blocks.1.bypass_conv.bias is missing"),
        (lambda s: s.update(norm=torch.zeros(1)), "norm is not part of it"),
        (lambda s: s.update({"projection.bias": torch.zeros(2)}), r"must have shape \(1,\)"),
        (lambda s: s.update({"lifting.weight": torch.zeros(5, 7, 1, 1)}), "takes 7 channels"),
    ],
)
def test_other_parameters_are_refused(change, message):
    state = state_dict(**SIZES)
    change(state)
    with pytest.raises(ValueError, match=message):
        PublishedUNOT.from_state_dict(state)


class Harmful:
    """Runs what it likes where it is unpickled."""

    def __reduce__(self):
        return print, ("harm",)


def test_other_files_are_refused(tmp_path, capsys):
    path = tmp_path / "x.pt"
    with pytest.raises(FileNotFoundError, match=r"x\.pt is no file"):
        PublishedUNOT.load(path)
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"x\.pt holds no parameters that torch can read"):
        PublishedUNOT.load(path)
    torch.save(Harmful(), path)
    with pytest.raises(ValueError, match=r"x\.pt holds no parameters that torch can read"):
        PublishedUNOT.load(path)
    assert capsys.readouterr().out == ""
    for content, message in (
        ([torch.zeros(1)], "holds no parameters but a list"),
        ({0: torch.zeros(1)}, "holds other things"),
        ({"lifting.weight": 1.0}, "holds other things"),
        ({}, r"lifting\.weight of 4 axes is missing"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=rf"x\.pt: not a published UNOT: .*{message}"):
            PublishedUNOT.load(path)


def test_parameters_as_other_codes_keep_them(tmp_path):
    state = state_dict(**SIZES)
    mu, nu = measures(12)
    expected = PublishedUNOT.from_state_dict(state)(mu, nu)
    parallel = {f"module.{k}": v for k, v in state.items()}
    for content in ({"state_dict": state, "epoch": 3}, parallel, {"state_dict": parallel}):
        torch.save(content, tmp_path / "x.pt")
        assert torch.equal(PublishedUNOT.load(tmp_path / "x.pt")(mu, nu), expected)


def test_parameters_of_the_sphere_are_not_for_the_plane():
    state = state_dict(**SIZES)
    state["fno_blocks.0.spectral_conv.sht_handle._iSHT_cache.10_10.pct"] = torch.zeros(3)
    with pytest.raises(ValueError, match="domain must be 'sphere'"):
        PublishedUNOT.from_state_dict(state)
    PublishedUNOT.from_state_dict(state, domain="sphere")


@pytest.mark.parametrize(
    "geom",
    [
        *(Grid((12, 12), "euclidean"), Grid((12, 12), "lp", p=1), Grid((12, 12), extent=2.0)),
        *(Grid((12, 12), target=(13, 12)), Grid(12), Sphere.published(12), Sphere(12, 12)),
        Grid((12, 12), lambda d: d.square().sum(-1)),
    ],
)
def test_geometries_of_another_cost_are_refused(geom):
    mu, nu = measures(12)
    with pytest.raises(ValueError, match=r"geom must be Grid\(\(n, n\)\), the unit square"):
        PublishedUNOT(**SIZES)(mu, nu, geom)
    if geom.__class__ is Grid or geom.grid != "published":
        with pytest.raises(ValueError, match=r"geom must be Sphere\.published"):
            PublishedUNOT(**SIZES, domain="sphere")(mu, nu, geom)


@pytest.mark.parametrize("geom", [Grid((16, 16)), Sphere.published(16)])
def test_start_of_the_solver(geom):
    domain = "plane" if isinstance(geom, Grid) else "sphere"
    model = PublishedUNOT(**SIZES, domain=domain)
    a, b = measures(16, 2)
    options = {"tol": 1e-6, "normalize": True}
    found = unot_fast.sinkhorn(a, b, geom, model.epsilon, init=model, **options)
    expected = unot_fast.sinkhorn(a, b, geom, model.epsilon, **options)
    assert bool(found.converged.all())
    assert torch.allclose(found.cost, expected.cost, rtol=1e-4)


def test_invalid_arguments():
    model = PublishedUNOT(**SIZES)
    mu, nu = measures(12)
    with pytest.raises(ValueError, match="mu and nu must have one shape"):
        model(mu, nu[:, :-1])
    with pytest.raises(ValueError, match="nu must be finite, non-negative"):
        model(mu, 0 * nu)
    with pytest.raises(ValueError, match=r"epsilon must be 0.01"):
        model(mu, nu, epsilon=0.02)
    with pytest.raises(ValueError, match="inputs must be"):
        PublishedUNOT(inputs=1)
    with pytest.raises(ValueError, match="domain must be"):
        PublishedUNOT(domain="torus")
