"""Neural operators as their libraries have them and accelerated, and what a step of one takes.

``python -m bench.models NAME METHOD`` prints the peak memory of a step in a fresh process.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

import unot_fast

T = TypeVar("T")
METHODS = ("unot_fast", "neuralop eager", "neuralop compiled")
HARMONICS = ("unot_fast", "torch-harmonics eager")
FNO = {"in_channels": 2, "out_channels": 1, "hidden_channels": 64, "n_layers": 4}


def fno(n: int, batch: int) -> tuple[nn.Module, Tensor]:
    from neuralop.models import FNO as Model

    return Model(n_modes=(10, 10), **FNO), torch.randn(batch, 2, n, n)


def sfno(n: int, batch: int) -> tuple[nn.Module, Tensor]:
    from neuralop.models import SFNO as Model

    return Model(n_modes=(10, 10), **FNO), torch.randn(batch, 2, n, 2 * n)


def harmonics(n: int, batch: int, activation: str = "gelu") -> tuple[nn.Module, Tensor]:
    """The spherical operator of torch-harmonics' examples, on all harmonics."""
    from torch_harmonics.examples import models

    kind = getattr(models, "SphericalFourierNeuralOperatorNet", None)  # its name before 0.8
    model = (kind or models.SphericalFourierNeuralOperator)(
        img_size=(n, 2 * n), scale_factor=1, in_chans=2, out_chans=1, embed_dim=64, num_layers=4,
        activation_function=activation,
    )  # fmt: skip
    return model, torch.randn(batch, 2, n, 2 * n)


MODELS = {
    "FNO": fno,
    "SFNO": sfno,
    "SFNO of torch-harmonics": harmonics,
    "SFNO of torch-harmonics, ReLU": functools.partial(harmonics, activation="relu"),
}


def prepare(
    name: str, method: str, n: int, batch: int, device: str = "cpu", **options
) -> tuple[nn.Module, Tensor]:
    """The model of a method, the same parameters for all of them, and an input.

    Options are those of `unot_fast.accelerate`.
    """
    torch.manual_seed(0)
    model, x = (part.to(device) for part in MODELS[name](n, batch))
    if method == "unot_fast":
        unot_fast.accelerate(model, verbose=False, **options)
    elif method == "neuralop compiled":
        model = torch.compile(model)
    return model, x


def forward(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    def run():
        with torch.no_grad():
            return model(x)

    return run


def step(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Forward and backward; all gradients as one vector."""

    def run():
        model.zero_grad(set_to_none=True)
        model(x).square().mean().backward()
        return torch.cat([torch.view_as_real(g).flatten() if g.is_complex() else g.flatten()
                          for g in (p.grad for p in model.parameters())])  # fmt: skip

    return run


@contextlib.contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Products of float32 as ``torch.set_float32_matmul_precision`` has it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def rounded(call: Callable[[], T], autocast: bool = False) -> Callable[[], T]:
    """The same where products of float32 may be in bfloat16, or under autocast to it, too."""

    def run():
        with (
            float32_products("medium"),
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        ):
            return call()

    return run


def peak_memory(name: str, method: str, n: int, batch: int) -> float:
    """Bytes that the process grows by, at most, in its first steps."""
    command = [sys.executable, "-m", "bench.models", name, method, str(n), str(batch)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    return float(done.stdout.split()[-1])


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(key))
    return 1024 * int(line.split()[1])


def _main(name: str, method: str, n: str, batch: str) -> None:
    model, x = prepare(name, method, int(n), int(batch))
    small, few = prepare(name, method, 16, 1)
    step(small, few)()  # what libraries load at their first call is not counted
    before = _status("VmRSS")
    for _ in range(2):
        step(model, x)()
    print(_status("VmHWM") - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
