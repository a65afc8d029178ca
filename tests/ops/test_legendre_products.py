import pytest
import torch
from torch.func import vmap
from torch.library import opcheck

from tests.ops.agreement import TOLERANCE, compare, normal
from unot_fast.ops import legendre_products

CASES = [  # samples, channels, points, degrees, orders
    (1, 1, 1, 1, 1),
    (2, 3, 7, 5, 4),
    (3, 19, 16, 9, 12),  # orders without a degree
    (1, 64, 33, 32, 17),
    (16, 8, 12, 3, 2),
]


def arguments(samples, channels, points, degrees, orders, to_lines):
    """Harmonics have no degree below their order."""
    table = normal(orders, degrees, points)
    table *= torch.arange(degrees).view(-1, 1) >= torch.arange(orders).view(-1, 1, 1)
    if to_lines:
        return [normal(degrees, orders, samples, channels, 2), [table.mT]]
    return [normal(samples, channels, points, 2, orders), [table]]


def product(x, tables, **options):
    (table,) = tables  # no gradient
    return legendre_products(x, table, **options)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("to_lines", [False, True])
@pytest.mark.parametrize("shape", CASES)
def test_agrees_with_reference(shape, to_lines, backend, dtype):
    compare(product, arguments(*shape, to_lines), backend, dtype, to_lines=to_lines)


def test_a_full_table():
    for to_lines, x in ((False, normal(2, 3, 6, 2, 4)), (True, normal(5, 4, 2, 3, 2))):
        table = normal(4, 6, 5) if to_lines else normal(4, 5, 6)
        compare(product, [x, [table]], "cpu", torch.float64, to_lines=to_lines)


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_no_points_or_no_degrees(backend):
    options = {"backend": backend}
    x = legendre_products(normal(5, 4, 2, 3, 2), normal(4, 0, 5), to_lines=True, **options)
    assert x.shape == (2, 3, 0, 2, 4)
    c = legendre_products(x, normal(4, 5, 0), to_lines=False, **options)
    torch.testing.assert_close(c, torch.zeros(5, 4, 2, 3, 2, dtype=c.dtype))
    c = legendre_products(normal(2, 3, 6, 2, 4), normal(4, 0, 6), to_lines=False, **options)
    assert c.shape == (0, 4, 2, 3, 2)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads):
    x, (table,) = arguments(2, 37, 9, 6, 5, False)
    expected = legendre_products(x, table, to_lines=False, backend="reference")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = legendre_products(x, table, to_lines=False, backend="cpu")
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
@pytest.mark.parametrize("to_lines", [False, True])
def test_operator_rules(to_lines, backend):
    x, (table,) = arguments(2, 3, 6, 4, 3, to_lines)
    op = torch.ops.unot_fast.legendre_products.default
    opcheck(op, (x.requires_grad_(), table, to_lines, backend))
    opcheck(op, (x.detach().transpose(2, 3).contiguous().transpose(2, 3), table, to_lines, backend))
    none = x.detach()[:, :, :0] if to_lines else x.detach()[:0]
    opcheck(op, (none, table, to_lines, backend))


@pytest.mark.parametrize("to_lines", [False, True])
def test_derivatives(to_lines):
    x, tables = arguments(1, 2, 4, 3, 3, to_lines)

    def f(x):
        return product(x, tables, to_lines=to_lines, backend="cpu")

    assert torch.autograd.gradcheck(f, x.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda x: f(x) ** 2, x)


@pytest.mark.parametrize("to_lines", [False, True])
def test_vmap_folds(to_lines):
    x, (table,) = arguments(2, 3, 4, 3, 3, to_lines)
    several = torch.stack((x, 2 * x, 3 * x), 1)

    def f(x):
        return legendre_products(x, table, to_lines=to_lines, backend="cpu")

    expected = torch.stack([f(x) for x in several.unbind(1)])
    torch.testing.assert_close(vmap(f, 1)(several), expected)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="table must have shape"):
        legendre_products(normal(2, 3, 6, 2, 4), normal(4, 5, 7), to_lines=False, backend="cpu")
    with pytest.raises(ValueError, match=r"x must have shape \(L, M, B, C, 2\)"):
        legendre_products(normal(2, 3, 6, 2, 4), normal(3, 5, 2), to_lines=True, backend="cpu")
