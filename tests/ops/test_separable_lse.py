import pytest
import torch
from torch.library import opcheck

from unot_fast import Grid
from unot_fast.ops import separable_lse

SHAPES = [
    ((5,), (9,)),
    ((7, 7), (7, 7)),
    ((6, 11), (13, 3)),
    ((64, 2), (3, 70)),
    ((3, 4, 5), (5, 1, 2)),
]


def problem(n, m, batch=3):
    costs = list(Grid(n, target=m).axis_costs)
    return 20 * torch.randn(batch, *m, dtype=torch.float64), costs


@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("eps", [1e-4, 1e-2, 1.0, 10.0])
def test_matches_dense_reference(n, m, eps):
    h, costs = problem(n, m)
    h[0][..., ::2] = -torch.inf
    h[1] *= 40
    epsilon = torch.tensor([eps, 2 * eps, eps], dtype=torch.float64)
    out = separable_lse(h, costs, epsilon, backend="cpu")
    ref = separable_lse(h, costs, epsilon, backend="reference")
    assert torch.allclose(out, ref, rtol=1e-13, atol=1e-11)


def test_no_mass_gives_minus_infinity():
    h, costs = problem((6, 5), (6, 5))
    h[1] = -torch.inf
    out = separable_lse(h, costs, torch.ones(3), backend="cpu")
    assert bool((out[1] == -torch.inf).all())
    assert bool(out[[0, 2]].isfinite().all())


def test_infinite_cost_forbids_a_pair():
    h, costs = problem((4, 4), (4, 4))
    costs[0] = costs[0].masked_fill(torch.eye(4, dtype=torch.bool), torch.inf)
    epsilon = torch.full((3,), 0.1, dtype=torch.float64)
    out = separable_lse(h, costs, epsilon, backend="cpu")
    assert torch.allclose(out, separable_lse(h, costs, epsilon, backend="reference"), atol=1e-11)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_operator_rules(batch):
    h, costs = problem((5, 4), (3, 6), batch)
    args = (h, costs, torch.full((batch,), 0.1, dtype=torch.float64), "cpu")
    opcheck(torch.ops.unot_fast.separable_lse.default, args)
    dense_permuted = h.mT.contiguous().mT
    opcheck(torch.ops.unot_fast.separable_lse.default, (dense_permuted, *args[1:]))


def test_vmap_and_compile():
    h, costs = problem((5, 4), (5, 4), 6)
    epsilon = torch.linspace(0.1, 1, 6, dtype=torch.float64)
    expected = separable_lse(h, costs, epsilon, backend="cpu")

    def one(h, eps):
        return separable_lse(h[None], costs, eps[None], backend="cpu")[0]

    assert torch.equal(torch.vmap(one)(h, epsilon), expected)
    compiled = torch.compile(lambda h, e: separable_lse(h, costs, e, backend="cpu"), fullgraph=True)
    assert torch.equal(compiled(h, epsilon), expected)


def test_gradient():
    h, costs = problem((4, 3), (3, 5), 2)
    h = h.div(10).requires_grad_()
    epsilon = torch.tensor([0.3, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: separable_lse(x, costs, epsilon, backend="cpu"), h)
    with pytest.raises(RuntimeError, match="no gradient in epsilon"):
        separable_lse(h, costs, epsilon.requires_grad_(), backend="cpu").sum().backward()


def test_gradient_without_mass_is_zero():
    h, costs = problem((6, 5), (6, 5))
    h[1], h[0, 2] = -torch.inf, -torch.inf
    h.requires_grad_()
    out = separable_lse(h, costs, torch.ones(3, dtype=torch.float64), backend="cpu")
    (gradient,) = torch.autograd.grad(out[[0, 2]].sum(), h)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()
    assert (gradient[0, 2] == 0).all()
