"""Forward-mode derivatives, which are refused."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import jacfwd, jvp, vmap

from tests.ops.agreement import normal
from unot_fast import Grid, NeuralPotential, sinkhorn
from unot_fast.ops import (
    channel_mlp,
    legendre_products,
    spectral_analysis,
    spectral_mixing,
    spectral_synthesis,
)

TABLES = [normal(4, 3, 2), normal(5, 2, 2)]
LINES = [normal(3, 4, 2), normal(2, 5, 2)]
GRID, MODES, LEGENDRE = normal(2, 3, 4, 5), normal(2, 3, 2, 3, 2), normal(5, 6, 4)
W1, W2 = normal(6, 3), normal(3, 6)
CALLS = {  # and the shape of an argument
    "spectral_analysis": (lambda x: spectral_analysis(x, LINES, backend="cpu"), (2, 3, 4, 5)),
    "legendre_products": (
        lambda x: legendre_products(x, LEGENDRE, to_lines=False, backend="cpu"),
        (2, 3, 4, 2, 5),
    ),
    "spectral_mixing": (lambda w: spectral_mixing(MODES, w, backend="cpu"), (3, 3, 3, 2, 2)),
    "spectral_synthesis": (
        lambda s: spectral_synthesis(MODES, TABLES, GRID, s, backend="cpu"),
        (3, 3),
    ),
    "channel_mlp": (lambda b: channel_mlp(GRID, W1, b, W2, None, backend="cpu"), (6,)),
}


@pytest.mark.parametrize("operator", CALLS)
def test_refused(operator):
    call, shape = CALLS[operator]
    x = normal(*shape)
    message = f"{operator}: forward-mode derivatives are not available"
    for leaf in (x, x.clone().requires_grad_()):
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=message):
            call(forward_ad.make_dual(leaf, x))
    for derivative in (
        lambda: jvp(call, (x,), (x,)),
        lambda: jacfwd(call)(x),
        lambda: vmap(lambda t: jvp(call, (x,), (t,))[1])(torch.stack((x, x))),
        lambda: jvp(vmap(call), (torch.stack((x, x)),), (torch.stack((x, x)),)),
    ):
        with pytest.raises(NotImplementedError, match=message):
            derivative()


def test_refused_of_potentials():
    potential = NeuralPotential(3).requires_grad_(False)
    z = torch.rand(5, 3)
    for call in (potential, torch.no_grad()(potential.gradient)):
        with pytest.raises(NotImplementedError, match="forward-mode"):
            jvp(call, (z,), (z,))
    # With gradients it is torch's own.
    _, tangent = jvp(potential.gradient, (z,), (z,))
    torch.testing.assert_close(tangent, potential.hessian_vector(z, z))


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
def test_refused_of_solves(cost):
    a, b = torch.rand(2, 3, 6, 5)
    geom = Grid((6, 5), cost)
    for call in (
        lambda x: sinkhorn(x, b, geom, 0.1, normalize=True).cost,
        lambda x: sinkhorn(a, x, geom, 0.1, normalize=True).value,
        lambda x: sinkhorn(a, b, geom, x.sum(), normalize=True).value,
    ):
        with pytest.raises(NotImplementedError, match="sinkhorn: forward-mode"):
            jvp(call, (b,), (b,))


@pytest.mark.parametrize("operator", CALLS)
def test_refused_of_gradients(operator):
    """A tangent that comes with the gradient of the result only."""
    call, shape = CALLS[operator]
    x = normal(*shape).requires_grad_()
    out = call(x)
    with forward_ad.dual_level():
        grad = forward_ad.make_dual(torch.ones_like(out), torch.ones_like(out))
        with pytest.raises(NotImplementedError, match="forward-mode derivatives are not available"):
            torch.autograd.grad(out, x, grad)


@pytest.mark.parametrize("operator", CALLS)
def test_derivatives_of_others_pass(operator):
    call, shape = CALLS[operator]
    x = normal(*shape)
    _, tangent = jvp(lambda t: t * call(x).sum(), (torch.ones(()),), (torch.ones(()),))
    assert tangent.isfinite()
    assert tangent != 0
