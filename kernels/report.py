"""What the assembler makes of the kernels for an H100 or H200; needs no GPU.

    python -m unot_fast.kernels.report [quick]

The launchers run on empty problems with a driver that compiles for sm_90 and launches nothing, so
the variants are those that a GPU would get, down to the alignment of their arguments.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from unot_fast.kernels import sinkhorn_separable as solver
from unot_fast.kernels.c_transform import c_transform
from unot_fast.kernels.channel_mlp import channel_mlp, channel_mlp_vjp
from unot_fast.kernels.potential import potential_gradient
from unot_fast.kernels.separable_lse import separable_lse
from unot_fast.kernels.spectral_analysis import spectral_analysis
from unot_fast.kernels.spectral_mixing import spectral_mixing, spectral_mixing_vjp
from unot_fast.kernels.spectral_synthesis import spectral_synthesis, spectral_synthesis_vjp

_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
_SETTINGS = ("num_warps", "num_stages", "maxnreg", "PRECISION")


class Resources(NamedTuple):
    """Of one compiled kernel; memory in bytes."""

    kernel: str
    dtype: str
    variant: str
    warps: int
    registers: int
    stack: int
    spill_loads: int
    spill_stores: int
    shared_memory: int
    instructions: int
    tensor_core: int
    read_only_loads: int


class _CompileOnly:
    """A stand-in for Triton's driver of a CUDA device."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def report(quick: bool = False) -> list[Resources]:
    """Compile every variant that a launch can ask for, or with ``quick`` the most used ones."""
    triton.runtime.driver.set_active(_CompileOnly())
    found: dict[int, Resources] = {}
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        if id(kernel) not in found:
            dtype = str(next(a.dtype for a in args if isinstance(a, torch.Tensor)))[6:]
            dtype = {"bf16": "bfloat16", "tf32": "tf32"}.get(options.get("PRECISION"), dtype)
            found[id(kernel)] = _resources(self.__name__, dtype, options, kernel)
        return kernel

    JITFunction.run = compile_only
    try:
        _launch_all(quick)
    finally:
        JITFunction.run = run
    return list(found.values())


def _launch_all(quick: bool) -> None:
    _launch_solvers(quick)
    for precision in ("highest", "high", "medium"):
        torch.set_float32_matmul_precision(precision)
        _launch_layer(64, 32, (64, 64), (10, 6))
    torch.set_float32_matmul_precision("highest")
    _launch_potential(64, (128, 128), 1, 64)
    if not quick:
        _launch_potential(2, (64, 64), 1, 2)
        _launch_potential(64, (128, 128, 128), 10, 0)
        _launch_potential(256, (256, 256), 1, 256)
        _launch_layer(64, 32, (28, 28), (10, 10))
        _launch_layer(64, 32, (64, 64), (40, 40))
        _launch_layer(64, 32, (64, 128), (32,))
        _launch_layer(128, 64, (64, 64), (16, 9))


def _launch_solvers(quick: bool) -> None:
    shapes = [(28, 28), (64, 64), (129, 129)]
    if not quick:
        shapes += [(12, 12), (128, 128), (64,), (20, 20, 20), (64, 64, 64)]
    for dtype in (torch.float32,) if quick else (torch.float32, torch.float64):
        for shape in shapes:
            x = torch.ones(2, *shape, dtype=dtype)
            costs = [torch.ones(n, n, dtype=dtype) for n in shape]
            epsilon = torch.ones(2, dtype=torch.float64)
            separable_lse(x, costs, epsilon)
            for criterion in ("marginal", "cost"):
                for weight in (None,) if quick or criterion == "cost" else (None, 1.5):
                    solver.sinkhorn_separable(x, x, costs, epsilon, x, 1e-3, criterion, 1, weight)


def _launch_layer(channels: int, hidden: int, points: tuple, modes: tuple) -> None:
    """All that UNOT and an FNO do with so many channels; an FNO lifts from 4 and projects to 1."""
    ones = torch.ones
    x, few, one = (ones(2, k, *points) for k in (channels, 4, 1))
    tables = [ones(m, n, 2) for m, n in zip(modes, points[-len(modes) :], strict=True)]
    inverse = [t.transpose(0, 1).contiguous() for t in tables]
    c = spectral_analysis(x, tables)
    for weight, gelu in (
        (ones(channels, 4 * channels, *c.shape[3:], 2), True),
        (ones(channels, channels, *c.shape[3:], 2), False),
    ):
        spectral_mixing(c, weight, ones(weight.shape[1:]) if gelu else None, gelu)
    spectral_mixing_vjp(c, c, weight, None, False, True)
    skip, bias, small = ones(channels, channels), ones(channels), ones(hidden)
    mlp = ones(hidden, channels), small, ones(channels, hidden), bias, bias
    no_mlp = (None,) * 5
    spectral_synthesis(c, inverse, None, None, None, *no_mlp, False)
    for pointwise in (no_mlp, mlp):
        spectral_synthesis(c, inverse, x, skip, bias, *pointwise, True)
        spectral_synthesis_vjp(x, c, inverse, x, skip, bias, *pointwise, True, True)
    between = ones(2 * channels)
    for start, end in ((few, x), (x, one)):
        widths = start.shape[1], end.shape[1]
        layers = (
            ones(2 * channels, widths[0]),
            between,
            ones(widths[1], 2 * channels),
            ones(widths[1]),
        )
        channel_mlp(start, *layers, None, None, False)
        channel_mlp_vjp(end, start, *layers, None, None, False, True)


def _launch_potential(dim: int, widths: tuple, classes: int, quadratic: int) -> None:
    """A batch for either size of tiles, with a preconditioner and without."""
    ones, total = torch.ones, sum(widths)
    weights = (
        ones(2 * total + quadratic, dim), [ones(n, m) for m, n in itertools.pairwise(widths)],
        ones(classes, total), ones(widths[-1]), ones(classes, dim),
    )  # fmt: skip
    for batch in (2, 100):
        x, tolerance = ones(batch, dim), ones(batch)
        labels = None if classes == 1 else ones(batch, dtype=torch.int64)
        potential_gradient(x, labels, *weights, 0.01, 10.0)
        for preconditioner in (None, ones(dim, dim)):
            c_transform(x, labels, x, tolerance, *weights, preconditioner, 0.01, 10.0, 6, 200)


def _resources(name: str, dtype: str, options: dict, kernel) -> Resources:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run(
                [_TOOLS / tool, option, file.name], capture_output=True, text=True, check=True
            ).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )

    def used(what: str) -> int:
        return int(re.search(rf"{what}:(\d+)", usage)[1])

    def count(opcode: str) -> int:
        return len(re.findall(rf"\b{opcode}\b", code))

    variant = " ".join(
        f"{k}={int(options[k])}" for k in options if k.isupper() and k not in _SETTINGS
    )
    return Resources(
        kernel=name.lstrip("_"),
        dtype=dtype,
        variant=variant,
        warps=options["num_warps"],
        registers=used("REG"),
        stack=used("STACK") + used("LOCAL"),
        spill_loads=count("LDL"),
        spill_stores=count("STL"),
        shared_memory=kernel.metadata.shared,
        instructions=len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/", code, re.MULTILINE)),
        tensor_core=count("HGMMA") + count("HMMA") + count("DMMA"),
        read_only_loads=kernel.asm["ptx"].count("ld.global.nc"),
    )


def table(rows: list[Resources]) -> str:
    """The resources as a table in Markdown."""
    head = [field.replace("_", " ") for field in Resources._fields]
    lines = [head, ["---"] * len(head), *([str(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table(report("quick" in sys.argv[1:])))
