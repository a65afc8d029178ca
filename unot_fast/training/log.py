"""What happened in each round, in a table that grows as they end."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from unot_fast.training.trainer import Row


class Log:
    """A .csv file with a line for each round, complete up to the last one at every moment.

    Parameters
    ----------
    path : Path
        Begun anew: what it held of rounds that no checkpoint has is lost with them.
    rows : iterable of Row
        Rounds before this one.
    """

    def __init__(self, path: Path, rows: Iterable[Row] = ()):
        part = path.with_name(f"{path.name}.part")
        self._file = part.open("w", newline="")
        names = [field.name for field in dataclasses.fields(Row)]
        self._writer = csv.DictWriter(self._file, names, lineterminator="\n")
        self._writer.writeheader()
        for row in rows:
            self.add(row)
        self._file.flush()
        os.replace(part, path)

    def add(self, row: Row) -> None:
        self._writer.writerow(dataclasses.asdict(row))
        self._file.flush()

    def close(self) -> None:
        self._file.close()
