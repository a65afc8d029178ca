import copy
import pickle
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

import unot_fast
from tests.spectral.outcomes import assert_close, outcome

models = pytest.importorskip("torch_harmonics.examples.models")
from torch_harmonics import InverseRealSHT, RealSHT  # noqa: E402
from torch_harmonics.examples.models._layers import (  # noqa: E402
    MLP,
    InverseRealFFT2,
    RealFFT2,
    SpectralConvS2,
)

SFNO = getattr(models, "SphericalFourierNeuralOperatorNet", None) or (
    models.SphericalFourierNeuralOperator  # its name from 0.8 on
)


def sfno(**options):
    settings = {"img_size": (16, 32), "scale_factor": 2, "in_chans": 2, "out_chans": 3}
    settings |= {"embed_dim": 6, "num_layers": 3, "activation_function": "gelu"}
    return SFNO(**(settings | options))


MODELS = {
    "SFNO": {},
    "scale 1": {"scale_factor": 1},
    "scale 3": {"scale_factor": 3, "img_size": (25, 48)},
    "odd number of longitudes": {"img_size": (17, 35), "scale_factor": 1},
    "Gauss grid to equiangular": {"grid": "legendre-gauss", "grid_internal": "equiangular"},
    "lobatto": {"grid": "lobatto", "hard_thresholding_fraction": 0.5},
    "relu": {"activation_function": "relu"},
    "instance norm": {"normalization_layer": "instance_norm"},
    "no MLP": {"use_mlp": False},
}
if SFNO.__name__.endswith("Net"):  # 0.7
    MODELS["diagonal"] = {"operator_type": "diagonal"}
    MODELS["block-diagonal"] = {"operator_type": "block-diagonal", "img_size": (9, 16)}
    MODELS["big skip"] = {"big_skip": True, "pos_embed": "latlon"}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_stay(name):
    model = sfno(**MODELS[name])
    x = torch.randn(2, 2, *model.img_size)
    expected = outcome(model, x)
    done = unot_fast.accelerate(model, verbose=False)
    assert sum(kind == "SpectralConvS2" for kind in done.replaced.values()) == 3
    assert_close(outcome(model, x), expected)
    assert torch.equal(unot_fast.restore(model)(x), expected[0])


@pytest.mark.parametrize("name", ["SFNO", "scale 1", "diagonal", "block-diagonal", "no MLP"])
def test_in_double_precision(name, monkeypatch):
    """Where theirs compute in double precision, too, which they do not by themselves."""
    if name not in MODELS:
        pytest.skip("torch-harmonics 0.7 only")
    model = sfno(**MODELS[name]).double()
    for block in model.blocks:
        block.global_conv.weight = nn.Parameter(block.global_conv.weight.to(torch.cdouble))
    x = torch.randn(2, 2, *model.img_size, dtype=torch.float64)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "float", lambda t: t)
        expected = outcome(model, x)
    unot_fast.accelerate(model, verbose=False)
    assert_close(outcome(model, x), expected, 1e-11)


def test_report():
    done = unot_fast.accelerate(sfno(), verbose=False)
    assert list(done.replaced.values()) == ["SpectralConvS2"] * 3 + ["MLP"] * 3
    assert not done.kept
    done = unot_fast.accelerate(sfno(activation_function="relu"), verbose=False)
    assert done.kept["blocks.1.mlp"] == "MLP with activation ReLU()"
    done = unot_fast.accelerate(sfno(drop_rate=0.1), verbose=False)
    assert done.kept["blocks.1.mlp"] == "MLP with dropout"


def test_what_is_not_supported_is_left():
    def reason(module):
        done = unot_fast.accelerate(module, verbose=False)
        assert not done.replaced
        return done.kept[""]

    sht, few = RealSHT(8, 16, lmax=6, mmax=6), InverseRealSHT(8, 16, lmax=5, mmax=5)
    planar = RealFFT2(8, 16), InverseRealFFT2(8, 16)
    assert "RealFFT2" in reason(SpectralConvS2(*planar, 2, 2))
    assert "other harmonics" in reason(SpectralConvS2(sht, few, 2, 2))
    assert "checkpointing" in reason(MLP(2, 4, act_layer=nn.GELU, checkpointing=True))


def _hook_on(get):
    return lambda block: get(block).register_forward_hook(lambda module, args, out: out * 0.5)


def _relu(block):
    block.mlp.fwd[1] = nn.ReLU()


