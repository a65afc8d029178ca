"""Timing of several methods in turns, because the speed of a shared machine drifts."""

from __future__ import annotations

import itertools
import time

import torch

from bench.machine import cpu_model


def in_turns(calls, seconds):
    times = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or len(times[next(iter(times))]) < 3:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def info(table, problem, n, batch, method):
    return {
        "table": table,
        "problem": problem,
        "n": n,
        "batch": batch,
        "epsilon": 0.0,
        "method": method,
        "family": method.split()[0].rstrip(","),
        "iterations": 1,
        "divisor": 1,
        "dtype": "float32",
        "device": "cpu",
        "machine": cpu_model(),
        "threads": torch.get_num_threads(),
        "version": torch.__version__,
    }


def report(benchmark, durations):
    """Have pytest-benchmark record times that were measured in turns with others."""
    instants = itertools.accumulate(x for t in durations for x in (0.0, t))
    benchmark._timer = lambda: next(instants)
    benchmark.pedantic(lambda: None, rounds=len(durations), iterations=1)
