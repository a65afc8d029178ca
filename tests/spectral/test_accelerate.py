import copy
import pickle
import sys

import pytest
import torch
from torch import nn

import unot_fast
from tests.spectral.outcomes import assert_close, outcome

neuralop = pytest.importorskip("neuralop")
from neuralop.models import FNO, SFNO, TFNO  # noqa: E402

COMMON = {"in_channels": 2, "out_channels": 3, "hidden_channels": 12, "n_layers": 3}


def fno(**options):
    return FNO(**({"n_modes": (8, 6)} | COMMON | options))


MODELS = {
    "FNO": (lambda: fno(), (16, 20)),
    "FNO in one dimension": (lambda: fno(n_modes=(9,)), (30,)),
    "FNO in three dimensions": (lambda: fno(n_modes=(4, 4, 4), n_layers=2), (8, 6, 10)),
    "more modes than the grid holds": (lambda: fno(n_modes=(24, 24)), (16, 16)),
    "fewer modes than at most": (lambda: fno(n_modes=(4, 6), max_n_modes=(8, 8)), (16, 16)),
    "no channel MLP": (lambda: fno(use_channel_mlp=False), (16, 16)),
    "identity skip": (lambda: fno(channel_mlp_skip="identity"), (16, 16)),
    "no skips": (lambda: fno(channel_mlp_skip=None, fno_skip=None), (16, 16)),
    "gated FNO skip": (lambda: fno(fno_skip="soft-gating"), (16, 16)),
    "group norm": (lambda: fno(norm="group_norm"), (16, 16)),
    "preactivation": (lambda: fno(preactivation=True), (16, 16)),
    "tanh": (lambda: fno(stabilizer="tanh"), (16, 16)),
    "CP": (lambda: TFNO(n_modes=(8, 6), factorization="cp", rank=0.3, **COMMON), (16, 16)),
    "Tucker": (lambda: TFNO(n_modes=(8, 6), factorization="tucker", rank=0.3, **COMMON), (16, 16)),
    "SFNO": (lambda: SFNO(n_modes=(8, 10), **COMMON), (16, 32)),
    "backward norm": (lambda: _with_norm("backward"), (16, 16)),
}


def _with_norm(norm):
    model = fno()
    for conv in model.fno_blocks.convs:
        conv.fft_norm = norm
    return model


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_stay(name):
    make, points = MODELS[name]
    model, x = make(), torch.randn(2, 2, *points)
    expected = outcome(model, x)
    done = unot_fast.accelerate(model, verbose=False)
    assert done.replaced
    assert_close(outcome(model, x), expected)


def test_nothing_but_the_classes_changes():
    model = fno()
    before, kinds = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    parameters = list(model.parameters())
    unot_fast.accelerate(model, verbose=False)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(before)
    fno().load_state_dict(model.state_dict())
    model.load_state_dict(before)
    assert unot_fast.restore(model) is model
    assert [type(m) for m in model.modules()] == kinds
    assert not unot_fast.accelerate(nn.Linear(2, 2), verbose=False).replaced


def test_twice_is_once():
    model = fno()
    unot_fast.accelerate(model, verbose=False)
    again = unot_fast.accelerate(model, verbose=False)
    assert not again.replaced
    assert not again.kept


@pytest.mark.parametrize("name", ["FNO", "SFNO"])
def test_backend_on_request(name):
    make, points = MODELS[name]
    model, x = make(), torch.randn(2, 2, *points)
    expected = outcome(model, x)
    unot_fast.accelerate(model, backend="reference", verbose=False)
    assert_close(outcome(model, x), expected)
    unot_fast.restore(model)
    assert not any(hasattr(module, "backend") for module in model.modules())
    with pytest.raises(ValueError, match="backend must be"):
        unot_fast.accelerate(model, backend="gpu")


def test_report(capsys):
    model = fno(norm="group_norm")
    done = unot_fast.accelerate(model)
    assert done.kept == {"fno_blocks": "FNOBlocks with normalisation layers"}
    printed = capsys.readouterr().out
    assert "replaced 8 modules" in printed
    assert "fno_blocks: FNOBlocks with normalisation layers" in printed

    class Own(neuralop.layers.spectral_convolution.SpectralConv):
        pass

    model = fno(conv_module=Own)
    done = unot_fast.accelerate(model, verbose=False)
    assert "subclass of SpectralConv" in done.kept["fno_blocks.convs.0"]
    assert "convolution that is not replaced" in done.kept["fno_blocks"]


def test_what_is_not_supported_is_left():
    done = unot_fast.accelerate(fno(fno_block_precision="mixed"), verbose=False)
    assert all("fno_block_precision" in done.kept[f"fno_blocks.convs.{i}"] for i in range(3))
    sphere = neuralop.layers.spherical_convolution.SphericalConv(2, 2, (4, 6), separable=True)
    assert "separable" in unot_fast.accelerate(sphere, verbose=False).kept[""]


def test_nothing_replaced_has_a_reason(monkeypatch):
    done = unot_fast.accelerate(nn.Linear(2, 2), verbose=False)
    assert "replaced 0 modules: the model has no SpectralConv, " in str(done)
    model = fno()
    unot_fast.accelerate(model, verbose=False)
    assert "replaced already" in unot_fast.accelerate(model, verbose=False).reason
    monkeypatch.delitem(sys.modules, "neuralop")
    monkeypatch.delitem(sys.modules, "torch_harmonics.examples.models", raising=False)
    assert "is imported" in unot_fast.accelerate(nn.Linear(2, 2), verbose=False).reason


