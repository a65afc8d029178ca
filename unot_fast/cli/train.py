"""``unot-fast train``: train a transport network."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path

import click
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from tqdm import tqdm

from unot_fast.cli.options import Duration
from unot_fast.evaluation.tables import Table, stages_table
from unot_fast.training import PRESETS, Row, Trainer, TrainingConfig
from unot_fast.training.pairs import Pairs
from unot_fast.training.stages import Stages

_STAGE_PAIRS = 500  # of each stage, as published


@click.command()
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="sqeuclidean", show_default=True
)
@click.option("--budget", type=Duration(), help="Train for so long, e.g. 30m.")
@click.option("--rounds", type=click.IntRange(min=1), help="Train so many rounds instead.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of the training, or of its model as model.NAME; JSON values.",
)
@click.option("--device", default=None, help="Default: cuda where there is one.")
@click.option("--save-every", type=Duration(), default="60s", help="Between checkpoints.")
@click.option(
    "--stages",
    is_flag=True,
    help="Keep the weights at stages, and write the errors on what the adversary made there.",
)
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard logs.")
def command(
    preset: str,
    budget: float | None,
    rounds: int | None,
    output: Path,
    settings: tuple[str, ...],
    device: str | None,
    save_every: float,
    stages: bool,
    tensorboard: bool,
) -> None:
    """Train a transport network.

    Writes model.safetensors (the averaged weights), log.csv, losses.png, measures.png and
    checkpoint.pt to the output folder. The same command goes on where it was interrupted, at
    whatever moment that was. Under torchrun the processes share every batch; --set shards=N gives
    each its part. With --stages there are stage_00.pt to stage_70.pt too, and stages.md at the end.
    """
    if (budget is None) == (rounds is None):
        raise click.UsageError("give either --budget or --rounds")
    config = _configured(PRESETS[preset], settings)
    if stages and not config.adversary:
        raise click.UsageError("--stages needs an adversary: --set adversary=SHARE")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    first = _join(device)
    output.mkdir(parents=True, exist_ok=True)
    trainer = _trainer(config, output / "checkpoint.pt", device)
    if first:
        size = sum(p.numel() for p in trainer.model.parameters())
        click.echo(f"{preset}: {size / 1e6:.2f} million parameters on {device}")
        if trainer.history:
            click.echo(f"goes on after round {trainer.history[-1].round}")
    try:
        _run(trainer, budget, rounds, save_every, output, first, stages, tensorboard)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _run(
    trainer: Trainer,
    budget: float | None,
    rounds: int | None,
    save_every: float,
    output: Path,
    first: bool,
    stages: bool,
    tensorboard: bool,
) -> None:
    kept = Stages(output) if stages and first else None
    board = _board(output) if tensorboard and first else None
    total = rounds if rounds is not None else round(budget)
    done = len(trainer.history) if rounds is not None else _seconds(trainer)
    unit = "round" if rounds is not None else "s"
    with tqdm(
        total=total, initial=min(total, round(done)), unit=unit, disable=None if first else True
    ) as bar:

        def share(row: Row) -> float:
            return row.round / rounds if rounds is not None else row.seconds / budget

        def report(row: Row) -> None:
            if kept is not None:
                kept.keep(trainer, share)
            spent = row.round if rounds is not None else min(total, round(row.seconds))
            bar.update(spent - bar.n)
            bar.set_postfix(loss=f"{row.loss:.4f}", validation=f"{row.validation:.4f}")
            if board is not None:
                for name in ("loss", "validation", "learning_rate"):
                    board.add_scalar(name, getattr(row, name), row.samples)

        if kept is not None and not trainer.history:
            kept.keep(trainer, share)
        path = output / "checkpoint.pt"
        trainer.run(rounds=rounds, budget=budget, path=path, save_every=save_every, report=report)
    if not first:
        return
    if board is not None:
        board.close()
    last = trainer.history[-1]
    card = {
        "loss": trainer.config.loss,
        "rounds": last.round,
        "seconds": round(last.seconds, 1),
        "samples": last.samples,
        "validation": last.validation,
        "device": str(trainer.device),
    }
    trainer.average.save_pretrained(output / "model.safetensors", card=card)
    with (output / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in dataclasses.fields(Row)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in trainer.history)
    _losses(trainer.history).savefig(output / "losses.png", dpi=150)
    _measures(trainer).savefig(output / "measures.png", dpi=150)
    if kept is not None:
        table = _stages(trainer, kept)
        (output / "stages.md").write_text(table.markdown())
    click.echo(
        f"{last.samples} samples in {last.seconds:.0f} s, {last.samples / last.seconds:.0f} per "
        f"second; loss {last.loss:.4f}, validation {last.validation:.4f}; written to {output}"
    )


def _configured(config: TrainingConfig, settings: tuple[str, ...]) -> TrainingConfig:
    """With fields replaced, by ``name=value``."""
    own: dict[str, object] = {}
    model: dict[str, object] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        target, field = (model, name[6:]) if name.startswith("model.") else (own, name)
        known = {f.name for f in dataclasses.fields(config.model if target is model else config)}
        if not equals or field not in known - {"model"}:
            raise click.BadParameter(f"{setting!r}: NAME must be one of {sorted(known)}")
        try:
            target[field] = json.loads(text)
        except json.JSONDecodeError:
            target[field] = text
    try:
        return dataclasses.replace(config, model=dataclasses.replace(config.model, **model), **own)
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error)) from error


def _trainer(config: TrainingConfig, path: Path, device: str) -> Trainer:
    if not path.exists():
        return Trainer(config, device)
    try:
        trainer = Trainer.load(path, device)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if trainer.config != config:
        raise click.ClickException(
            f"{path} is of a training with other settings; choose another folder"
        )
    return trainer


def _join(device: str) -> bool:
    """Join the processes that torchrun started, if it did; whether this is the first."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return dist.get_rank() == 0


