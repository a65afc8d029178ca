"""Gradients against finite differences, and never by unrolling."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import unot_fast
from unot_fast import Grid

GRID = Grid((4, 5), target=(3, 6))


def measure(logits):
    return torch.softmax(logits.flatten(1), 1).reshape(logits.shape)


def quantity(name, eps, **options):
    def function(x, y):
        result = unot_fast.sinkhorn(
            measure(x), measure(y), GRID, eps, tol=1e-14, max_iter=20_000, **options
        )
        return getattr(result, name)

    return function


def logits():
    x, y = torch.randn(2, 4, 5), torch.randn(2, 3, 6)
    return x.double().requires_grad_(), y.double().requires_grad_()


@pytest.mark.parametrize("name", ["value", "cost", "f", "g"])
@pytest.mark.parametrize("eps", [0.5, 0.05, 0.002])
def test_gradcheck(name, eps):
    assert gradcheck(quantity(name, eps), logits(), eps=1e-6, atol=1e-6, rtol=1e-4)


def test_gradcheck_with_one_epsilon_per_problem():
    eps = torch.tensor([0.5, 0.003], dtype=torch.float64)
    assert gradcheck(quantity("cost", eps), logits(), eps=1e-6, atol=1e-6, rtol=1e-4)


def test_second_derivative_of_the_value():
    assert gradgradcheck(quantity("value", 0.1), logits(), eps=1e-6, atol=1e-5, rtol=1e-3)


def test_second_derivative_of_the_cost_is_refused():
    x, y = logits()
    cost = quantity("cost", 0.1)(x, y).sum()
    (grad,) = torch.autograd.grad(cost, x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        grad.sum().backward()


def test_gradient_of_the_value_is_the_potential():
    a, b = torch.rand(2, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    result = unot_fast.sinkhorn(a, b, Grid((9, 9)), 0.05, normalize=True, tol=1e-10)
    grad_a, grad_b = torch.autograd.grad(result.value.sum(), (a, b))
    # through the normalisation: f / total, projected
    total = a.sum((1, 2), keepdim=True)
    expected = (result.f - (a / total * result.f).sum((1, 2), keepdim=True)) / total
    assert torch.allclose(grad_a, expected, atol=1e-12)
    assert grad_b.isfinite().all()


def test_gradient_at_empty_pixels_is_right():
    """An empty pixel's derivative is one-sided but finite: the potential there."""
    a, b = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    a[0, 2:4] = 0
    a, b = a / a.sum(), b / b.sum()
    options = dict(tol=1e-13, max_iter=10_000)

    def moved(step):
        shifted = a.clone()
        shifted[0, 2, 2] += step
        shifted[0, 0, 0] -= step
        return unot_fast.sinkhorn(shifted, b, Grid((6, 6)), 0.05, **options)

    base = a.clone().requires_grad_()
    result = unot_fast.sinkhorn(base, b, Grid((6, 6)), 0.05, **options)
    for name in ("value", "cost"):
        (grad,) = torch.autograd.grad(getattr(result, name).sum(), base, retain_graph=True)
        slope = grad[0, 2, 2] - grad[0, 0, 0]
        numeric = (getattr(moved(1e-6), name) - getattr(moved(0.0), name)) / 1e-6
        assert float(slope) == pytest.approx(float(numeric), rel=1e-3)


def test_gradient_does_not_depend_on_the_start():
    grads = []
    for init in ("zeros", "gaussian", "multiscale"):
        torch.manual_seed(1)
        x, y = logits()
        quantity("cost", 0.05, init=init)(x, y).sum().backward()
        grads.append(x.grad)
    assert torch.allclose(grads[0], grads[1], atol=1e-9)
    assert torch.allclose(grads[0], grads[2], atol=1e-9)


def test_backward_keeps_no_iteration():
    """Memory of the graph: the inputs and outputs of one operator, whatever the iterations."""
    nodes = []
    for max_iter in (3, 300):
        x, y = logits()
        result = unot_fast.sinkhorn(measure(x), measure(y), GRID, 0.1, tol=0, max_iter=max_iter)
        seen, stack = set(), [result.cost.grad_fn]
        while stack:
            node = stack.pop()
            if node is not None and node not in seen:
                seen.add(node)
                stack.extend(next_node for next_node, _ in node.next_functions)
        nodes.append(len(seen))
    assert nodes[0] == nodes[1]


def test_compiled_backward():
    def loss(x, y):
        result = unot_fast.sinkhorn(measure(x), measure(y), GRID, 0.1, validate=False, tol=1e-10)
        return result.cost.sum() + result.value.sum()

    x, y = logits()
    expected = torch.autograd.grad(loss(x, y), (x, y))
    compiled = torch.autograd.grad(torch.compile(loss, fullgraph=True)(x, y), (x, y))
    for left, right in zip(expected, compiled, strict=True):
        assert torch.allclose(left, right, atol=1e-12)


@pytest.mark.parametrize("name", ["value", "cost", "f", "g"])
@pytest.mark.parametrize("eps", [0.5, 0.05, 0.002])
@pytest.mark.parametrize("kind", ["sqeuclidean", "euclidean"])
def test_gradcheck_in_epsilon(name, eps, kind):
    grid = Grid((4, 5)) if kind == "sqeuclidean" else Grid((4, 4), kind)
    a, b = (measure(torch.randn(2, *grid.shape, dtype=torch.float64)) for _ in "ab")

    def function(scale, x):
        result = unot_fast.sinkhorn(x, b, grid, eps * scale, tol=1e-14, max_iter=20_000)
        return getattr(result, name)

    scale = torch.tensor([1.0, 1.5], dtype=torch.float64, requires_grad=True)
    assert gradcheck(function, (scale, a), eps=1e-6, atol=1e-6, rtol=1e-4)


def test_one_epsilon_for_all_gets_the_sum():
    a, b = (measure(torch.randn(3, 4, 5, dtype=torch.float64)) for _ in "ab")
    grid = Grid((4, 5))
    one = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    each = torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)
    for x in (one, each):
        unot_fast.sinkhorn(a, b, grid, x, tol=1e-12).cost.sum().backward()
    assert torch.allclose(one.grad, each.grad.sum())


@pytest.mark.parametrize("kind", ["sqeuclidean", "euclidean"])
def test_many_cotangents_in_one_call(kind):
    """All cotangents of the potentials go through one batched linear solve."""
    grid = Grid((3, 4), kind)
    a, b = (measure(torch.randn(2, 3, 4, dtype=torch.float64)) for _ in "ab")

    eps = torch.tensor([0.3, 0.2], dtype=torch.float64, requires_grad=True)
    g = unot_fast.sinkhorn(a.requires_grad_(), b, grid, eps, tol=1e-13).g

    def pull(cotangent):
        return torch.autograd.grad(g, (a, eps), cotangent, retain_graph=True)

    cotangents = torch.randn(5, *g.shape, dtype=torch.float64)
    together = torch.vmap(pull)(cotangents)
    one_by_one = zip(*map(pull, cotangents), strict=True)
    for x, y in zip(together, one_by_one, strict=True):
        assert torch.allclose(x, torch.stack(y), atol=1e-9)
