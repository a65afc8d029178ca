import gc
import threading

import pytest
import torch

import unot_fast
from unot_fast.ops import pages

pytestmark = pytest.mark.skipif(not pages._LINUX, reason="blocks are kept on Linux only")
MB = 1 << 20


@pytest.fixture(autouse=True)
def blocks(monkeypatch):
    monkeypatch.setattr(pages, "_LARGE", 2 * MB)
    monkeypatch.setattr(pages, "_KEPT", 16 * MB)
    blocks = pages._Blocks()
    monkeypatch.setattr(pages, "_blocks", blocks)
    return blocks


def sizes(blocks):
    return [len(b) // MB for b in blocks._free]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_block_is_used_again(blocks, dtype):
    x = pages.empty((3, MB // 2, 1), dtype)
    assert x.shape == (3, MB // 2, 1)
    assert x.dtype is dtype
    assert x.is_contiguous()
    address = x.data_ptr()
    del x
    assert pages.empty((MB,), dtype).data_ptr() == address
    assert sizes(blocks) == [3 * dtype.itemsize // 2]


def test_not_while_anything_has_it(blocks):
    x = pages.empty((MB,), torch.float32)
    row, parameter, array = x.view(4, -1)[1], torch.nn.Parameter(x), x.numpy()
    graph = (parameter * row[:1]).sum()
    del x, row
    assert not blocks._free
    del parameter
    assert not blocks._free
    del array
    assert not blocks._free
    del graph
    gc.collect()
    assert sizes(blocks) == [4]


def test_no_block_far_too_large_and_no_more_than_the_limit(blocks):
    x, y, z = (pages.empty((n * MB // 4,), torch.float32) for n in (4, 6, 8))
    del x, y, z
    assert sizes(blocks) == [6, 8]
    x = pages.empty((MB // 2,), torch.float32)
    assert sizes(blocks) == [6, 8]
    y = pages.empty((MB,), torch.float32)
    assert sizes(blocks) == [8]
    del x, y


def test_given_back_from_another_thread(blocks):
    held = [pages.empty((MB,), torch.float32)]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert sizes(blocks) == [4]


def test_gradients_are_added_in_place():
    """Autograd adds to a gradient that nobody else has: a block has one owner."""
    weight, skip = torch.randn(16, 16, 5, 3, 2), torch.randn(16, 16)
    x = torch.randn(2, 16, 128, 128, requires_grad=True)
    y = unot_fast.spectral_conv2d(x, weight, skip=skip, activation="gelu")
    y = unot_fast.spectral_conv2d(y, weight, skip=skip, activation="gelu")
    with torch.profiler.profile() as profile:
        y.sum().backward()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::add_"] == 2
    assert "aten::add" not in calls


def test_result_outlives_its_operator(blocks):
    x, weight = torch.randn(2, 16, 128, 128), torch.randn(16, 16, 5, 3, 2)
    first = unot_fast.spectral_conv2d(x, weight)
    kept = first.clone()
    for _ in range(3):
        unot_fast.spectral_conv2d(2 * x, weight)
    assert torch.equal(first, kept)
    assert blocks._free
