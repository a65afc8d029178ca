"""The classes of images, from where the standard sets keep them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unot_fast.evaluation.images import idx_file, pictures_of, read_idx, visible_files


def load_labels(path: str | Path) -> Tensor:
    """The classes of all images that `load_images` finds at the same place.

    Parameters
    ----------
    path : str or Path
        An ``.npz`` file with an array ``labels``; an ``idx3-ubyte`` file, or a folder with one,
        beside its ``idx1-ubyte`` file; or a folder with a folder of pictures for each class.

    Returns
    -------
    Tensor, shape (N,), int64
        Folders are numbered by name.

    Raises
    ------
    ValueError
        There are no labels; the message says where they were looked for.
    """
    path = Path(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            if "labels" not in archive:
                raise ValueError(f"{path}: has no array 'labels', only {archive.files}")
            return torch.from_numpy(archive["labels"].astype(np.int64))
    files = visible_files(path) if path.is_dir() else [path]
    if images := idx_file(files):
        beside = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
        if beside == images or not beside.exists():
            raise ValueError(f"{images}: has no labels beside it; looked for {beside.name}")
        return torch.from_numpy(read_idx(beside, "label").astype(np.int64))
    folders = [picture.parent for picture in pictures_of(files)]
    names = sorted(set(folders))
    if len(names) < 2:
        raise ValueError(
            f"{path}: has no labels; they are read from the array 'labels' of an .npz file, from "
            "an idx1-ubyte file, or from a folder with a folder of pictures for each class"
        )
    return torch.tensor([names.index(folder) for folder in folders])
