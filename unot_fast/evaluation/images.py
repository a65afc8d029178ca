"""The standard image sets, read from the files they are published as."""

from __future__ import annotations

import gzip
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_PICTURES = {".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".bmp", ".tif", ".tiff", ".gif", ".webp"}
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_IDX = {"image": (0x803, 3), "label": (0x801, 1)}  # magic number, how many sizes
_QUICKDRAW_SIDE = 28
_CIFAR_SIDE = 32
_CIFAR_RECORD = 1 + 3 * _CIFAR_SIDE**2
KINDS = (
    "an .npz file with an array 'images'; a .npy array (N, h, w), (N, 784) as Quick, Draw! has it, "
    "or (h, w), one image; MNIST's *idx3-ubyte files, also .gz; CIFAR-10's binary version "
    "(data_batch_*.bin); or a folder of pictures, nested folders included"
)


def load_images(path: str | Path, limit: int | None = None) -> Tensor:
    """Grey images of a file or folder; the format is recognised by what is there.

    Parameters
    ----------
    path : str or Path
        An ``.npz`` file with an array ``images``; a ``.npy`` array (N, h, w), (N, 784) as Quick,
        Draw! has it, or (h, w), one image; an ``idx3-ubyte`` file (``.gz`` or not); a ``.bin``
        file of CIFAR-10; or a folder that holds one of these or pictures, where hidden files are
        passed over. Of a split data set the training part is taken.
    limit : int, optional
        Most images: the first ones, of a folder of pictures equally spaced ones by name.

    Returns
    -------
    Tensor, shape (N, h, w)
        Of the dtype of the file; uint8 for luminances of colour images. Grey pictures keep their
        values, of 16 bits too.

    Raises
    ------
    FileNotFoundError
        Nothing there is of a known kind; the message lists them.
    ValueError
        A file is damaged, or pictures have different sizes; the message names it.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be positive; got {limit}")
    if not path.exists():
        raise FileNotFoundError(f"path: {path} does not exist; looked for {KINDS}")
    images = _from_folder(path, limit) if path.is_dir() else _from_file(path, limit)
    if images.ndim != 3 or 0 in images.shape:
        raise ValueError(f"{path}: must hold images (N, h, w); got shape {images.shape}")
    if images.dtype.kind not in "buif":
        raise ValueError(f"{path}: must hold numbers; got {images.dtype}")
    if images.dtype.kind == "u" and images.dtype != np.uint8:  # no such dtype of torch has sums
        images = images.astype(np.int64)
    native = images.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(images[:limit], dtype=native, order="C"))


def is_readable(path: Path) -> bool:
    """Whether it is a folder, or a file that `load_images` knows by its name."""
    known = path.suffix.lower() in {".npz", ".npy", ".bin"} | _PICTURES
    return path.is_dir() or known or "idx3-ubyte" in path.name.lower()


def visible_files(folder: Path) -> list[Path]:
    """All files within a folder by name, but hidden ones such as macOS leaves beside pictures."""

    def hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    return sorted(p for p in folder.rglob("*") if p.is_file() and not hidden(p))


def idx_file(files: list[Path]) -> Path | None:
    """The file of MNIST's format among these that has the images, of training if it is split."""
    idx = [p for p in files if "idx3-ubyte" in p.name]
    return next((p for p in idx if "train" in p.name), idx[0] if idx else None)


def pictures_of(files: list[Path]) -> list[Path]:
    """Those of these files that are pictures."""
    return [p for p in files if p.suffix.lower() in _PICTURES]


def read_idx(path: Path, entry: str, limit: int | None = None) -> np.ndarray:
    """The format of MNIST, of every ``"image"`` or ``"label"``: magic number, sizes, bytes."""
    magic, sizes = _IDX[entry]
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            header = np.frombuffer(file.read(4 * (1 + sizes)), ">i4")
            if len(header) <= sizes or header[0] != magic or (header[1:] < 1).any():
                raise ValueError(f"{path}: has no header of an idx{sizes}-ubyte file")
            count, *shape = (int(n) for n in header[1:])
            count, size = min(count, limit or count), math.prod(shape)
            values = np.frombuffer(file.read(count * size), np.uint8)
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as gzip: {error}") from error
    if len(values) < count * size:
        raise ValueError(f"{path}: ends early, within {entry} {len(values) // size}")
    return values.reshape(count, *shape)


def _from_file(path: Path, limit: int | None) -> np.ndarray:
    name = path.name.lower()
    if name.endswith(".npz"):
        return _npz(path)
    if name.endswith(".npy"):
        return _npy(path)
    if "idx3-ubyte" in name:
        return read_idx(path, "image", limit)
    if name.endswith(".bin"):
        return _cifar([path], limit)
    if path.suffix.lower() in _PICTURES:
        return _pictures([path])
    raise FileNotFoundError(f"path: {path} is of no known kind; looked for {KINDS}")


def _from_folder(path: Path, limit: int | None) -> np.ndarray:
    files = visible_files(path)
    if idx := idx_file(files):
        return read_idx(idx, "image", limit)
    if batches := [p for p in files if p.name.startswith("data_batch_") and p.suffix == ".bin"]:
        return _cifar(batches, limit)
    if any(p.name == "data_batch_1" for p in files):
        raise FileNotFoundError(
            f"path: {path} has the pickled version of CIFAR-10, which is not read, for a pickle "
            "can run any code; use its binary version (cifar-10-binary.tar.gz: data_batch_*.bin)"
        )
    if pictures := pictures_of(files):
        if limit is not None and limit < len(pictures):
            # Names order people and classes: the first ones would be few of them.
            pictures = [pictures[k * len(pictures) // limit] for k in range(limit)]
        return _pictures(pictures)
    if arrays := [p for p in files if p.suffix in (".npz", ".npy")]:
        if len(arrays) == 1:
            return _from_file(arrays[0], limit)
        raise FileNotFoundError(f"path: {path} has several arrays; name one of {arrays}")
    raise FileNotFoundError(f"path: nothing of a known kind in {path}; looked for {KINDS}")


def _npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "images" not in archive:
                raise ValueError(f"{path}: has no array 'images', only {archive.files}")
            return archive["images"]
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as .npz: {error}") from error


def _npy(path: Path) -> np.ndarray:
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as .npy: {error}") from error
    if not isinstance(images, np.ndarray) or images.ndim != 2:
        return images
    if images.shape[1] == _QUICKDRAW_SIDE**2:
        return images.reshape(-1, _QUICKDRAW_SIDE, _QUICKDRAW_SIDE)
    return images[None]


def _cifar(paths: list[Path], limit: int | None) -> np.ndarray:
    """The binary version: a label and three planes of each image."""
    images, missing = [], limit
    for path in paths:
        pixels = np.fromfile(path, np.uint8)
        if len(pixels) == 0 or len(pixels) % _CIFAR_RECORD:
            raise ValueError(
                f"{path}: must hold records of {_CIFAR_RECORD} bytes; has {len(pixels)} bytes"
            )
        colours = pixels.reshape(-1, _CIFAR_RECORD)[:missing, 1:].reshape(-1, 3, _CIFAR_SIDE**2)
        grey = np.tensordot(colours, _LUMINANCE, (1, 0))
        images.append(np.uint8(np.rint(grey)).reshape(-1, _CIFAR_SIDE, _CIFAR_SIDE))
        if missing is not None:
            missing -= len(grey)
            if missing == 0:
                break
    return np.concatenate(images)


def _pictures(paths: list[Path]) -> np.ndarray:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ModuleNotFoundError("pictures need Pillow: pip install 'unot-fast[cli]'") from None
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                grey = image.mode in ("I", "F") or image.mode.startswith("I;16")
                images.append(np.asarray(image if grey else image.convert("L")))
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{path}: cannot be read as a picture: {error}") from error
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"{path}: is {images[-1].shape[0]} x {images[-1].shape[1]}, {paths[0]} is "
                f"{images[0].shape[0]} x {images[0].shape[1]}; pictures must have one size"
            )
    return np.stack(images)
