"""The weights that come with the package, on real images that they were never trained on."""

from importlib import resources

import pytest
import torch

from tests.conftest import DATA
from unot_fast import UNOT, Grid, Sphere, sinkhorn
from unot_fast.evaluation.datasets import CELLS, PUBLISHED_CELLS, pairs
from unot_fast.models import weights

NAMES = ("euclidean", "sphere", "sqeuclidean")


needs_images = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no test images: {DATA} is missing (set UNOT_FAST_DATA)"
)


def one_step_error(model, cell, n, count):
    """Mean relative error of the cost after the network and one plain iteration."""
    a, b = pairs(CELLS[cell], count, 0, n, data=DATA)
    geom = model.geometry(a.shape[1:])
    exact = sinkhorn(a, b, geom, model.epsilon, tol=1e-4).cost
    options = {"tol": 0.0, "max_iter": 1, "overrelaxation": 1.0}
    started = sinkhorn(a, b, geom, model.epsilon, init=model, **options)
    return float((started.cost / exact - 1).abs().mean())


def test_what_is_there():
    assert tuple(weights.pretrained()) == NAMES
    for name in NAMES:
        file = resources.files("unot_fast.models") / "pretrained" / f"{name}.safetensors"
        assert len(file.read_bytes()) < 10_000_000
        said = weights.card(name)
        assert {"data", "loss", "seconds", "samples", "hardware", "one_step_error"} <= set(said)
        assert UNOT.from_pretrained(name).config.cost in ("sqeuclidean", "euclidean", "geodesic")


@needs_images
@pytest.mark.parametrize("n", [10, 16, 28, 40, 64])
@pytest.mark.parametrize("cell", PUBLISHED_CELLS)
def test_one_step_on_real_pairs(cell, n):
    """The paper has 1.3 to 2.8 % at n = 28."""
    assert one_step_error(UNOT.from_pretrained("sqeuclidean"), cell, n, 32) < 0.03


@needs_images
@pytest.mark.parametrize("n", [16, 28, 40, 64])
def test_one_step_on_real_pairs_refined(n):
    model = UNOT.from_pretrained("sqeuclidean").refined()
    for cell in PUBLISHED_CELLS:
        assert one_step_error(model, cell, n, 16) < 0.006


@needs_images
@pytest.mark.parametrize("cell", ["sphere-MNIST", "sphere-Earth"])
def test_one_step_on_the_sphere(cell):
    assert one_step_error(UNOT.from_pretrained("sphere"), cell, 32, 16) < 0.05


@needs_images
@pytest.mark.parametrize("cell", ["CIFAR", "LFW", "MNIST"])
def test_one_step_on_real_pairs_of_distances(cell):
    """At the smallest epsilon, where cells of 16 x 16 do not tell more."""
    assert one_step_error(UNOT.from_pretrained("euclidean"), cell, 28, 16) < 0.11


@pytest.mark.parametrize(
    ("geom", "epsilon"),
    [(Grid((20, 20)), 0.01), (Grid((20, 20), "euclidean"), 0.03), (Sphere(16, 32), 0.1)],
)
def test_by_name_as_a_start_of_the_solver(geom, epsilon):
    a, b = torch.rand(2, 4, *geom.shape)
    result = sinkhorn(a, b, geom, epsilon, init="unot", normalize=True)
    exact = sinkhorn(a, b, geom, epsilon, normalize=True)
    assert result.converged.all()
    torch.testing.assert_close(result.cost, exact.cost, rtol=1e-2, atol=0)


def test_no_network_for_the_cost():
    a = torch.rand(1, 9, 9)
    with pytest.raises(ValueError, match="no trained network has the cost"):
        sinkhorn(a, a, Grid((9, 9), "lp", p=1), 0.1, init="unot", normalize=True)
    with pytest.raises(ValueError, match="epsilon must be within"):
        sinkhorn(a, a, Grid((9, 9)), 1.0, init="unot", normalize=True)


@pytest.mark.parametrize("name", NAMES)
def test_start_by_name_in_one_graph(name):
    geom = Sphere(16, 32) if name == "sphere" else Grid((20, 20), name)

    epsilon = 0.06 if name == "sphere" else 0.02

    def cost(a, b):
        options = {"tol": 1e-2, "normalize": True, "validate": False}
        return sinkhorn(a, b, geom, epsilon, init="unot", **options).cost

    a, b = torch.rand(2, 3, *geom.shape)
    compiled = torch.compile(cost, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(a, b), cost(a, b))
