"""What share of the processor's best matrix product the CPU kernels reach.

``python -m bench.roofline`` prints the table of csrc/cpu/README.md: useful arithmetic of a call,
without padding, over its time, next to a product of 1536 x 1536 matrices by torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from bench.machine import cpu_model
from bench.models import rounded
from unot_fast import Grid
from unot_fast.ops import (
    channel_mlp,
    legendre_products,
    sinkhorn_separable,
    sinkhorn_stationary,
    spectral_analysis,
    spectral_mixing,
    spectral_synthesis,
)
from unot_fast.ops.backends import cpu_rounding
from unot_fast.spectral.fourier import Band, analysis_table, synthesis_table

SECONDS = 1.0


def best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of many calls."""
    call()
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def iteration(geom: Grid, batch: int, dtype: torch.dtype, few: int, many: int) -> float:
    """Seconds of a plain iteration, per pair: the difference of longer and shorter solves."""
    mass = 1 + 0.3 * torch.rand(batch, *geom.shape, dtype=torch.float64)
    a = (mass / mass.sum((1, 2), keepdim=True)).to(dtype)
    b, epsilon = a.flip(0).contiguous(), torch.full((batch,), 0.05, dtype=torch.float64)
    structure, costs = geom.kernel_costs
    costs = (costs,) if structure == "separable" else costs
    solve = sinkhorn_separable if structure == "separable" else sinkhorn_stationary

    def run(count: int):
        return solve(
            a, b, *costs, epsilon, torch.zeros_like(b), tol=0.0, criterion="marginal",
            max_iter=count, overrelaxation=1.0, backend="cpu",
        )  # fmt: skip

    return (best(lambda: run(many)) - best(lambda: run(few))) / (many - few) / batch


def layers() -> dict[str, tuple[float, Callable[[], object]]]:
    """Operations and call of each operator of Fourier layers: 16 samples, 64 channels, 64 x 64."""
    batch, channels, n, rows, columns, hidden = 16, 64, 64, 10, 6, 32
    x = torch.randn(batch, channels, n, n)
    bands = Band.of(rows, half=False), Band.of(columns, half=True)
    forward = [analysis_table(n, band, 1.0, x) for band in bands]
    back = [synthesis_table(n, band, 1.0, x) for band in bands]
    c = spectral_analysis(x, forward, backend="cpu")
    weight = torch.randn(channels, channels, rows, columns, 2)
    modes, first = torch.randn(64, channels, 2, 10, 10), torch.randn(channels, 256, 10, 10, 2)
    skip, bias = torch.randn(channels, channels), torch.randn(channels)
    mlp = torch.randn(hidden, channels), None, torch.randn(channels, hidden), None
    lines, legendre = torch.randn(4, 64, 64, 2, 64), torch.randn(64, 64, 64)
    transform = batch * channels * (4 * n * n * columns + 8 * n * columns * rows)
    pointwise = 2 * batch * n * n * channels
    return {
        "spectral_analysis": (transform, lambda: spectral_analysis(x, forward, backend="cpu")),
        "spectral_mixing, 64 to 64, 60 modes": (
            8 * batch * channels**2 * rows * columns,
            lambda: spectral_mixing(c, weight, backend="cpu"),
        ),
        "spectral_mixing, 64 to 256, GELU, 100 modes, 64 samples": (
            8 * 64 * channels * 256 * 100,
            lambda: spectral_mixing(modes, first, gelu=True, backend="cpu"),
        ),
        "spectral_synthesis, bypass, GELU": (
            transform + pointwise * channels,
            lambda: spectral_synthesis(c, back, x, skip, bias, gelu=True, backend="cpu"),
        ),
        "the same with an MLP 64-32-64": (
            transform + pointwise * (channels + 2 * hidden),
            lambda: spectral_synthesis(c, back, x, skip, bias, *mlp, gelu=True, backend="cpu"),
        ),
        "channel_mlp, 64-32-64": (
            pointwise * 2 * hidden,
            lambda: channel_mlp(x, *mlp, backend="cpu"),
        ),
        "legendre_products, 64 degrees and orders": (
            2 * 4 * 64 * 2 * 64 * 64 * 64 / 2,  # of the degrees that are not below the order
            lambda: legendre_products(lines, legendre, to_lines=False, backend="cpu"),
        ),
    }


def main() -> None:
    torch.manual_seed(0)
    peak = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        matrix = torch.randn(1536, 1536).to(dtype)
        peak[dtype] = 2 * 1536**3 / best(lambda m=matrix: m @ m)
        print(f"{dtype}: {peak[dtype] / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads of")
    print(f"{cpu_model()}\n")

    def row(name: str, dtype: torch.dtype, operations: float, seconds: float) -> None:
        share, us = operations / seconds / peak[dtype], 1e6 * seconds
        print(
            f"| {name} | {str(dtype)[6:]} | {operations / 1e6:,.{1 if operations < 1e8 else 0}f} "
            f"| {us:,.{1 if us < 100 else 0}f} us | {100 * share:.0f} % |"
        )

    print("| | | million operations | time | share of the product |")
    print("|---|---|---|---|---|")
    for n, batch in ((28, 64), (64, 32), (128, 8)):
        for dtype, counts in ((torch.float32, (1, 3)), (torch.float64, (2, 12))):
            seconds = iteration(Grid((n, n)), batch, dtype, *counts)
            row(f"iteration, separable, {n} x {n}", dtype, 8 * n**3, seconds)
    for dtype in (torch.float32, torch.float64):
        seconds = iteration(Grid((64, 64), "euclidean"), 8, dtype, 1, 3)
        row("iteration, \\|x - y\\|, 64 x 64", dtype, 4 * 64**4, seconds)
    rounds = rounded(cpu_rounding)() != "exact"
    for name, (operations, call) in layers().items():
        row(name, torch.float32, operations, best(call))
        if rounds and not name.startswith("legendre"):
            row(name, torch.bfloat16, operations, best(rounded(call)))


if __name__ == "__main__":
    main()
