import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unot_fast import Grid, sinkhorn
from unot_fast.ops.shortcut import shortcut


def taken(*tensors):
    """Whether a call with these goes past the dispatcher."""
    return shortcut("operator", "implementation", *tensors) == "implementation"


def test_is_for_what_needs_no_more_than_a_call():
    x, weight = torch.rand(3), torch.nn.Parameter(torch.rand(3))
    assert taken(x, None)
    assert not taken(x, weight)
    with torch.no_grad():
        assert taken(x, weight)
    assert not taken(FakeTensorMode().from_tensor(x))
    assert not taken(x.to("meta"))


@pytest.mark.parametrize(
    "context",
    [
        lambda: FlopCounterMode(display=False),
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
        FakeTensorMode,
    ],
)
def test_is_not_for_calls_that_others_see(context):
    x = torch.rand(3)
    with context():
        assert not taken(x)
    assert taken(x)


def test_is_not_for_transforms_and_traces():
    found = []

    def note(x):
        found.append(taken(x))
        return x

    torch.vmap(note)(torch.rand(3))
    torch.func.grad(lambda x: note(x).sum())(torch.rand(3))
    torch.func.jvp(lambda x: x + note(torch.rand(3)), (torch.rand(3),), (torch.rand(3),))
    with contextlib.suppress(torch.jit.TracingCheckError):
        torch.jit.trace(note, torch.rand(3), check_trace=False)
    assert found == [False] * 4


def test_operators_stay_in_profiles():
    a = torch.rand(1, 8, 8)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        sinkhorn(a, a, Grid((8, 8)), 0.1, normalize=True)
    assert "unot_fast::sinkhorn_multiscale" in {event.key for event in profile.key_averages()}