def test_mlp_without_a_batch():
    mlp, x = neuralop.layers.channel_mlp.ChannelMLP(3, 4, 5), torch.randn(3, 7)
    expected = outcome(mlp, x)
    assert unot_fast.accelerate(mlp, verbose=False).replaced
    assert_close(outcome(mlp, x), expected)


@pytest.mark.parametrize("factorization", [None, "cp", "tucker"])
def test_bfloat16(factorization):
    """Parameters and data in bfloat16 are computed in float32."""
    model = SFNO(n_modes=(8, 10), factorization=factorization, **COMMON).bfloat16()
    x, single = torch.randn(2, 2, 16, 32).bfloat16(), copy.deepcopy(model).float()
    unot_fast.accelerate(model, verbose=False)
    unot_fast.accelerate(single, verbose=False)
    out = model(x)
    assert out.dtype is torch.bfloat16
    assert_close([out.float()], [single(x.float())], 5e-2)
    out.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.filterwarnings("ignore:Casting complex")
def test_lost_imaginary_parts_are_an_error():
    model = fno().to(torch.float64)
    unot_fast.accelerate(model, verbose=False)
    with pytest.raises(TypeError, match=r"weight must be complex; got torch\.float64"):
        model(torch.randn(2, 2, 16, 16).double())


def test_double_precision():
    model, x = fno(), torch.randn(2, 2, 16, 16)
    unot_fast.accelerate(model, verbose=False)
    expected = model(x)
    assert_close([model.double()(x.double()).float()], [expected])


def test_no_forward_mode_derivatives():
    model, x = fno(), torch.randn(1, 2, 16, 16)
    unot_fast.accelerate(model, verbose=False)
    with pytest.raises(NotImplementedError, match="forward-mode derivatives are not available"):
        torch.func.jvp(model, (x,), (x,))


@pytest.mark.parametrize("name", ["FNO", "no channel MLP", "gated FNO skip", "SFNO"])
def test_higher_derivatives_stay(name):
    """Penalties on derivatives, of a loss that has them, as physics-informed training has."""
    make, points = MODELS[name]
    model, x = make(), torch.randn(1, 2, *points, requires_grad=True)
    parameters = list(model.parameters())

    def penalised():
        slope = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)[0]
        bend = torch.autograd.grad(slope.square().sum(), x, create_graph=True)[0]
        loss = bend.square().sum()
        return [bend.detach(), *torch.autograd.grad(loss, [x, *parameters], materialize_grads=True)]

    expected = penalised()
    assert unot_fast.accelerate(model, verbose=False).replaced
    assert_close(penalised(), expected)


def test_wrong_channels_are_an_error():
    model = fno()
    unot_fast.accelerate(model, verbose=False)
    with pytest.raises(ValueError, match="must have shape"):
        model(torch.randn(2, 5, 16, 16))


@pytest.mark.parametrize("name", ["FNO", "SFNO"])
def test_inference_before_training(name):
    """Tables that were made in inference mode serve autograd later."""
    make, _ = MODELS[name]
    model, x = make(), torch.randn(2, 2, 22, 26)
    unot_fast.accelerate(model, verbose=False)
    with torch.inference_mode():
        model(x)
    outcome(model, x)


def test_copies_and_pickles():
    model, x = fno(), torch.randn(2, 2, 16, 16)
    unot_fast.accelerate(model, verbose=False)
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)


def test_autocast():
    model, x = fno(), torch.randn(2, 2, 16, 16)
    expected = model(x)
    unot_fast.accelerate(model, verbose=False)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
        out.float().square().mean().backward()
    assert_close([out.float()], [expected], 3e-2)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_compile():
    model, x = fno(n_layers=2), torch.randn(2, 2, 16, 16)
    expected = outcome(model, x)
    unot_fast.accelerate(model, verbose=False)
    compiled = torch.compile(model, fullgraph=True)
    assert_close(outcome(compiled, x), expected)


@pytest.mark.slow
def test_export():
    model, x = fno(n_layers=2).eval(), torch.randn(2, 2, 16, 16)
    unot_fast.accelerate(model, verbose=False)
    program = torch.export.export(model, (x,), strict=True)
    assert_close([program.module()(x)], [model(x)])


def _rank(rank, port, queue):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    model = fno(n_layers=2)
    unot_fast.accelerate(model, verbose=False)
    parallel = nn.parallel.DistributedDataParallel(model)
    x = torch.randn(4, 2, 16, 16)
    parallel(x[2 * rank : 2 * rank + 2]).square().mean().backward()
    if rank == 0:
        queue.put([p.grad.numpy() for p in model.parameters()])
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_data_parallel():
    """Two processes with half of the batch each have the gradients of one with all of it."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    ranks = [context.Process(target=_rank, args=(r, port, queue)) for r in range(2)]
    for process in ranks:
        process.start()
    found = [torch.from_numpy(g) for g in queue.get()]
    for process in ranks:
        process.join()
    torch.manual_seed(0)
    model = fno(n_layers=2)
    model(torch.randn(4, 2, 16, 16)).square().mean().backward()
    assert_close(found, [p.grad for p in model.parameters()])
