"""Results of an all-pairs run on disk, safe against a kill at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

_RUN, _DISTANCES, _ERRORS, _SELF = (
    "run.json",
    "distances.npy",
    "marginal_error.npy",
    "self_value.npy",
)


class Checkpoint:
    """Symmetric matrices of a run, as memory maps in which NaN is a pair still to do.

    Every entry is one aligned store into the file's pages, which outlive the process: a killed
    run leaves each entry either missing or final.

    Parameters
    ----------
    folder : Path
        Made where it does not exist; continued where it holds the same run.
    names : list of str
        One per measure.
    measures : ndarray, shape (N, H, W)
        What the results depend on, with ``parameters``.
    parameters : dict
        JSON values.

    Attributes
    ----------
    distances, marginal_error : memmap, shape (N, N), float64
    self_value : memmap, shape (N,), float64
        Value of each measure's transport onto itself, for divergences.

    Raises
    ------
    click.ClickException
        ``folder`` holds a run with other inputs or parameters.
    """

    def __init__(self, folder: Path, names: list[str], measures: np.ndarray, parameters: dict):
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(np.ascontiguousarray(measures)).hexdigest()
        run = {"parameters": parameters, "names": names, "inputs_sha256": digest}
        self._claim(folder, json.loads(json.dumps(run)))
        n = len(names)
        self.distances = _open(folder / _DISTANCES, (n, n))
        self.marginal_error = _open(folder / _ERRORS, (n, n))
        self.self_value = _open(folder / _SELF, (n,))

    @staticmethod
    def _claim(folder: Path, run: dict) -> None:
        path = folder / _RUN
        if not path.exists():
            if (folder / _DISTANCES).exists():
                raise click.ClickException(
                    f"{folder / _DISTANCES} exists, but {_RUN} that says what it is does not; "
                    "give another folder"
                )
            with replacing(path) as fresh:
                fresh.write_text(json.dumps(run, indent=2) + "\n")
            return
        old = json.loads(path.read_text())
        if old == run:
            return
        before, now = old["parameters"], run["parameters"]
        changed = [
            f"{key} was {before.get(key)}, now {now.get(key)}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        if old["names"] != run["names"]:
            changed.append(f"other inputs ({len(old['names'])} then, {len(run['names'])} now)")
        elif not changed:
            changed.append("the inputs have other contents")
        raise click.ClickException(
            f"{folder} holds another run: {'; '.join(changed)}. Give another folder, or delete it."
        )

    def missing(self) -> Iterator[tuple[int, int]]:
        """Pairs i <= j still to do: the diagonal first, then row by row."""
        n = len(self.distances)
        for i in range(n):
            if np.isnan(self.distances[i, i]):
                yield i, i
        for i in range(n):
            todo = np.isnan(self.distances[i, i + 1 :]) | np.isnan(self.distances[i + 1 :, i])
            for j in np.flatnonzero(todo):
                yield i, i + 1 + int(j)

    def store(self, i: np.ndarray, j: np.ndarray, distance: np.ndarray, error: np.ndarray) -> None:
        """Keep results of pairs; the distance goes last, as the mark that a pair is done."""
        for matrix, values in ((self.marginal_error, error), (self.distances, distance)):
            matrix[i, j] = values
            matrix[j, i] = values

    def unconverged(self, tol: float) -> int:
        """Pairs whose marginal error is above ``tol``."""
        done = ~np.isnan(self.distances)
        return int((np.triu(done) & (self.marginal_error > tol)).sum())

    def flush(self) -> None:
        for array in (self.self_value, self.marginal_error, self.distances):
            array.flush()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to that becomes ``path`` at the end, so that ``path`` is never half made."""
    fresh = path.with_name(f"{path.name}.tmp")
    yield fresh
    os.replace(fresh, path)


def _open(path: Path, shape: tuple[int, ...]) -> np.memmap:
    if not path.exists():
        with replacing(path) as fresh:
            array = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.float64, shape=shape)
            array[:] = np.nan
            array.flush()
    return np.lib.format.open_memmap(path, mode="r+")
