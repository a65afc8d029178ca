import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from unot_fast.evaluation import load_images, load_labels

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def idx(images, magic=0x803):
    return struct.pack(">4i", magic, *images.shape) + images.tobytes()


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_idx(tmp_path, name):
    images = pixels(5, 28, 28)
    data = idx(images)
    path = tmp_path / "MNIST" / "raw" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    (path.parent / "t10k-images-idx3-ubyte").write_bytes(idx(pixels(2, 28, 28)))
    (path.parent / "train-labels-idx1-ubyte").write_bytes(b"")
    for where in (path, tmp_path):
        assert np.array_equal(load_images(where), images)
        assert np.array_equal(load_images(where, 3), images[:3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no header"),
        (idx(pixels(2, 4, 4), magic=0x801), "no header"),
        (idx(pixels(2, 4, 4))[:-1], "ends early, within image 1"),
    ],
)
def test_damaged_idx(tmp_path, content, message):
    path = tmp_path / "x-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_images(path)


def test_damaged_gzip(tmp_path):
    path = tmp_path / "x-idx3-ubyte.gz"
    for content in (b"not gzip", gzip.compress(idx(pixels(9, 28, 28)))[:-20]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"idx3-ubyte\.gz"):
            load_images(path)


def test_cifar_binary(tmp_path):
    colours = pixels(5, 3, 32, 32)
    for k, part in ((1, colours[:2]), (2, colours[2:])):
        records = b"".join(b"\x07" + image.tobytes() for image in part)
        (tmp_path / f"data_batch_{k}.bin").write_bytes(records)
    (tmp_path / "test_batch.bin").write_bytes(b"x")
    expected = np.stack([np.asarray(Image.fromarray(c.transpose(1, 2, 0)).convert("L"))
                         for c in colours]).astype(int)  # fmt: skip
    for limit in (None, 1, 2, 3):
        got = load_images(tmp_path, limit).numpy().astype(int)
        assert np.abs(got - expected[:limit]).max() <= 1  # Pillow rounds in fixed point
    (tmp_path / "data_batch_2.bin").write_bytes(records[:-1])
    with pytest.raises(ValueError, match=r"data_batch_2\.bin: must hold records of 3073 bytes"):
        load_images(tmp_path)


def test_pickled_cifar_is_not_read(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({}))
    with pytest.raises(FileNotFoundError, match="use its binary version"):
        load_images(tmp_path)


def test_folder_of_pictures(tmp_path):
    images = pixels(6, 10, 8)
    for k, image in enumerate(images):
        folder = tmp_path / f"person_{k // 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{k}.png")
    (tmp_path / "README.txt").write_text("faces")
    assert np.array_equal(load_images(tmp_path), images)
    assert np.array_equal(load_images(tmp_path, 3), images[::2])  # across the folder
    Image.fromarray(images[0].T).save(tmp_path / "z.png")
    with pytest.raises(ValueError, match=r"z\.png: is 8 x 10"):
        load_images(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_pictures_of_16_bits_keep_their_values(tmp_path, name):
    image = RNG.integers(0, 65536, (10, 8)).astype(np.uint16)
    Image.fromarray(image).save(tmp_path / name)
    got = load_images(tmp_path)[0]
    assert np.array_equal(got.numpy(), image)
    assert got.dtype.is_signed  # which torch can sum


def test_pictures_of_floats_keep_their_values(tmp_path):
    image = RNG.random((6, 5), dtype=np.float32)
    Image.fromarray(image).save(tmp_path / "a.tif")
    assert np.array_equal(load_images(tmp_path)[0].numpy(), image)


def test_hidden_files_are_passed_over(tmp_path):
    """macOS leaves them beside every picture that it copies to other disks."""
    images = pixels(2, 6, 6)
    for folder, image in zip("ab", images, strict=True):
        for where in (tmp_path / folder, tmp_path / ".cache"):
            where.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / folder / "x.png")
        (tmp_path / folder / "._x.png").write_bytes(b"\0\5\x16\7")
        (tmp_path / ".cache" / "x.png").write_bytes(b"")
    assert np.array_equal(load_images(tmp_path), images)
    assert load_labels(tmp_path).tolist() == [0, 1]


def test_damaged_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png: cannot be read"):
        load_images(tmp_path)


@pytest.mark.parametrize("shape", [(7, 28, 28), (7, 784)])
def test_npy(tmp_path, shape):
    images = pixels(*shape)
    path = tmp_path / "full_numpy_bitmap_bear.npy"
    np.save(path, images)
    assert np.array_equal(load_images(path, 4), images[:4].reshape(-1, 28, 28))
    assert np.array_equal(load_images(tmp_path), images.reshape(-1, 28, 28))


@pytest.mark.parametrize("shape", [(64, 64), (5, 9), (32, 1024)])
def test_npy_of_one_image(tmp_path, shape):
    image = pixels(*shape)
    np.save(tmp_path / "x.npy", image)
    assert np.array_equal(load_images(tmp_path), image[None])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", ">f8", "bool"])
def test_npz(tmp_path, dtype):
    images = pixels(3, 5, 6).astype(dtype)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(3))
    got = load_images(tmp_path / "x.npz")
    assert torch.equal(got.double(), torch.from_numpy(images.astype(float)))


def test_unusable_arrays(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, pictures=pixels(3, 5, 6))
    with pytest.raises(ValueError, match=r"no array 'images', only \['pictures'\]"):
        load_images(path)
    for shape in ((3, 5), (0, 5, 6), (2, 3, 5, 6)):
        np.savez(path, images=pixels(*shape))
        with pytest.raises(ValueError, match=r"must hold images \(N, h, w\)"):
            load_images(path)
    np.savez(path, images=np.full((2, 3, 3), "a"))
    with pytest.raises(ValueError, match="must hold numbers"):
        load_images(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"cannot be read as \.npz"):
        load_images(path)
    (tmp_path / "x.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot be read as \.npy"):
        load_images(tmp_path / "x.npy")


def test_nothing_there(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=r"idx3-ubyte.*data_batch_.*pictures"):
            load_images(path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="of no known kind"):
        load_images(tmp_path / "notes.txt")
    for name in "ab":
        np.save(tmp_path / name, pixels(2, 3, 3))
    with pytest.raises(FileNotFoundError, match="several arrays"):
        load_images(tmp_path)
    with pytest.raises(ValueError, match="limit must be positive"):
        load_images(tmp_path / "a.npy", 0)
