"""What the benchmarks on a device share: a session of rows, and times by CUDA events."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from bench import peers, problems
from bench.gpu import roofline


class Session:
    """Collects rows, and the reasons of those that are not there, in a file.

    The file is written after every measurement, so a run that is cut short has what it measured.
    It has the layout of pytest-benchmark, which this does not need.
    """

    def __init__(self, description: str, arguments: list[str] | None, seconds: float):
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("-o", "--output", type=Path, required=True)
        parser.add_argument(
            "--seconds", type=float, default=seconds, help="no new row after this long"
        )
        parser.add_argument("--resume", action="store_true", help="go on where OUTPUT ends")
        options = parser.parse_args(arguments)
        if not torch.cuda.is_available():
            parser.error("no CUDA device is visible to torch")
        self.output = options.output
        self.deadline = time.monotonic() + options.seconds
        if options.resume:
            self.results = json.loads(self.output.read_text())
        else:
            self.results = {
                "machine_info": {
                    "gpu": machine(),
                    "torch": torch.__version__,
                    "cuda": torch.version.cuda,
                    "triton": _version("triton"),
                },
                "commit_info": {"id": commit()},
                "attempted": [],
                "benchmarks": [],
                "skipped": [],
                "failed": [],
            }

    def attempt(self, name: str, measure: Callable[[], Iterable[dict]]) -> None:
        """Add the rows of a measurement; a failure is recorded and does not end the session."""
        if name in self.results["attempted"]:
            return
        self.results["attempted"].append(name)
        if time.monotonic() > self.deadline:
            self.results["skipped"].append({"name": name, "reason": "out of time"})
            return
        try:
            for row in measure():
                self.results["benchmarks"].append(row)
            print(f"ok      {name}", flush=True)
        except (peers.Unavailable, problems.DataMissing) as reason:
            self.results["skipped"].append({"name": name, "reason": str(reason)})
            print(f"skipped {name}: {reason}", flush=True)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            self.results["failed"].append({"name": name, "reason": reason})
            print(f"FAILED  {name}: {reason}", flush=True)
            if _lost():
                self._start_afresh()
        self.save()

    def save(self) -> None:
        self.output.write_text(json.dumps(self.results, indent=1))

    def end(self) -> None:
        """Save, print what there is, and exit with 1 where a row failed."""
        self.save()
        print({k: len(self.results[k]) for k in ("benchmarks", "skipped", "failed")})
        if self.results["failed"]:
            raise SystemExit(1)

    def _start_afresh(self) -> None:
        """Go on in a fresh process: after a bad memory access this one has no device any more."""
        self.save()
        seconds = str(self.deadline - time.monotonic())
        command = [sys.executable, *sys.orig_argv[1:], f"--seconds={seconds}", "--resume"]
        os.execv(sys.executable, command)


def eager_and_graph(
    call, name: str, info: dict, work: roofline.Work | None = None, graph: bool = True
) -> Iterator[dict]:
    """Rows for eager calls and, on request, for replays of a CUDA graph of the same call."""
    for mode in ("eager", "graph") if graph else ("eager",):
        durations = times(call if mode == "eager" else capture(call))
        extra = dict(info)
        floor = work.floor(machine()) if work else None
        if floor is not None:
            extra["roofline_share"] = floor / min(durations)
        yield entry(f"{name}, {mode}", extra, durations)


def capture(call) -> Callable[[], None]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def times(launch, patience: float = 0.1) -> list[float]:
    """Seconds per launch by CUDA events, for rounds of several launches."""

    def events(repeats: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            launch()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / repeats

    events(2)
    repeats = max(1, min(100, int(patience / 10 / max(events(1), 1e-6))))
    return [events(repeats) for _ in range(10)]


def entry(name: str, info: dict, durations: list[float]) -> dict:
    stats = {
        "min": min(durations), "median": statistics.median(durations), "rounds": len(durations)
    }  # fmt: skip
    return {"name": name, "stats": stats, "extra_info": {**info, "method": name}}


def gate(error: float, tolerance: float) -> None:
    if not error <= tolerance:
        raise AssertionError(f"error {error:.1e} exceeds {tolerance:.1e}")


def machine() -> str:
    return torch.cuda.get_device_name()


def commit() -> str:
    """The commit that is measured: of the repository, else of ``UNOT_FAST_COMMIT``."""
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or os.environ.get("UNOT_FAST_COMMIT", "unknown")


def _version(module: str) -> str:
    try:
        return importlib.import_module(module).__version__
    except ImportError:
        return "absent"


def _lost() -> bool:
    """Whether an error has taken the device from this process."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
