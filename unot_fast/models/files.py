"""Tensors in files that say what they hold."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor


def save_state(path: str | Path, kind: str, state: dict[str, Tensor], **metadata: str) -> None:
    """Write tensors as safetensors, with what they are and text by name."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    save_file(tensors, path, {"kind": kind, **metadata})


def load_state(
    path: str | Path, kind: str, *, tensors: bool = True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, unless they are not wanted, and metadata of a file that `save_state` wrote.

    Raises
    ------
    ValueError
        The file is something else, or holds something of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            wanted = file.keys() if tensors and metadata.get("kind") == kind else ()
            state = {k: file.get_tensor(k) for k in wanted}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    if metadata.get("kind") != kind:
        raise ValueError(f"{path} holds no weights of {kind}")
    return state, metadata
