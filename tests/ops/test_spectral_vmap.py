import pytest
import torch
from torch.func import vmap

from tests.ops.spectral_calls import CALLS, OPS
from unot_fast import spectral_conv2d

BACKENDS = ["cpu", "torch"]
SAMPLES = 3


def several(x, dim=0):
    return torch.stack([(k + 1) * x for k in range(SAMPLES)], dim)


def stacked(results):
    if torch.is_tensor(results[0]):
        return torch.stack(results)
    return tuple(map(torch.stack, zip(*results, strict=True)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", CALLS)
def test_vmap_is_a_loop(operator, backend):
    """Over any one of the tensors, which is for some a fold into the batch, and over all."""
    *arguments, call = *CALLS[operator], getattr(OPS, operator)
    tensors = [k for k, x in enumerate(arguments) if torch.is_tensor(x)]
    for mapped in (*([k] for k in tensors), tensors):
        given, dims = [*arguments, backend], [None] * (len(arguments) + 1)
        for k in mapped:
            dims[k] = k % 2
            given[k] = several(arguments[k], dims[k])
        expected = []
        for i in range(SAMPLES):
            pairs = zip(given, dims, strict=True)
            expected.append(call(*(x if d is None else x.select(d, i) for x, d in pairs)))
        torch.testing.assert_close(vmap(call, tuple(dims))(*given), stacked(expected))


@pytest.mark.parametrize("operator", ["spectral_analysis", "spectral_synthesis"])
def test_tables_are_shared(operator):
    arguments, call = CALLS[operator], getattr(OPS, operator)
    with pytest.raises(ValueError, match=f"{operator}: the tables are shared"):
        vmap(lambda t: call(arguments[0], [t, arguments[1][1]], *arguments[2:], "cpu"))(
            several(arguments[1][0])
        )


def layer(x, weight, skip, backend):
    return spectral_conv2d(x, weight, skip=skip, activation="gelu", backend=backend)


def problem():
    x = torch.randn(SAMPLES, 2, 2, 4, 5, dtype=torch.float64)
    return x, torch.randn(2, 3, 3, 2, 2, dtype=torch.float64), torch.randn(3, 2, dtype=x.dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_of_an_ensemble(backend):
    x, weight, skip = problem()
    weights = several(weight)
    expected = torch.stack([layer(x[0], w, skip, backend) for w in weights])
    out = vmap(layer, (None, 0, None, None))(x[0], weights, skip, backend)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_gradients_of_one_result(backend):
    x, weight, skip = problem()
    leaves = [t.requires_grad_() for t in (x[0], weight, skip)]
    out = layer(*leaves, backend)
    pulled = several(torch.randn_like(out))

    def pull(grad):
        return torch.autograd.grad(out, leaves, grad, retain_graph=True)

    torch.testing.assert_close(vmap(pull)(pulled), stacked([pull(grad) for grad in pulled]))
