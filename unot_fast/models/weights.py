"""Weights of transport networks in files, and those that come with the package."""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unot_fast.models.config import UNOTConfig
from unot_fast.models.files import load_state, save_state

if TYPE_CHECKING:
    from unot_fast.models.unot import UNOT

_KIND = "unot_fast.UNOT"


def pretrained() -> list[str]:
    """Names of the weights that come with the package."""
    folder = resources.files("unot_fast.models") / "pretrained"
    if not folder.is_dir():
        return []
    return sorted(f.name[: -len(".safetensors")] for f in folder.iterdir() if _is_weights(f.name))


def save(
    model: UNOT,
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    card: Mapping[str, object] | None = None,
) -> None:
    """Write a network's configuration and weights as safetensors.

    Parameters
    ----------
    model : UNOT
    path : str or Path
    dtype : torch.dtype
        Of the numbers in the file. ``torch.float16`` halves it, at three decimals.
    card : mapping, optional
        What there is to know about the weights, as text or numbers by name; `card` reads it.

    Raises
    ------
    ValueError
        A weight is beyond the range of ``dtype``.
    """
    state = model.state_dict()
    for name, weight in state.items():
        largest = float(weight.abs().max())
        if torch.finfo(dtype).max < largest < math.inf:
            raise ValueError(
                f"dtype must hold {largest:g}, which is in {name}; {dtype} ends at "
                f"{torch.finfo(dtype).max:g}"
            )
    state = {k: v.to(dtype) for k, v in state.items()}
    config = json.dumps(dataclasses.asdict(model.config))
    save_state(path, _KIND, state, config=config, card=json.dumps(dict(card or {})))


def load(name_or_path: str | Path) -> UNOT:
    """A network from its file, or by the name of weights that come with the package.

    Raises
    ------
    ValueError
        There is no such name or file, or the file holds something else, such as the parameters of
        a `PublishedUNOT`.
    """
    from unot_fast.models.unot import UNOT

    state, metadata = _read(name_or_path)
    model = UNOT(UNOTConfig(**json.loads(metadata["config"])))
    try:
        model.load_state_dict({k: v.float() for k, v in state.items()})
    except RuntimeError as error:
        raise ValueError(f"{name_or_path}: the weights do not fit: {error}") from error
    return model.requires_grad_(False).eval()


def card(name_or_path: str | Path) -> dict[str, object]:
    """What the file says about its weights."""
    return json.loads(_read(name_or_path, tensors=False)[1]["card"])


def _read(
    name_or_path: str | Path, tensors: bool = True
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with resources.as_file(_find(name_or_path)) as path:
        try:
            return load_state(path, _KIND, tensors=tensors)
        except ValueError as error:
            if zipfile.is_zipfile(path):
                raise ValueError(
                    f"{path} is a file of torch.save: PublishedUNOT.load reads a published "
                    "checkpoint, Trainer.load that of a training"
                ) from error
            raise


def _find(name_or_path: str | Path) -> Path:
    if str(name_or_path) in pretrained():
        return resources.files("unot_fast.models") / "pretrained" / f"{name_or_path}.safetensors"
    if not Path(name_or_path).is_file():
        names = ", ".join(map(repr, pretrained()))
        raise ValueError(f"name_or_path must be a file or one of {names}; got {name_or_path!r}")
    return Path(name_or_path)


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")
