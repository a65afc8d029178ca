"""The rival under ``torch.compile`` iterates as the one without."""

import functools

import torch

from bench import peers, problems


def test_compiled_logsumexp(monkeypatch):
    compiled = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", compiled)
    problem = problems.fields(12, 2)
    found = []
    for method in (peers.CompiledLSE(torch.float64), peers.SeparableLSE(torch.float64)):
        run = method.prepare(problem, 5)
        found.append(run.potentials(run.call()))
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)
