"""Bars that lie translated to bars that stand, class by class."""

import numpy as np
import pytest
import torch

from unot_fast import NeuralOT
from unot_fast.experiments import (
    Labelled,
    Translator,
    fit_classifier,
    fit_translator,
    frechet_distance,
    judge_translator,
)
from unot_fast.experiments.autoencoder import Autoencoder, fit_autoencoder


def bars(n, *, standing, seed):
    """Of three classes by where they are, of random brightness and length: (n, 16, 16)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = np.zeros((n, 16, 16), np.float32)
    for image, k in zip(images, labels, strict=True):
        image[2 + 5 * k : 4 + 5 * k, : rng.integers(8, 16)] = rng.uniform(0.5, 1)
    images = images.transpose(0, 2, 1) if standing else images
    return torch.from_numpy(images.copy()), torch.from_numpy(labels)


def test_bars(tmp_path):
    source = Labelled.split(*bars(1500, standing=False, seed=0))
    target = Labelled.split(*bars(1400, standing=True, seed=1))
    counts = [source.test[1].bincount(), (source.train[1].bincount() + source.test[1].bincount())]
    assert torch.equal(counts[0], counts[1] // 7)
    coders = [fit_autoencoder(side.train[0], 4, steps=150) for side in (source, target)]
    x, z = (m.encode(side.train[0]) for m, side in zip(coders, (source, target), strict=True))
    ot = NeuralOT(4, (32, 32), classes=3).fit(
        x, z, source_labels=source.train[1], target_labels=target.train[1], steps=100
    )
    translator = Translator(*coders, ot)
    classifier = fit_classifier(*target.train, steps=80)
    found = judge_translator(translator, source, target, classifier)
    assert set(found) == {"transport", "gaussian", "nothing", "reconstructed", "real"}
    assert found["real"].accuracy > 0.98
    assert found["transport"].accuracy > 0.9
    assert found["transport"].frechet < 0.5 * found["nothing"].frechet
    assert found["transport"].energy < 0.1 * found["nothing"].energy
    images, labels = (t[:20] for t in source.test)
    translator.save(tmp_path)
    again = Translator.load(tmp_path)
    moved = translator.transport(images, labels)
    assert torch.equal(again.transport(images, labels), moved)
    back = again.inverse(moved, labels)
    assert back.shape == images.shape
    with pytest.raises(ValueError, match="holds no weights of"):
        Autoencoder.load(tmp_path / "transport.safetensors")


def test_images_are_checked():
    images, labels = bars(30, standing=False, seed=0)
    with pytest.raises(ValueError, match="one for every image"):
        Labelled.split(images, labels[:5])
    with pytest.raises(ValueError, match="uint8, or numbers in"):
        Labelled.split(3 * images, labels)
    with pytest.raises(ValueError, match="class 3 has one image"):
        Labelled.split(torch.cat((images, images[:1])), torch.cat((labels, torch.tensor([3]))))
    with pytest.raises(ValueError, match="must have the classes of source"):
        fit_translator(
            Labelled.split(images, labels),
            Labelled.split(images[labels < 2], labels[labels < 2]),
            1.0,
        )
    ragged = Labelled.split((255 * images[:, :15, :14]).byte(), labels)
    assert ragged.train[0].shape[1:] == (16, 16)
    assert 0 <= ragged.train[0].min() <= ragged.train[0].max() <= 1


def test_frechet_distance():
    x = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, 2 * x + 1) == pytest.approx(3 * 1 + 3 * 1, rel=0.02)
