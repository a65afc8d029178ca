"""A judge of what an image shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unot_fast.experiments.minimise import minimise


class Classifier(nn.Module):
    """A convolutional network for small grey images."""

    def __init__(self, height: int, width: int, classes: int) -> None:
        super().__init__()
        inner = 64 * ((height + 3) // 4) * ((width + 3) // 4)
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 5, 2, 2), nn.ReLU(), nn.Conv2d(32, 64, 5, 2, 2), nn.ReLU(),
            nn.Flatten(), nn.Dropout(0.25), nn.Linear(inner, 128), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images[:, None]))

    def features(self, images: Tensor) -> Tensor:
        """The last layer but one, (N, 128)."""
        with torch.no_grad():
            return torch.cat([self.body(part[:, None]) for part in images.split(1024)])

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """The share of images that it takes for what their labels say."""
        with torch.no_grad():
            found = self.head(self.features(images)).argmax(1)
        return float((found == labels).double().mean())


def fit_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    budget: float | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Classifier:
    """Train one on images (N, h, w), shifted by up to two pixels, for so many seconds or steps."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Classifier(*images.shape[1:], int(labels.max()) + 1)

        def loss(rows: Tensor) -> Tensor:
            down, right = torch.randint(-2, 3, (2,)).tolist()
            return F.cross_entropy(model(images[rows].roll((down, right), (1, 2))), labels[rows])

        minimise(model, loss, len(images), budget=budget, steps=steps, seed=seed)
    return model
