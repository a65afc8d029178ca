"""Modules inside of accelerated ones that are changed, before or after."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import unot_fast
from tests.spectral.outcomes import assert_close, outcome

pytest.importorskip("neuralop")
from neuralop.layers.spectral_convolution import SpectralConv
from neuralop.models import FNO, SFNO


class Wrapped(nn.Module):
    """An adapter around a convolution, with the weight of that."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.scale = inner, nn.Parameter(torch.tensor(2.0))
        self.out_channels = inner.out_channels

    @property
    def weight(self):
        return self.inner.weight

    @property
    def bias(self):
        return self.inner.bias

    def forward(self, x):
        return self.scale * self.inner(x)


class Shifted(nn.Conv1d):
    def forward(self, x):
        return super().forward(x) + 1


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def shifted(conv):
    conv.__class__ = Shifted
    return conv


def patched(conv):
    conv.forward = lambda x, own=conv.forward: 3 * own(x)


def blocks(model):
    return model.fno_blocks


def hooked(module, how="forward"):
    if how == "forward":
        module.register_forward_hook(lambda module, args, out: out * 0.5)
    elif how == "forward_pre":
        module.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))
    else:
        module.register_full_backward_hook(lambda module, dx, dy: (dx[0] * 0.5,))


def replace(modules, index, make):
    modules[index] = make(modules[index])


CHANGES = {
    **{
        f"{how} hook on {name}": (lambda m, how=how, get=get: hooked(get(blocks(m)), how))
        for name, get in {
            "a convolution": lambda b: b.convs[1],
            "a bypass": lambda b: b.fno_skips[0],
            "the convolution of a bypass": lambda b: b.fno_skips[2].conv,
            "an MLP": lambda b: b.channel_mlp[0],
            "a layer of an MLP": lambda b: b.channel_mlp[1].fcs[1],
            "a gate": lambda b: b.channel_mlp_skips[1],
        }.items()
        for how in ("forward", "forward_pre", "backward")
    },
    "hook on the lifting": lambda m: hooked(m.lifting.fcs[0]),
    "old spectral norm": lambda m: nn.utils.spectral_norm(blocks(m).channel_mlp[0].fcs[0]),
    "old weight norm": lambda m: nn.utils.weight_norm(blocks(m).fno_skips[0].conv),
    "pruning": lambda m: prune.l1_unstructured(blocks(m).channel_mlp[0].fcs[0], "weight", 0.5),
    "another class": lambda m: replace(blocks(m).channel_mlp[0].fcs, 0, shifted),
    "a wrapper": lambda m: replace(blocks(m).channel_mlp[0].fcs, 1, Wrapped),
    "a wrapped bypass": lambda m: setattr(
        blocks(m).fno_skips[0], "conv", Wrapped(blocks(m).fno_skips[0].conv)
    ),
    "a wider kernel": lambda m: replace(
        blocks(m).channel_mlp[1].fcs, 0, lambda _: nn.Conv1d(4, 2, 3, padding=1)
    ),
    "another gate": lambda m: replace(blocks(m).channel_mlp_skips, 0, lambda _: Doubled()),
    "a forward of its own": lambda m: patched(blocks(m).channel_mlp[0].fcs[0]),
    "another non-linearity": lambda m: setattr(blocks(m), "non_linearity", torch.tanh),
    "another non-linearity of an MLP": lambda m: setattr(m.projection, "non_linearity", torch.tanh),
    "another convolution": lambda m: replace(
        blocks(m).convs, 1, lambda _: SpectralConv(4, 4, (6, 6))
    ),
    "a convolution of another kind": lambda m: replace(blocks(m).convs, 1, lambda c: Convolution()),
}  # fmt: skip


