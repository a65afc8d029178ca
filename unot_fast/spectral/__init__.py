"""Fourier layers on a few modes, and faster layers for models that have them."""

from unot_fast.spectral.accelerate import Acceleration, accelerate, restore
from unot_fast.spectral.conv import (
    spectral_backend,
    spectral_conv1d,
    spectral_conv2d,
    spectral_conv3d,
)
from unot_fast.spectral.sphere import spectral_conv_s2

__all__ = [
    "Acceleration",
    "accelerate",
    "restore",
    "spectral_backend",
    "spectral_conv1d",
    "spectral_conv2d",
    "spectral_conv3d",
    "spectral_conv_s2",
]
