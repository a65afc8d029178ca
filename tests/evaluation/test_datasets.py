import dataclasses
import math

import numpy as np
import pytest
import torch

from unot_fast.evaluation import CELLS, measures, pairs, spherical_measures
from unot_fast.evaluation.datasets import black_images, find_set, load_set

RNG = np.random.default_rng(0)


def save(path, *shape):
    np.savez(path, images=RNG.integers(1, 256, shape).astype(np.uint8))


def test_measures_are_preprocessed_as_published():
    images = torch.from_numpy(RNG.integers(0, 256, (3, 20, 20)).astype(np.uint8))
    got = measures(images, 10, dust=1e-3)
    assert got.dtype == torch.float64
    # Halving without antialiasing and with corners not aligned: the mean of two by two pixels.
    half = images.double().unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2))
    expected = half / half.sum((1, 2), keepdim=True) + 1e-3
    assert torch.allclose(got, expected / expected.sum((1, 2), keepdim=True), rtol=1e-12)
    assert torch.allclose(measures(images, 20, dust=0) * images.sum((1, 2)).view(-1, 1, 1),
                          images.double())  # fmt: skip


def test_unusable_images():
    images = torch.ones(3, 8, 8)
    images[1] = 0
    with pytest.raises(ValueError, match="image 1 is black everywhere"):
        measures(images, 8)
    images[2, 0, 0] = -1
    with pytest.raises(ValueError, match="image 2 has negative"):
        measures(images, 8)
    with pytest.raises(ValueError, match="images must have shape"):
        measures(images[0], 8)
    with pytest.raises(ValueError, match="dust must be"):
        measures(images[:1], 8, dust=-1.0)


def test_pooling_on_the_sphere_keeps_mass_and_place():
    ones = torch.ones(1, 64, 128)
    for n in (64, 32, 17):
        uniform = spherical_measures(ones, n, dust=0)
        assert uniform.shape == (1, n, 2 * n)
        area = CELLS["sphere-MNIST"].geometry(n).weights / (4 * math.pi)
        assert float((uniform[0, 1:-1] / area[1:-1] - 1).abs().max()) < 0.05
        points = CELLS["sphere-MNIST"].geometry(n).points()
        spot = torch.zeros(1, 64, 128)
        spot[0, 40, 127] = 1  # next to the seam
        mean = (spherical_measures(spot, n, dust=0)[0, ..., None] * points).sum((0, 1))
        position = CELLS["sphere-MNIST"].geometry(64).points()[40, 127]
        assert float((mean / mean.norm() @ position).clamp(-1, 1).arccos()) < math.pi / n / 4
    with pytest.raises(ValueError, match="n must be from 2 to 64"):
        spherical_measures(ones, 65)
    assert torch.allclose(spherical_measures(ones, 64), spherical_measures(ones, 64, dust=0))


def test_pairs_are_drawn_by_the_seed(tmp_path):
    save(tmp_path / "mnist.npz", 20, 28, 28)
    save(tmp_path / "Fashion_mnist.npz", 20, 8, 8)  # another set
    (tmp_path / "CIFAR-10").mkdir()
    save(tmp_path / "CIFAR-10" / "x.npz", 30, 32, 32)
    cell = CELLS["MNIST-CIFAR"]
    mu, nu = pairs(cell, 50, 7, data=tmp_path)
    again = pairs(cell, 50, 7, data=tmp_path)
    assert torch.equal(mu, again[0])
    assert torch.equal(nu, again[1])
    assert not torch.equal(mu, pairs(cell, 50, 8, data=tmp_path)[0])
    assert mu.shape == nu.shape == (50, *cell.geometry().shape)
    assert len(torch.unique(mu, dim=0)) <= 20  # with replacement
    with np.load(tmp_path / "mnist.npz") as archive:
        own = measures(torch.from_numpy(archive["images"]), 28)
    assert bool((mu[:, None] == own).all((-1, -2)).any(1).all())
    assert pairs(CELLS["CIFAR"], 2, 0, n=12, data=tmp_path)[0].shape == (2, 12, 12)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("UNOT_FAST_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="UNOT_FAST_DATA"):
        pairs(CELLS["MNIST"], 2, 0)
    monkeypatch.setenv("UNOT_FAST_DATA", str(tmp_path / "away"))
    with pytest.raises(FileNotFoundError, match="away is not a folder"):
        pairs(CELLS["MNIST"], 2, 0)
    (tmp_path / "bears.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"bears: nothing named bear\*"):
        pairs(CELLS["Bears"], 2, 0, data=tmp_path)


def test_black_images_are_never_drawn(tmp_path):
    images = RNG.integers(1, 256, (4, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "bear.npy", images[[0, 1, 3]])
    whole = pairs(CELLS["Bears"], 40, 0, data=tmp_path)
    images[2] = 0
    (tmp_path / "more").mkdir()
    np.save(tmp_path / "more" / "bear.npy", images)
    assert all(map(torch.equal, pairs(CELLS["Bears"], 40, 0, data=tmp_path / "more"), whole))
    assert len(load_set("bears", tmp_path / "more")) == 3
    assert black_images("bears", tmp_path / "more") == [2]
    assert black_images("bears", tmp_path) == []
    np.save(tmp_path / "lfw.npy", 0 * images)
    with pytest.raises(ValueError, match=r"lfw: every image in .*lfw\.npy is black"):
        pairs(CELLS["LFW"], 1, 0, data=tmp_path)


def test_an_image_that_a_coarse_grid_misses_is_named_by_its_place(tmp_path):
    images = np.zeros((3, 12, 12), np.uint8)
    images[1:] = 1
    images[1] = 0
    images[1, 0, 0] = 255  # between the points of three by three
    np.save(tmp_path / "bear.npy", images)
    assert pairs(CELLS["Bears"], 20, 0, n=12, data=tmp_path)[0].shape == (20, 12, 12)
    with pytest.raises(ValueError, match="bears: image 1 is black everywhere"):
        pairs(CELLS["Bears"], 20, 0, n=3, data=tmp_path)


@pytest.mark.parametrize(
    "name", ["bear.npy", "full_numpy_bitmap_bear.npy", "full%2Fnumpy_bitmap%2Fbear.npy"]
)
def test_quick_draw_is_found_by_the_names_it_comes_with(tmp_path, name):
    np.save(tmp_path / name, RNG.integers(1, 256, (5, 784)).astype(np.uint8))
    assert find_set("bears", tmp_path).name == name
    assert load_set("bears", tmp_path).shape == (5, 28, 28)


def test_cells_of_the_plane_have_a_cost():
    assert CELLS["MNIST"].geometry(5).cost == "sqeuclidean"
    other = dataclasses.replace(CELLS["MNIST"], cost="euclidean")
    assert other.geometry(5).cost == "euclidean"