class Convolution(nn.Module):
    """As little as blocks ask for."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))

    def transform(self, x, output_shape=None):
        return x

    def forward(self, x, output_shape=None):
        return self.scale * x.flip(-1)


def fno():
    return FNO(n_modes=(6, 6), in_channels=2, out_channels=3, hidden_channels=4, n_layers=3)


def changed(model, change):
    """Each time in the same way."""
    torch.manual_seed(1)
    change(model)
    return model


def steps(model, x):
    """Several, as some hooks keep tensors from one call to the next."""
    return [outcome(model, x) for _ in range(2)]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.filterwarnings("ignore:.*register_full_backward")
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_heeded(name, before):
    model, x = fno(), torch.randn(2, 2, 12, 12)
    plain = model(x)
    expected = steps(changed(copy.deepcopy(model), CHANGES[name]), x)
    if before:
        changed(model, CHANGES[name])
        kept = unot_fast.accelerate(model, verbose=False).kept
        assert bool(kept) == (name != "another convolution")
    else:
        unot_fast.accelerate(model, verbose=False)
        assert_close([model(x)], [plain])
        changed(model, CHANGES[name])
    for found, wanted in zip(steps(model, x), expected, strict=True):
        assert_close(found, wanted, 1e-4)


def test_what_is_kept_has_a_reason():
    model = fno()
    hooked(model.fno_blocks.convs[1])
    replace(model.fno_blocks.channel_mlp[0].fcs, 1, Wrapped)
    kept = unot_fast.accelerate(model, verbose=False).kept
    assert kept["fno_blocks.channel_mlp.0"] == "ChannelMLP with Wrapped in place of Conv1d"
    assert "fno_blocks" in kept
    model = fno()
    hooked(model.fno_blocks.convs[1])
    kept = unot_fast.accelerate(model, verbose=False).kept
    assert kept == {"fno_blocks": "FNOBlocks with hooks on its FastSpectralConv"}


def test_hooks_that_are_removed_cost_nothing_more():
    model, x = fno(), torch.randn(2, 2, 12, 12)
    unot_fast.accelerate(model, verbose=False)
    expected, seen = model(x), []
    handle = model.fno_blocks.convs[1].register_forward_hook(lambda *_: seen.append(1))
    assert_close([model(x)], [expected])
    assert seen == [1]
    handle.remove()
    assert torch.equal(model(x), expected)
    assert seen == [1]


def test_hooks_on_all_modules():
    model, x, seen = fno(), torch.randn(2, 2, 12, 12), []
    expected = model(x)
    unot_fast.accelerate(model, verbose=False)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: seen.append(type(module).__name__)
    )
    try:
        assert_close([model(x)], [expected])
    finally:
        handle.remove()
    assert seen.count("Conv1d") == 2 * 2 + 3 * 3
    assert seen.count("FastSpectralConv") == 3


def test_hooks_on_the_model_itself_stay():
    model, x = fno(), torch.randn(2, 2, 12, 12)
    for module in (model, model.fno_blocks):
        hooked(module)
    expected = outcome(model, x)
    assert not unot_fast.accelerate(model, verbose=False).kept
    assert_close(outcome(model, x), expected)


@pytest.mark.parametrize("before", [True, False])
def test_parametrizations_act(before):
    model, x = fno().eval(), torch.randn(2, 2, 12, 12)
    layers = [*model.fno_blocks.channel_mlp[1].fcs, model.fno_blocks.fno_skips[0].conv]
    gate = model.fno_blocks.channel_mlp_skips[0]

    def parametrized():
        parametrizations.spectral_norm(layers[0]).eval()
        parametrizations.weight_norm(layers[1])
        parametrizations.orthogonal(layers[2])
        parametrize.register_parametrization(gate, "weight", Doubled())

    if not before:
        unot_fast.accelerate(model, verbose=False)
    parametrized()
    if before:
        assert not unot_fast.accelerate(model, verbose=False).kept
    found = outcome(model, x)
    assert "Spectral" in str([type(f) for f in model.fno_blocks.convs])
    assert_close(found, outcome(unot_fast.restore(model), x))


@pytest.mark.parametrize("before", [True, False])
def test_parametrized_modules_are_restored(before):
    model, x = fno(), torch.randn(2, 2, 12, 12)
    conv = model.fno_blocks.convs[0]
    kind = type(conv)
    for _ in range(2):
        if not before:
            unot_fast.accelerate(model, verbose=False)
        if not parametrize.is_parametrized(conv):
            parametrize.register_parametrization(conv, "bias", Doubled())
        unot_fast.accelerate(model, verbose=False)
        found, twin = outcome(model, x), copy.deepcopy(model)
        unot_fast.restore(model)
        assert parametrize.type_before_parametrizations(conv) is kind
        assert not any(hasattr(module, "backend") for module in model.modules())
        assert_close(found, outcome(model, x))
        assert_close(outcome(twin, x), found)
    parametrize.remove_parametrizations(conv, "bias")
    assert type(conv) is kind


def test_classes_made_of_fast_ones_are_not_restored():
    model = fno()
    unot_fast.accelerate(model, verbose=False)
    conv = model.fno_blocks.convs[0]
    conv.__class__ = type("Own", (type(conv),), {})
    with pytest.raises(TypeError, match=r"fno_blocks.convs.0 is a Own: undo that first"):
        unot_fast.restore(model)
    assert type(model.fno_blocks).__name__ == "FastFNOBlocks"


def test_transforms_on_the_sphere():
    options = {"in_channels": 2, "out_channels": 3, "hidden_channels": 4, "n_layers": 2}
    model, x = SFNO(n_modes=(6, 8), **options), torch.randn(2, 2, 8, 16)
    unot_fast.accelerate(model, verbose=False)
    handle = model.fno_blocks.convs[0].sht_handle
    handle.sht = lambda x, *args, own=handle.sht, **options: 2 * own(x, *args, **options)
    handle.__class__ = type("Own", (type(handle),), {})
    found = outcome(model, x)
    assert_close(found, outcome(unot_fast.restore(model), x))
