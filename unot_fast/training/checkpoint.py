"""State of a training in a file that is whole at every moment."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def save(state: dict, path: Path) -> None:
    """Write beside the file, then put it in its place: a kill leaves the old or the new one."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def load(path: Path) -> dict:
    """The state on the CPU.

    Raises
    ------
    ValueError
        The file is no checkpoint of a training.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken file makes of torch's reader
        raise ValueError(f"{path} is no checkpoint: {error}") from error
    if not isinstance(state, dict) or "training" not in state:
        raise ValueError(f"{path} is no checkpoint of a training")
    return state
