"""Tables of physical measurements and others: how they are read, prepared and split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Table:
    """Rows in three parts, every column of mean 0 and variance 1 over the first two.

    Attributes
    ----------
    train, validation, test : Tensor, shape (N, d), float32
    """

    train: Tensor
    validation: Tensor
    test: Tensor

    @property
    def dim(self) -> int:
        return self.train.shape[1]


def load_table(path: str | Path, name: str | None = None, *, seed: int = 42) -> Table:
    """Read a table, or one of the five physical sets in their standard preparation.

    Parameters
    ----------
    path : str or Path
        A table of numbers as ``.npy``, ``.npz`` (its array ``data``) or ``.csv``. Of the sets:
        power and miniboone ``data.npy``; gas a ``.npy`` or ``.csv`` of the sensors, without time
        and concentrations; hepmass the folder of ``1000_train.csv`` and ``1000_test.csv``; bsds300
        ``BSDS300.hdf5``.
    name : str, optional
        ``"power"``, ``"gas"``, ``"hepmass"``, ``"miniboone"`` or ``"bsds300"``; else a tenth of the
        rows is the test, a tenth of the others the validation, and columns that do not vary go.
    seed : int
        Of the order of the rows, and of the noise on rounded columns of power.

    Raises
    ------
    ValueError
        The name is unknown, or the file is not what it should be.

    References
    ----------
    Papamakarios et al., "Masked autoregressive flow for density estimation", 2017, for the
    preparation of the sets.
    """
    path, rng = Path(path), np.random.default_rng(seed)
    if name is None:
        return _split(rng.permutation(_read(path)))
    if name not in SETS:
        raise ValueError(f"name must be one of {SETS}; got {name!r}")
    return _PREPARED[name](path, rng)


def _power(path: Path, rng: np.random.Generator) -> Table:
    """Six columns: two that follow from others are left out, rounding is filled by noise."""
    rows = rng.permutation(_read(path))
    if rows.shape[1] != 8:
        raise ValueError(f"{path}: power has 8 columns; got {rows.shape[1]}")
    rows = np.delete(rows, [1, 3], axis=1)
    width = np.array([0.001, 0.01, 1.0, 1.0, 1.0, 0.0])
    return _split(rows + width * rng.random(rows.shape))


def _gas(path: Path, rng: np.random.Generator) -> Table:
    """Of columns that are alike, correlation above 0.98, one stays."""
    rows = rng.permutation(_read(path))
    alike = np.abs(np.corrcoef(rows.T)) > 0.98
    kept: list[int] = []
    for k in range(rows.shape[1]):
        if not alike[k, kept].any():
            kept.append(k)
    return _split(rows[:, kept])


def _hepmass(path: Path, rng: np.random.Generator) -> Table:
    """The rows of the signal, without columns in which one value returns too often."""
    parts = []
    for part in ("train", "test"):
        rows = np.loadtxt(path / f"1000_{part}.csv", delimiter=",", skiprows=1)
        parts.append(rows[rows[:, 0] == 1][:, 1:])
    train, test = parts
    test = test[:, : train.shape[1]]  # the published test file has a column too many
    often = [np.unique(c, return_counts=True)[1].max() > 5 for c in train.T]
    keep = ~np.array(often)
    train = rng.permutation(train[:, keep])
    held = len(train) // 10
    return _standardised(train[held:], train[:held], test[:, keep])


def _miniboone(path: Path, rng: np.random.Generator) -> Table:
    return _split(rng.permutation(_read(path)))


def _bsds300(path: Path, rng: np.random.Generator) -> Table:
    """As it comes: already centred patches, in three parts."""
    try:
        import h5py
    except ImportError as error:
        raise ValueError("bsds300 is an HDF5 file: pip install h5py") from error
    with h5py.File(path) as file:
        parts = (np.array(file[k], np.float32) for k in ("train", "validation", "test"))
        return Table(*map(torch.from_numpy, parts))


_PREPARED = {
    "power": _power,
    "gas": _gas,
    "hepmass": _hepmass,
    "miniboone": _miniboone,
    "bsds300": _bsds300,
}
SETS = tuple(_PREPARED)


def _read(path: Path) -> np.ndarray:
    if path.suffix == ".npz":
        with np.load(path) as file:
            if "data" not in file.files:
                raise ValueError(f"{path} has no array 'data'")
            rows = file["data"]
    elif path.suffix == ".npy":
        rows = np.load(path)
    else:
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
    if rows.ndim != 2 or len(rows) < 20:
        raise ValueError(f"{path} must be a table of 20 rows at least; its shape is {rows.shape}")
    if rows.dtype.kind not in "fiu":
        raise ValueError(f"{path} must be a table of real numbers; its type is {rows.dtype}")
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(f"{path} holds NaN or infinite numbers")
    return rows


def _split(rows: np.ndarray) -> Table:
    test = len(rows) // 10
    rest, last = rows[:-test], rows[-test:]
    held = len(rest) // 10
    return _standardised(rest[:-held], rest[-held:], last)


def _standardised(*parts: np.ndarray) -> Table:
    known = np.concatenate(parts[:2])
    mean, deviation = known.mean(0), known.std(0)
    varies = deviation > 1e-9 * (1 + np.abs(mean))
    return Table(
        *(
            torch.from_numpy(((p - mean)[:, varies] / deviation[varies]).astype(np.float32))
            for p in parts
        )
    )
