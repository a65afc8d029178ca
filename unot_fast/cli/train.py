"""``unot-fast train``: train a transport network."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from tqdm import tqdm

from unot_fast.cli.options import Duration, warn
from unot_fast.evaluation import CostError
from unot_fast.evaluation.tables import Table, stages_table
from unot_fast.models import UNOT
from unot_fast.training import PRESETS, DivergedError, Graphs, Row, Trainer, TrainingConfig
from unot_fast.training.log import Log
from unot_fast.training.pairs import Pairs
from unot_fast.training.processes import own_shards
from unot_fast.training.stages import Stages

_STAGE_PAIRS = 500  # of each stage, as published
_LEAST_BETWEEN_PLOTS = 10.0  # seconds


@click.command()
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="sqeuclidean", show_default=True
)
@click.option("--budget", type=Duration(positive=True), help="Train for so long, e.g. 30m.")
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
    "--validate-data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of image sets as for `evaluate`: also tell the mean error of the cost after one "
    "iteration on pairs of them.",
)
@click.option(
    "--stages",
    is_flag=True,
    help="Keep the weights at stages, and write the errors on what the adversary made there.",
)
@click.option(
    "--graphs",
    is_flag=True,
    help="Record the passes of a step as CUDA graphs and replay them. Has not run on a GPU yet.",
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
    validate_data: Path | None,
    stages: bool,
    graphs: bool,
    tensorboard: bool,
) -> None:
    """Train a transport network.

    Writes model.safetensors (the averaged weights, at the end), log.csv (a line for each round),
    losses.png, measures.png and checkpoint.pt to the output folder. The same command goes on where
    it was interrupted, at whatever moment that was. Under torchrun the processes share every batch;
    --set shards=N gives each its part. With --stages there are stage_00.pt to stage_70.pt too, and
    stages.md at the end.

    Of the adversary's generator --set generator_lipschitz=0.9 --set generator_noise=N with
    generator_size=N is the form of the paper's Theorem 3, which can reach every pair of measures.
    """
    if (budget is None) == (rounds is None):
        raise click.UsageError("give either --budget or --rounds")
    config = _configured(PRESETS[preset], settings)
    if stages and not config.adversary:
        raise click.UsageError("--stages needs an adversary: --set adversary=SHARE")
    device = _device(device)
    if graphs and not device.startswith("cuda"):
        raise click.BadParameter(f"needs a CUDA device, not {device}", param_hint="--graphs")
    first = _join(device)
    try:
        own_shards(config.shards)
        cost_error = _cost_error(validate_data, config, device) if first else None
        output.mkdir(parents=True, exist_ok=True)
        recorded = Graphs() if graphs else None
        trainer = _trainer(config, output / "checkpoint.pt", device, recorded)
        if first:
            size = sum(p.numel() for p in trainer.model.parameters())
            click.echo(f"{preset}: {size / 1e6:.2f} million parameters on {device}")
            if trainer.history:
                click.echo(f"goes on after round {trainer.history[-1].round}")
        _run(trainer, budget, rounds, save_every, output, first, stages, tensorboard, cost_error)
    except (DivergedError, ValueError) as error:
        raise click.ClickException(str(error)) from error
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
    cost_error: Callable[[UNOT], float] | None,
) -> None:
    kept = Stages(output) if stages and first else None
    board = _board(output) if tensorboard and first else None
    log = Log(output / "log.csv", trainer.history) if first else None
    total = rounds if rounds is not None else round(budget)
    done = len(trainer.history) if rounds is not None else _seconds(trainer)
    unit = "round" if rounds is not None else "s"
    drawn = time.perf_counter()
    with tqdm(
        total=total, initial=min(total, round(done)), unit=unit, disable=None if first else True
    ) as bar:

        def share(row: Row) -> float:
            return row.round / rounds if rounds is not None else row.seconds / budget

        def report(row: Row) -> None:
            nonlocal drawn
            if kept is not None:
                kept.keep(trainer, share)
            spent = row.round if rounds is not None else min(total, round(row.seconds))
            bar.update(spent - bar.n)
            shown = {"loss": f"{row.loss:.4f}", "validation": f"{row.validation:.4f}"}
            if row.cost_error is not None:
                shown["cost"] = f"{row.cost_error:.2%}"
            bar.set_postfix(shown)
            if board is not None:
                for name in ("loss", "validation", "learning_rate", "cost_error"):
                    if (value := getattr(row, name)) is not None:
                        board.add_scalar(name, value, row.samples)
            if log is not None:
                log.add(row)
                if time.perf_counter() - drawn > max(save_every, _LEAST_BETWEEN_PLOTS):
                    _draw(trainer, output)
                    drawn = time.perf_counter()

        if kept is not None and not trainer.history:
            kept.keep(trainer, share)
        trainer.run(
            rounds=rounds,
            budget=budget,
            path=output / "checkpoint.pt",
            save_every=save_every,
            report=report,
            cost_error=cost_error,
        )
    if not first:
        return
    if board is not None:
        board.close()
    log.close()
    last = trainer.history[-1]
    card = {
        "loss": trainer.config.loss,
        "rounds": last.round,
        "seconds": round(last.seconds, 1),
        "samples": last.samples,
        "validation": last.validation,
        "device": str(trainer.device),
    }
    real = ""
    if last.cost_error is not None:
        card["cost_error"] = last.cost_error
        real = f", cost after one iteration on real pairs off by {last.cost_error:.2%}"
    trainer.average.save_pretrained(output / "model.safetensors", card=card)
    _draw(trainer, output)
    if kept is not None:
        table = _stages(trainer, kept)
        (output / "stages.md").write_text(table.markdown())
    click.echo(
        f"{last.samples} samples in {last.seconds:.0f} s, {last.samples / last.seconds:.0f} per "
        f"second; loss {last.loss:.4f}, validation {last.validation:.4f}{real}; written to {output}"
    )


def _device(name: str | None) -> str:
    """The device asked for, if it is there; by default a GPU where there is one."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise click.BadParameter(f"{name}: {reason}", param_hint="--device") from error
    return name


