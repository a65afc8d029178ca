"""Train the shipped network for |x - y|^2, and again with recorded steps: how fast it learns."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from unot_fast.training import PRESETS, Graphs, Row, Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=4096)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(
        PRESETS["sqeuclidean"], batch=options.batch, precision="bfloat16", batches=8
    )

    def report(row: Row) -> None:
        if row.round % 10 == 1:
            print(
                f"{row.seconds:6.1f} s {row.samples / row.seconds:9.0f} samples/s "
                f"loss {row.loss:.4f} held back {row.validation:.4f}"
            )

    runs = {"launched": None}
    name = options.device
    if torch.device(options.device).type == "cuda":
        runs["recorded"] = Graphs()
        name = torch.cuda.get_device_name()
    result = {"device": name, "torch": torch.__version__}
    for run, graphs in runs.items():
        print(f"steps {run}:")
        trainer = Trainer(config, options.device, graphs)
        path = options.output / f"{run}.pt"
        trainer.run(budget=options.seconds / len(runs), path=path, report=report)
        result[run] = [dataclasses.asdict(row) for row in trainer.history]
        (options.output / "training.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