def _seconds(trainer: Trainer) -> float:
    return trainer.history[-1].seconds if trainer.history else 0.0


def _board(output: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise click.ClickException("not installed: pip install tensorboard") from error
    return SummaryWriter(output / "tensorboard")


def _stages(trainer: Trainer, kept: Stages) -> Table:
    n, rounds = trainer.config.resolutions[1], len(trainer.history)
    geom, epsilon = trainer.average.geometry((n, n)), trainer.config.model.default_epsilon
    table = stages_table(
        [(f"{s.round / rounds:.0%}", s.adversary, s.network) for s in kept.load(trainer)],
        trainer.average,
        epsilon=epsilon,
        n=n,
        count=_STAGE_PAIRS,
        geom=geom,
    )
    table.notes.append(
        f"{_STAGE_PAIRS} pairs at {n} x {n}, {trainer.config.model.cost}, epsilon {epsilon:g}; "
        f"after shares of {rounds} rounds. Networks have the average of their weights."
    )
    return table


def _losses(history: list[Row]) -> Figure:
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    ax = figure.subplots()
    seconds = [row.seconds for row in history]
    ax.semilogy(seconds, [row.loss for row in history], label="training")
    ax.semilogy(seconds, [row.validation for row in history], label="held back, averaged weights")
    ax.set_xlabel("seconds")
    ax.set_ylabel("squared error of the potential / epsilon$^2$")
    ax.legend(frameon=False)
    return figure


def _measures(trainer: Trainer) -> Figure:
    """Pairs that the network was trained on."""
    pairs = Pairs(trainer.model, trainer.config, trainer.adversary)
    batch = pairs.draw(12, pairs.random(-3))
    figure = Figure(figsize=(12, 2.4), layout="constrained")
    axes = figure.subplots(2, 12)
    for row, side in zip(axes, (batch.a, batch.b), strict=True):
        for ax, mass in zip(row, side.cpu(), strict=True):
            ax.imshow(mass, cmap="magma")
            ax.axis("off")
    return figure