def _cost_error(data: Path | None, config: TrainingConfig, device: str) -> CostError | None:
    if data is None:
        return None
    found = CostError(data, config.model, device=device)
    for line in found.missing:
        warn(f"left out: {line}")
    return found


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


def _trainer(config: TrainingConfig, path: Path, device: str, graphs: Graphs | None) -> Trainer:
    if not path.exists():
        return Trainer(config, device, graphs)
    try:
        trainer = Trainer.load(path, device, graphs)
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


def _draw(trainer: Trainer, output: Path) -> None:
    _losses(trainer.history).savefig(output / "losses.png", dpi=150)
    _measures(trainer).savefig(output / "measures.png", dpi=150)


def _losses(history: list[Row]) -> Figure:
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    ax = figure.subplots()
    seconds = [row.seconds for row in history]
    ax.semilogy(seconds, [row.loss for row in history], label="training")
    ax.semilogy(seconds, [row.validation for row in history], label="held back, averaged weights")
    ax.set_xlabel("seconds")
    ax.set_ylabel("squared error of the potential / epsilon$^2$")
    real = [(row.seconds, row.cost_error) for row in history if row.cost_error is not None]
    if real:
        ax.semilogy(*zip(*real, strict=True), label="real pairs: relative error of the cost")
    ax.legend(frameon=False)
    return figure


def _measures(trainer: Trainer) -> Figure:
    """Pairs such as the network is trained on."""
    pairs = Pairs(trainer.model, trainer.config, trainer.adversary)
    # Not in the mode of training, where a single pair has no batch normalisation to go through,
    # and a figure would change the statistics.
    generator = trainer.adversary or torch.nn.Identity()
    mode = generator.training
    generator.eval()
    batch = pairs.draw(12, pairs.random(-3))
    generator.train(mode)
    figure = Figure(figsize=(12, 2.4), layout="constrained")
    axes = figure.subplots(2, 12)
    for row, side in zip(axes, (batch.a, batch.b), strict=True):
        for ax, mass in zip(row, side.cpu(), strict=True):
            ax.imshow(mass, cmap="magma")
            ax.axis("off")
    return figure
