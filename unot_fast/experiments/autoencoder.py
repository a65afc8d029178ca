"""A few numbers for an image, and back."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unot_fast.experiments.minimise import minimise
from unot_fast.models.files import load_state, save_state

_KIND = "unot_fast.experiments.Autoencoder"


class Autoencoder(nn.Module):
    """A variational autoencoder of small grey images.

    It is told no classes: what becomes of an image's class is up to its latent numbers alone.

    Parameters
    ----------
    height, width : int
        Of the images, multiples of 4.
    latent : int
        How many numbers stand for an image.
    channels : int
        Of the outer layer; the inner has twice as many.

    References
    ----------
    Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014.
    """

    def __init__(self, height: int, width: int, latent: int, channels: int = 16) -> None:
        super().__init__()
        if height % 4 or width % 4:
            raise ValueError(f"height and width must be multiples of 4; got {height} x {width}")
        self.shape, self.latent, self.channels = (height, width), latent, channels
        inner = (2 * channels, height // 4, width // 4)
        size = inner[0] * inner[1] * inner[2]
        self.encoder = nn.Sequential(
            nn.Conv2d(1, channels, 4, 2, 1), nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 4, 2, 1), nn.SiLU(),
            nn.Flatten(), nn.Linear(size, 256), nn.SiLU(), nn.Linear(256, 2 * latent),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latent, 256), nn.SiLU(), nn.Linear(256, size), nn.SiLU(),
            nn.Unflatten(1, inner),
            nn.ConvTranspose2d(2 * channels, channels, 4, 2, 1), nn.SiLU(),
            nn.ConvTranspose2d(channels, 1, 4, 2, 1),
        )  # fmt: skip

    def encode(self, images: Tensor) -> Tensor:
        """The mean of the latent distribution, (N, latent), of images (N, h, w) in [0, 1]."""
        with torch.no_grad():
            parts = [self.encoder(part[:, None])[:, : self.latent] for part in images.split(1024)]
        return torch.cat(parts)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, h, w) in [0, 1]."""
        with torch.no_grad():
            parts = [self.decoder(part)[:, 0].sigmoid() for part in latents.split(1024)]
        return torch.cat(parts)

    def save(self, path: str | Path) -> None:
        """Write it as safetensors."""
        described = [*self.shape, self.latent, self.channels]
        save_state(path, _KIND, self.state_dict(), arguments=json.dumps(described))

    @classmethod
    def load(cls, path: str | Path) -> Autoencoder:
        """What `save` wrote.

        Raises
        ------
        ValueError
            The file holds something else.
        """
        state, metadata = load_state(path, _KIND)
        model = cls(*json.loads(metadata["arguments"]))
        model.load_state_dict(state)
        return model.eval().requires_grad_(False)

    def loss(self, images: Tensor, beta: float) -> Tensor:
        """Cross entropy of the pixels and ``beta`` times the divergence from a normal."""
        mean, log_variance = self.encoder(images[:, None]).chunk(2, 1)
        latents = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        pixels = F.binary_cross_entropy_with_logits(
            self.decoder(latents)[:, 0], images, reduction="sum"
        )
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
        return (pixels + beta * divergence) / len(images)


def fit_autoencoder(
    images: Tensor,
    latent: int,
    *,
    budget: float | None = None,
    steps: int | None = None,
    beta: float = 0.1,
    seed: int = 0,
) -> Autoencoder:
    """Train one on images (N, h, w) in [0, 1], for so many seconds or steps."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Autoencoder(*images.shape[1:], latent)
        minimise(
            model, lambda rows: model.loss(images[rows], beta), len(images), budget=budget,
            steps=steps, seed=seed,
        )  # fmt: skip
    return model
