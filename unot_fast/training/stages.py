"""Weights at stages of a training, kept in files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from unot_fast.models import UNOT, Generator
from unot_fast.training import checkpoint
from unot_fast.training.adversary import adversary
from unot_fast.training.trainer import Row, Trainer

_LAST = 7  # tenths of the training


class Stage(NamedTuple):
    """What a training had come to.

    Attributes
    ----------
    round : int
        Rounds that were done.
    adversary : Generator
        In the mode that it is trained in.
    network : UNOT
        With the average of the weights.
    """

    round: int
    adversary: Generator
    network: UNOT


class Stages:
    """The network and its adversary after 0, 10, ..., 70 % of a training.

    Each stage is a file that is whole or not there. A training that is interrupted and goes on
    has the stages of what counts, as its checkpoint does.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def keep(self, trainer: Trainer, share: Callable[[Row], float]) -> None:
        """Write a stage if the last round reached one; to be called before the first one, too.

        Parameters
        ----------
        trainer : Trainer
            With an adversary.
        share : callable
            Share of the training that is done at the end of a round.
        """
        tenths = [int(10 * share(row) + 1e-9) for row in trainer.history[-2:]]
        before, now = [-1, 0, *tenths][-2:]
        if not before < now <= _LAST:
            return
        for tenth in range(now + 1, _LAST + 1):  # of rounds that were lost
            self._file(tenth).unlink(missing_ok=True)
        state = {
            "training": dataclasses.asdict(trainer.config),
            "round": len(trainer.history),
            "adversary": trainer.adversary.state_dict(),
            "network": {k: v.half() for k, v in trainer.average.state_dict().items()},
        }
        checkpoint.save(state, self._file(now))

    def load(self, trainer: Trainer) -> list[Stage]:
        """Those of a training, on its device.

        Raises
        ------
        ValueError
            A file is damaged.
        """
        found = []
        for path in filter(Path.exists, map(self._file, range(_LAST + 1))):
            state = checkpoint.load(path)
            generator, network = adversary(trainer.config), UNOT(trainer.config.model)
            generator.load_state_dict(state["adversary"])
            network.load_state_dict({k: v.float() for k, v in state["network"].items()})
            found.append(
                Stage(
                    state["round"],
                    generator.to(trainer.device),
                    network.to(trainer.device).requires_grad_(False),
                )
            )
        return found

    def _file(self, tenth: int) -> Path:
        return self.folder / f"stage_{tenth}0.pt"
