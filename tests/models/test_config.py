import pytest

from unot_fast.models import PRESETS, UNOTConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": -3}, "width must be an integer >= 1; got -3"),
        ({"width": 8.0}, "width must be an integer"),
        ({"depth": True}, "depth must be an integer"),
        ({"hidden": 0}, "hidden must be an integer"),
        ({"sweeps": -1}, "sweeps must be an integer >= 0"),
        ({"final_sweeps": 0.5}, "final_sweeps must be an integer >= 0"),
        ({"cells": [16]}, r"cells must be 2 integers; got \[16\]"),
        ({"cells": (16, 1)}, "cells must be an integer >= 2; got 1"),
        ({"modes": 10}, "modes must be 2 integers; got 10"),
        ({"epsilon": 0.01}, "epsilon must be a pair of numbers"),
        ({"epsilon": ("a", 1.0)}, "epsilon must be a finite number; got 'a'"),
        ({"default_epsilon": None}, "default_epsilon must be a finite number"),
        ({"coordinates": 1}, "coordinates must be true or false"),
    ],
)
def test_what_is_no_configuration_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        UNOTConfig(**change)


def test_lists_of_a_file_become_tuples():
    config = UNOTConfig(epsilon=[0.01, 0.02], cells=[8, 8], modes=[4, 4])
    assert (config.epsilon, config.cells, config.modes) == ((0.01, 0.02), (8, 8), (4, 4))
    assert PRESETS["base"].cells is None
