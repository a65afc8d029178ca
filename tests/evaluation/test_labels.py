import struct

import numpy as np
import pytest
from PIL import Image

from unot_fast.evaluation import load_images, load_labels


def idx(values, magic):
    return struct.pack(f">{1 + values.ndim}i", magic, *values.shape) + values.tobytes()


def test_of_an_array(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 4, 4)), labels=np.array([2, 0, 1], np.uint8))
    assert load_labels(tmp_path / "a.npz").tolist() == [2, 0, 1]
    np.savez(tmp_path / "b.npz", images=np.zeros((3, 4, 4)))
    with pytest.raises(ValueError, match="has no array 'labels'"):
        load_labels(tmp_path / "b.npz")


def test_beside_idx_images(tmp_path):
    for part, labels in (("train", [3, 1, 4]), ("t10k", [1, 5])):
        images = np.zeros((len(labels), 2, 2), np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images, 0x803))
        values = np.array(labels, np.uint8)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(values, 0x801))
    assert load_labels(tmp_path).tolist() == [3, 1, 4]
    assert load_labels(tmp_path / "t10k-images-idx3-ubyte").tolist() == [1, 5]
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(images, 0x803))
    with pytest.raises(ValueError, match="no header of an idx1-ubyte file"):
        load_labels(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="looked for train-labels-idx1-ubyte"):
        load_labels(tmp_path)


def test_of_folders(tmp_path):
    for name, grey in (("boots/a", 10), ("bags/b", 20), ("boots/c", 30)):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 2), grey, np.uint8)).save(path)
    assert load_images(tmp_path)[:, 0, 0].tolist() == [20, 10, 30]
    assert load_labels(tmp_path).tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="has no labels"):
        load_labels(tmp_path / "boots")
