"""Spectral operators on nothing: no samples, channels, hidden channels or modes."""

import itertools

import pytest
import torch

from tests.ops.agreement import normal, run
from tests.ops.spectral_calls import BACKENDS
from unot_fast.ops import (
    channel_mlp,
    legendre_products,
    spectral_analysis,
    spectral_mixing,
    spectral_synthesis,
)

SIZES = [  # samples, channels in, channels out, hidden, modes
    sizes for sizes in itertools.product((0, 2), (0, 3), (0, 3), (0, 4), (0, 2)) if 0 in sizes
]


def products(x, tables, **options):
    return legendre_products(x, tables[0], **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients(sizes, backend):
    b, c, o, h, m = sizes
    x, modes, tables = normal(b, c, 5, 4), normal(b, o, 2, m, m), [normal(5, m, 2), normal(4, m, 2)]
    mlp = normal(h, o), normal(h), normal(c, h), normal(c)
    calls = [
        (spectral_analysis, (x, [normal(m, 5, 2), normal(m, 4, 2)]), {}),
        (spectral_mixing, (normal(b, c, 2, m, m), normal(c, o, m, m, 2), normal(o, m, m, 2)), {}),
        (spectral_synthesis, (modes, tables), {}),
        (spectral_synthesis, (modes, tables, x, normal(o, c), normal(o)), {"gelu": True}),
        (spectral_synthesis, (modes, tables, x, normal(o, c), None, *mlp, normal(c)), {}),
        (channel_mlp, (normal(b, o, 5, 4), *mlp, x, normal(c)), {"gelu": True}),
        (products, (normal(b, c, 5, 2, m), [normal(m, h, 5)]), {"to_lines": False}),
        (products, (normal(h, m, b, c, 2), [normal(m, 5, h)]), {"to_lines": True}),
    ]
    for operator, arguments, options in calls:
        found = run(operator, arguments, backend, torch.float32, **options)
        assert all(bool(t.isfinite().all()) for t in found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_left_is_the_rest_of_the_layer(backend):
    x, skip, bias = normal(2, 3, 5, 4), normal(4, 3), normal(4)
    c, tables = normal(2, 4, 2, 0, 2), [normal(5, 0, 2), normal(4, 2, 2)]
    out = spectral_synthesis(c, tables, x, skip, bias, backend=backend)
    expected = torch.einsum("oi,bixy->boxy", skip, x) + bias.view(-1, 1, 1)
    torch.testing.assert_close(out, expected)
    none, first, second = normal(0, 3), normal(4), normal(5)
    w1, w2 = none, normal(5, 0)
    out = channel_mlp(x, w1, first[:0], w2, second, backend=backend)
    torch.testing.assert_close(out, second.view(-1, 1, 1).expand(2, 5, 5, 4))