CHANGES = {
    "hook on a transform": _hook_on(lambda block: block.global_conv.forward_transform),
    "hook on an inverse": _hook_on(lambda block: block.global_conv.inverse_transform),
    "hook on a layer": _hook_on(lambda block: block.mlp.fwd[0]),
    "hook on all layers": _hook_on(lambda block: block.mlp.fwd),
    "old weight norm": lambda block: nn.utils.weight_norm(block.mlp.fwd[2]),
    "another activation": _relu,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_heeded(change, before):
    model, x = sfno(num_layers=2), torch.randn(2, 2, 16, 32)
    changed = copy.deepcopy(model)
    CHANGES[change](changed.blocks[1])
    expected = outcome(changed, x)
    if before:
        model = changed
        assert len(unot_fast.accelerate(model, verbose=False).kept) == 1
    else:
        unot_fast.accelerate(model, verbose=False)
        CHANGES[change](model.blocks[1])
    assert_close(outcome(model, x), expected)


def test_parametrizations_act():
    model, x = sfno(num_layers=2), torch.randn(2, 2, 16, 32)
    nn.utils.parametrizations.weight_norm(model.blocks[0].mlp.fwd[0])
    register_parametrization(model.blocks[1].global_conv, "weight", nn.Tanh())
    expected = outcome(model, x)
    assert not unot_fast.accelerate(model, verbose=False).kept
    assert_close(outcome(model, x), expected)
    assert_close(outcome(unot_fast.restore(model), x), expected)


def test_a_version_with_other_layers_is_left(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_harmonics.examples.models._layers", None)
    monkeypatch.delitem(sys.modules, "unot_fast.spectral.harmonics", raising=False)
    monkeypatch.delitem(sys.modules, "neuralop", raising=False)
    done = unot_fast.accelerate(sfno(), verbose=False)
    assert not done.replaced
    assert "torch_harmonics.examples.models has other layers in this version" in done.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolution_by_itself(dtype):
    """With a bias, to another grid; and types of results."""
    sht = RealSHT(9, 20, lmax=6, mmax=6).float()
    isht = InverseRealSHT(12, 18, lmax=6, mmax=6, grid="legendre-gauss").float()
    conv = SpectralConvS2(sht, isht, 3, 4, bias=True)
    nn.init.normal_(conv.bias)
    x = torch.randn(2, 3, 9, 20).to(dtype)
    expected = conv(x)
    unot_fast.accelerate(conv, verbose=False)
    assert_close(conv(x), expected, 2e-5 if dtype is torch.float32 else 1e-2)
    with pytest.raises(ValueError, match="x must have shape"):
        conv(torch.randn(2, 3, 9, 18))


def test_nothing_but_the_classes_changes():
    model, x = sfno(), torch.randn(2, 2, 16, 32)
    before, kinds = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    parameters = list(model.parameters())
    unot_fast.accelerate(model, verbose=False)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(before)
    sfno().load_state_dict(model.state_dict())
    model.load_state_dict(before)
    assert not unot_fast.accelerate(model, verbose=False).replaced
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
    unot_fast.restore(model)
    assert [type(m) for m in model.modules()] == kinds


def test_inference_before_training():
    model, x = sfno(), torch.randn(2, 2, 16, 32)
    expected = outcome(model, x)
    unot_fast.accelerate(model, verbose=False)
    with torch.inference_mode():
        model(x)
    assert_close(outcome(model, x), expected)


def test_second_derivatives():
    conv = SpectralConvS2(RealSHT(4, 6, 2, 2).float(), InverseRealSHT(5, 6, 2, 2).float(), 1, 1)
    conv.weight = nn.Parameter(conv.weight.to(torch.cdouble))
    unot_fast.accelerate(conv, verbose=False)
    x = torch.randn(1, 1, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: conv(x), (x, conv.weight))
    assert torch.autograd.gradgradcheck(lambda x, _: conv(x)[0].square(), (x, conv.weight))


def test_autocast():
    model, x = sfno(), torch.randn(2, 2, 16, 32)
    expected = model(x)
    unot_fast.accelerate(model, verbose=False)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
        out.float().square().mean().backward()
    assert out.dtype is torch.bfloat16
    assert_close([out.float()], [expected], 3e-2)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_compile():
    model, x = sfno(num_layers=2), torch.randn(2, 2, 16, 32)
    expected = outcome(model, x)
    unot_fast.accelerate(model, verbose=False)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(outcome(compiled, x), expected)
