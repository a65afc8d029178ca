"""``unot-fast neural-ot``: transport maps learned from samples, and how good they are."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch

from unot_fast.cli.map_figure import draw_maps
from unot_fast.cli.options import Duration, library_errors
from unot_fast.cli.translation_figure import draw_translations
from unot_fast.evaluation import load_images, load_labels
from unot_fast.experiments import (
    SETS,
    TOYS,
    Labelled,
    Outcome,
    Quality,
    W2Benchmark,
    fit_classifier,
    fit_pair,
    fit_table,
    fit_translator,
    gaussian_pair,
    judge_translator,
    load_table,
    table,
)
from unot_fast.neural_ot import NeuralOT, energy_distance

_budget = click.option(
    "--budget",
    type=Duration(positive=True),
    default="60s",
    show_default=True,
    help="Of a fit, e.g. 90s or 20m.",
)
_seeds = click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True)
_output = click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write the table."
)
_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def command() -> None:
    """Transport maps learned from samples."""


@command.command()
@click.argument("source", type=_file)
@click.argument("target", type=_file)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--moved", type=click.Path(dir_okay=False, path_type=Path),
              help="Also write the moved points of the source, .npy.")  # fmt: skip
@click.option("--smooth", type=click.FloatRange(min=0),
              help="Bandwidth of noise on rows, 0 for none; default: what few need.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
@_budget
@library_errors()
def fit(
    source: Path, target: Path, output: Path, moved: Path | None, smooth: float | None, seed: int,
    budget: float,
) -> None:  # fmt: skip
    """Learn the map from the rows of SOURCE to those of TARGET.

    Both are .npy or .csv tables of numbers with as many columns. OUTPUT is a safetensors file that
    unot_fast.NeuralOT.load reads. A fit that is interrupted goes on from OUTPUT.part, which is
    deleted at the end.
    """
    _make_folders(output, moved)
    x, z = _rows(source), _rows(target)
    if x.shape[1] != z.shape[1]:
        raise click.UsageError(f"columns differ: {x.shape[1]} and {z.shape[1]}")
    part = output.with_name(output.name + ".part")
    ot = NeuralOT(x.shape[1], smooth=smooth, seed=seed)
    ot.fit(x, z, budget=budget, checkpoint=part, progress=True)
    ot.save(output)
    part.unlink(missing_ok=True)
    if moved is not None:
        np.save(moved, ot.transport(x).numpy())
    click.echo(f"W2 by the dual {ot.w2(x, z):.6g}, {ot.history[-1].step} steps: {output}")


@command.command()
@click.option(
    "--dim",
    "dims",
    type=click.IntRange(min=1),
    multiple=True,
    default=(2, 4, 8, 16),
    show_default=True,
)
@click.option("--covariances", type=_file, help=".npz with dD_Sigma0 and dD_Sigma1.")
@click.option(
    "--quadratic/--no-quadratic",
    default=False,
    show_default=True,
    help="Give the potential a full quadratic term, which contains the answer.",
)
@click.option("--convex-g", is_flag=True, help="The published constraint; shows what it can reach.")
@_seeds
@_budget
@_output
@library_errors()
def gaussians(
    dims: tuple[int, ...], covariances: Path | None, quadratic: bool, convex_g: bool, seeds: int,
    budget: float, output: Path | None,
) -> None:  # fmt: skip
    """Fit pairs of Gaussians, whose optimal map is known."""
    _make_folders(output)
    outcomes = []
    for dim in dims:
        for seed in range(seeds):
            pair = gaussian_pair(dim, seed, covariances)
            rank = None if quadratic else 0
            outcomes.append(fit_pair(pair, budget, seed=seed, quadratic=rank, convex_g=convex_g))
            _tell(outcomes[-1])
        if convex_g:
            _, ahead, back = gaussian_pair(dim, 0, covariances).best_of_expansions()
            click.echo(f"d={dim}: no convex g is better than {ahead:.3f} / {back:.3f} % (seed 0)")
    _write(outcomes, output)


@command.command("w2-benchmark")
@click.argument("files", type=_file, nargs=-1, required=True)
@_seeds
@_budget
@_output
@library_errors()
def w2_benchmark(files: tuple[Path, ...], seeds: int, budget: float, output: Path | None) -> None:
    """Fit pairs of the Wasserstein-2 benchmark.

    FILES are .npz arrays or checkpoints of the published benchmark: D_v1.pt, beside its D_v2.pt.
    """
    _make_folders(output)
    try:
        pairs = [W2Benchmark(file) for file in files]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    outcomes = []
    for pair in pairs:
        for seed in range(seeds):
            outcomes.append(fit_pair(pair, budget, seed=seed))
            _tell(outcomes[-1])
    _write(outcomes, output)


@command.command("table")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--set", "name", type=click.Choice(SETS), help="Prepare it as this physical set.")
@click.option("--seed", type=int, default=0, show_default=True)
@_budget
@library_errors()
def table_(path: Path, name: str | None, seed: int, budget: float) -> None:
    """Learn the map from a standard normal to the rows of a table.

    PATH is an .npy, .npz or .csv table, or the file or folder of a physical set. Tells how far
    moved normals are from rows that were held out: beside other rows (no map is nearer) and a
    Gaussian of their covariance.
    """
    try:
        rows = load_table(path, name)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    sizes = [len(part) for part in (rows.train, rows.validation, rows.test)]
    click.echo(f"{path.name}: {rows.dim} columns, {' + '.join(map(str, sizes))} rows")
    found = fit_table(rows, budget, seed=seed, progress=True)
    click.echo("\n| | MMD | energy distance | sliced W2 |\n|---|---|---|---|")
    for label, prefix in (("moved normals", ""), ("a Gaussian", "gaussian_"), ("rows", "floor_")):
        cells = (f"{found[prefix + key]:.5f}" for key in ("mmd", "energy", "sliced_w2"))
        click.echo(f"| {label} | {' | '.join(cells)} |")
    click.echo(
        f"\nthere and back: {found['cycle']:.1e} of the variance; "
        f"{found['converged']:.2%} of the searches converged"
    )


@command.command()
@click.option("--toy", "names", type=click.Choice(list(TOYS)), multiple=True, help="Default: all.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--seed", type=int, default=0, show_default=True)
@_budget
@library_errors()
def toys(names: tuple[str, ...], output: Path, seed: int, budget: float) -> None:
    """Draw the forward and the backward map between measures in the plane."""
    _make_folders(output / "any")
    for name in names or TOYS:
        source, target = TOYS[name]
        ot = NeuralOT(2, seed=seed)
        ot.fit(source, target, budget=budget, progress=True)
        x = source(4000, torch.Generator().manual_seed(1))
        z = target(4000, torch.Generator().manual_seed(2))
        moved, back = ot.transport(x), ot.inverse(z, tol=1e-3)
        draw_maps(output / f"{name}.png", x, z, moved, back)
        click.echo(
            f"{name}: energy distance forward {float(energy_distance(moved, z)):.5f}, backward "
            f"{float(energy_distance(back, x)):.5f}, before {float(energy_distance(x, z)):.5f}"
        )


@command.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--network-budget", type=Duration(positive=True), default="2m", show_default=True,
              help="Of each autoencoder and of the classifier.")  # fmt: skip
@click.option("--latent", type=click.IntRange(min=1), default=15, show_default=True,
              help="Numbers that stand for an image.")  # fmt: skip
@click.option("--mmd", type=click.FloatRange(min=0), default=0.0, show_default=True,
              help="Weight of the discrepancy in the loss of the transport.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
@_budget
@library_errors()
def images(
    source: Path, target: Path, output: Path, network_budget: float, latent: int, mmd: float,
    seed: int, budget: float,
) -> None:  # fmt: skip
    """Translate images class by class: those of class k of SOURCE to class k of TARGET.

    Both are .npz files with images and labels, folders with MNIST's idx files, or folders with a
    folder of pictures for each class. Autoencoders are trained first, and the transport between
    their latent spaces. Tells what a classifier of the target says of the translations of images
    that were held out, draws some, and writes the networks into OUTPUT.
    """
    _make_folders(output / "any")
    try:
        first, second = (
            Labelled.split(load_images(path), load_labels(path), seed=seed)
            for path in (source, target)
        )
        click.echo(f"classifier of the target, {network_budget:.0f} s")
        classifier = fit_classifier(*second.train, budget=network_budget, seed=seed)
        translator = fit_translator(
            first, second, budget, network_budget=network_budget, latent=latent, mmd=mmd,
            seed=seed, report=click.echo, progress=True,
        )  # fmt: skip
    except (ValueError, FileNotFoundError) as error:
        raise click.UsageError(str(error)) from error
    translator.save(output)
    text = _qualities(judge_translator(translator, first, second, classifier))
    (output / "table.md").write_text(text + "\n")
    click.echo("\n" + text)
    ahead, back = (_examples(*side.test) for side in (first, second))
    draw_translations(
        output / "translations.png",
        (ahead[0], translator.transport(*ahead)),
        (back[0], translator.inverse(*back)),
        int(second.train[1].max()) + 1,
    )


def _qualities(found: dict[str, Quality]) -> str:
    names = {
        "transport": "transported",
        "gaussian": "moved as Gaussians, class by class",
        "nothing": "not moved",
        "reconstructed": "held-out target images, encoded and decoded",
        "real": "target images trained on",
    }
    lines = ["| | accuracy | Fréchet distance | energy distance |", "|---|---|---|---|"]
    for key, quality in found.items():
        energy = "" if np.isnan(quality.energy) else f"{quality.energy:.4f}"
        lines.append(
            f"| {names[key]} | {quality.accuracy:.1%} | {quality.frechet:.2f} | {energy} |"
        )
    return "\n".join(lines)


def _examples(images: torch.Tensor, labels: torch.Tensor, rows: int = 5):
    """Some of every class, class by class in columns."""
    chosen = [torch.nonzero(labels == k)[:rows, 0] for k in range(int(labels.max()) + 1)]
    rows = min(map(len, chosen))
    order = torch.stack([own[:rows] for own in chosen], 1).flatten()
    return images[order], labels[order]


def _make_folders(*outputs: Path | None) -> None:
    """Those that results go to, before anything is trained for them."""
    for path in outputs:
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"{path.parent} is no folder to write to: {error}") from error


def _rows(path: Path) -> torch.Tensor:
    try:
        rows = np.load(path) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error
    if rows.ndim != 2:
        raise click.UsageError(f"{path} is no table: its shape is {rows.shape}")
    if rows.dtype.kind not in "fiu":
        raise click.UsageError(f"{path} is no table of real numbers: its type is {rows.dtype}")
    return torch.from_numpy(np.ascontiguousarray(rows, np.float32))


def _tell(outcome: Outcome) -> None:
    click.echo(
        f"d={outcome.dim}: UVP {outcome.forward:.4f} / {outcome.backward:.4f} %, "
        f"{outcome.steps} steps in {outcome.seconds:.0f} s, {outcome.converged:.2%} of the inverse "
        f"converged in {outcome.iterations:.1f} gradients"
    )


def _write(outcomes: list[Outcome], output: Path | None) -> None:
    text = table(outcomes)
    click.echo("\n" + text)
    if output is not None:
        output.write_text(text + "\n")
