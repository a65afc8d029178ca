"""Shared fixtures: reproducible measures, and real images where they are at hand."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

DATA = Path(os.environ.get("UNOT_FAST_DATA", Path(__file__).parents[2] / "shared" / "data"))


# torch keeps compiled graphs without the schemas of the operators in them: those of an older
# version of the package would be run.
_COMPILED = tempfile.TemporaryDirectory()
os.environ["TORCHINDUCTOR_CACHE_DIR"] = _COMPILED.name


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def images():
    """``images(name, size)``: real pictures, bilinear as in the paper; skips where they are not."""

    def load(name: str, size: int) -> torch.Tensor:
        path = DATA / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"no test images: {path} is missing (set UNOT_FAST_DATA)")
        stack = torch.from_numpy(np.load(path)["images"]).double()
        if stack.shape[-1] != size:
            stack = torch.nn.functional.interpolate(
                stack[:, None], size=(size, size), mode="bilinear", align_corners=False
            )[:, 0]
        return stack

    return load


def normalised(x: torch.Tensor, axes: int = 2, dust: float = 0.0) -> torch.Tensor:
    """Scale each problem to total 1, add dust, scale again."""
    dims = tuple(range(-axes, 0))
    x = x / x.sum(dims, keepdim=True) + dust
    return x / x.sum(dims, keepdim=True)


def adversarial(n: tuple[int, ...], m: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs that break Sinkhorn codes, stacked: Diracs, dust, empty pixels, identical, peaked."""

    def dirac(shape: tuple[int, ...], corner: int) -> torch.Tensor:
        x = torch.zeros(shape, dtype=torch.float64)
        x[(corner,) * len(shape)] = 1
        return x

    def sparse(shape: tuple[int, ...], corner: int) -> torch.Tensor:
        x = torch.rand(shape, dtype=torch.float64)
        return torch.where(x > 0.7, x, 0.0) + 1e-3 * dirac(shape, corner)

    pairs = [(torch.rand(n, dtype=torch.float64), torch.rand(m, dtype=torch.float64))]
    for dust in (0.0, 1e-12, 1e-6, 1e-3):
        pairs.append((dirac(n, 0) + dust, dirac(m, -1) + dust))
    pairs.append((sparse(n, 0), sparse(m, -1)))
    pairs.append((torch.rand(n).double() ** 20, torch.rand(m).double() ** 20))
    if n == m:
        same = sparse(n, 0)
        pairs.append((same, same))
    a, b = (torch.stack(side) for side in zip(*pairs, strict=True))
    return normalised(a, len(n)), normalised(b, len(m))


def as_float32(a, b):
    """Masses in single precision, and the same in double, of total 1 as a solve makes them.

    Masses that are subnormal in single precision are zero.
    """
    smallest = torch.finfo(torch.float32).tiny
    single = [torch.where(x < smallest, 0.0, x).float() for x in (a, b)]
    return single, [normalised(x.double(), x.ndim - 1) for x in single]


def pytest_collection_modifyitems(items):
    """What takes long goes first, so that no process is left with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
