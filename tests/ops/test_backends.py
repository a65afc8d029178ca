import pytest

from unot_fast.ops.backends import _runs_on


@pytest.mark.parametrize(
    ("architecture", "capability", "runs"),
    [
        ("9.0a", (9, 0), True),
        ("9.0a", (10, 0), False),
        ("9.0", (9, 0), True),
        ("9.0", (8, 9), False),
        ("9.0", (12, 0), False),
        ("9.0+PTX", (12, 0), True),
        ("10.3a", (10, 3), True),
    ],
)
def test_which_devices_a_build_serves(architecture, capability, runs):
    assert _runs_on(capability, architecture) is runs
