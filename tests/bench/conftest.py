import pytest
import torch

from bench.gpu import timing


@pytest.fixture
def no_device(monkeypatch):
    """A device that is none: calls are made, not timed."""

    def times(call):
        call()
        return [2e-3, 1e-3]

    monkeypatch.setattr(timing, "machine", lambda: "NVIDIA H200")
    monkeypatch.setattr(timing, "times", times)
    monkeypatch.setattr(timing, "capture", lambda call: call)
    for name, value in (
        ("is_available", True), ("get_device_capability", (9, 0)), ("get_device_name", "none"),
        ("synchronize", None),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
