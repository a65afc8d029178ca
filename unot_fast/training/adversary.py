"""The generator that a training asks for."""

from __future__ import annotations

from unot_fast.models import Generator
from unot_fast.training.config import TrainingConfig


def adversary(config: TrainingConfig) -> Generator:
    """With random weights."""
    return Generator(
        config.generator_resolution,
        config.generator_noise,
        scale=config.generator_scale,
        dust=config.generator_dust,
        lipschitz=config.generator_lipschitz,
    )
