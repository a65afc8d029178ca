"""Images of one kind translated to another, class by class, in the latent spaces of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from unot_fast.experiments.autoencoder import Autoencoder, fit_autoencoder
from unot_fast.experiments.classifier import Classifier
from unot_fast.experiments.metrics import frechet_distance
from unot_fast.neural_ot import NeuralOT, by_class, energy_distance, gaussian_map

_JUDGED = 10_000  # held-out images that a judgement looks at, at most


@dataclass(frozen=True)
class Labelled:
    """Images of one kind and their classes, some held out.

    Attributes
    ----------
    train, test : tuple of Tensor
        Images (N, h, w), float32 in [0, 1], and classes (N,), int64.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def split(cls, images: Tensor, labels: Tensor, *, seed: int = 0) -> Labelled:
        """A seventh of every class is held out, in random order; sides become multiples of 4.

        Parameters
        ----------
        images : Tensor, shape (N, h, w)
            uint8, or numbers in [0, 1].
        labels : Tensor, shape (N,)
            0 to the number of classes less 1.

        Raises
        ------
        ValueError
            The message names the argument.
        """
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise ValueError(
                "labels must be one for every image; got shapes "
                f"{tuple(images.shape)} and {tuple(labels.shape)}"
            )
        images = images.float() / 255 if images.dtype is torch.uint8 else images.float()
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError("images must be uint8, or numbers in [0, 1]")
        sides = [4 * -(-n // 4) for n in images.shape[1:]]
        if sides != list(images.shape[1:]):
            images = F.interpolate(images[:, None], sides, mode="bilinear")[:, 0]
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        held = torch.zeros(len(images), dtype=torch.bool)
        for k in labels.unique():
            own = order[labels[order] == k]
            if len(own) < 2:
                raise ValueError(f"labels: class {int(k)} has one image, and none to hold out")
            held[own[: max(1, len(own) // 7)]] = True
        out, rest = order[held[order]], order[~held[order]]
        return cls((images[rest], labels[rest]), (images[out], labels[out]))


@dataclass(frozen=True)
class Translator:
    """Both autoencoders, and the transport between what they encode."""

    source: Autoencoder
    target: Autoencoder
    ot: NeuralOT

    def transport(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images of the target, (N, h, w), from those of the source and their classes."""
        return self.target.decode(self.ot.transport(self.source.encode(images), labels))

    def inverse(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images of the source from those of the target."""
        found = self.ot.inverse(self.target.encode(images), labels, tol=1e-3)
        return self.source.decode(found)

    def save(self, folder: Path) -> None:
        """Write the three networks into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.source.save(folder / "source.safetensors")
        self.target.save(folder / "target.safetensors")
        self.ot.save(folder / "transport.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Translator:
        return cls(
            Autoencoder.load(folder / "source.safetensors"),
            Autoencoder.load(folder / "target.safetensors"),
            NeuralOT.load(folder / "transport.safetensors"),
        )


def fit_translator(
    source: Labelled,
    target: Labelled,
    budget: float,
    *,
    network_budget: float = 120.0,
    latent: int = 15,
    beta: float = 0.1,
    mmd: float = 0.0,
    seed: int = 0,
    report: Callable[[str], None] = lambda text: None,
    progress: bool = False,
) -> Translator:
    """Train the autoencoders, then the transport of every class to its own.

    Parameters
    ----------
    source, target : Labelled
        With the same classes; what is held out is not looked at.
    budget, network_budget : float
        Seconds for the transport, and for each autoencoder.
    latent : int
        Dimension of the latent spaces; 15 in the published experiment.
    beta : float
        Weight of the divergence in the autoencoders.
    mmd : float
        Weight of the discrepancy, by class, in the loss of the transport.
    seed : int
    report : callable, optional
        Told what begins.
    progress : bool
        Show a bar of the transport's training.

    Raises
    ------
    ValueError
        Both kinds have not the same classes.
    """
    classes = [len(side.train[1].unique()) for side in (source, target)]
    if classes[0] != classes[1]:
        raise ValueError(f"target must have the classes of source; got {classes[1]}, {classes[0]}")
    coders = []
    for name, side in (("source", source), ("target", target)):
        report(f"autoencoder of the {name}, {network_budget:.0f} s")
        coders.append(
            fit_autoencoder(side.train[0], latent, budget=network_budget, beta=beta, seed=seed)
        )
    x, z = (m.encode(side.train[0]) for m, side in zip(coders, (source, target), strict=True))
    report(f"transport, {budget:.0f} s")
    ot = NeuralOT(latent, classes=classes[0], mmd=mmd, seed=seed)
    ot.fit(
        x, z, source_labels=source.train[1], target_labels=target.train[1], budget=budget,
        progress=progress,
    )  # fmt: skip
    return Translator(*coders, ot)


@dataclass(frozen=True)
class Quality:
    """How near to held-out images of the target some images are.

    Attributes
    ----------
    accuracy : float
        Share of them that a classifier of the target takes for their class.
    frechet : float
        Frechet distance of Gaussians in the features of that classifier. (Not FID, whose features
        are those of a network for photographs.)
    energy : float
        Energy distance of latents, mean over classes; nan for the held-out images themselves.
    """

    accuracy: float
    frechet: float
    energy: float


def judge_translator(
    translator: Translator, source: Labelled, target: Labelled, classifier: Classifier
) -> dict[str, Quality]:
    """What becomes of held-out images of the source.

    Returns
    -------
    dict of Quality
        ``transport``; in its place ``gaussian``, the optimal map of Gaussians of every class, or
        ``nothing``, latents as they are; for comparison ``reconstructed``, the held-out images of
        the target encoded and decoded, which no map between latents can be nearer than, and
        ``real``, images of the target that were trained on.
    """
    x, labels = (t[:_JUDGED] for t in source.test)
    z, others = (t[:_JUDGED] for t in target.test)
    coder, ot = translator.target, translator.ot
    latents, aim = translator.source.encode(x), coder.encode(z)
    wanted = classifier.features(z)

    def quality(images: Tensor, own: Tensor, moved: Tensor | None) -> Quality:
        return Quality(
            classifier.accuracy(images, own),
            frechet_distance(classifier.features(images), wanted),
            float("nan") if moved is None else _apart(moved, own, aim, others),
        )

    gaussian = _gaussian_by_class(translator, source, target, latents, labels)
    found = {
        name: quality(coder.decode(moved), labels, moved)
        for name, moved in (
            ("transport", ot.transport(latents, labels)),
            ("gaussian", gaussian),
            ("nothing", latents),
        )
    }
    known, own = (t[: len(z)] for t in target.train)
    found["reconstructed"] = quality(coder.decode(aim), others, None)
    found["real"] = quality(known, own, coder.encode(known))
    return found


def _apart(moved: Tensor, own: Tensor, aim: Tensor, others: Tensor, points: int = 4000) -> float:
    return float(
        by_class(energy_distance, moved[:points], own[:points], aim[:points], others[:points])
    )


def _gaussian_by_class(
    translator: Translator, source: Labelled, target: Labelled, latents: Tensor, labels: Tensor
) -> Tensor:
    x, z = translator.source.encode(source.train[0]), translator.target.encode(target.train[0])
    moved = torch.empty_like(latents)
    for k in labels.unique():
        first, second, own = x[source.train[1] == k], z[target.train[1] == k], labels == k
        matrix = gaussian_map(first, second)
        moved[own] = (latents[own] - first.mean(0)) @ matrix + second.mean(0)
    return moved
