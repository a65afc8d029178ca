"""The least time that the hardware allows for the arithmetic and the traffic of an operator."""

from __future__ import annotations

from dataclasses import dataclass

PEAKS = {
    # Data sheets: flop/s in float32 outside the tensor cores, in tf32 on them, bytes/s of memory.
    "H200": (67e12, 494e12, 4.8e12),
    "H100": (67e12, 494e12, 3.35e12),
    "A100": (19.5e12, 156e12, 2.0e12),
    "L40S": (91.6e12, 183e12, 0.86e12),
    "RTX 4090": (82.6e12, 82.6e12, 1.01e12),
}


@dataclass(frozen=True)
class Work:
    """Arithmetic and compulsory memory traffic of one call.

    ``products`` is how many tf32 products make one of float32 on the tensor cores: 3 for float32's
    accuracy, 1 for tf32's, 0.5 for bfloat16's, 0 for work that goes elsewhere.
    """

    flops: float
    bytes: float
    products: float = 0

    def floor(self, device: str) -> float | None:
        """Seconds at the device's peaks, whichever of the two binds; None for an unknown device."""
        for name, (flops, tensor, bandwidth) in PEAKS.items():
            if name in device:
                rate = tensor / self.products if self.products else flops
                return max(self.flops / rate, self.bytes / bandwidth)
        return None


def sinkhorn(n: int, batch: int, iterations: int, itemsize: int = 4) -> Work:
    """A whole solve on n x n: four products with n x n matrices per iteration.

    The state stays on chip: a, b and the start are read once, f and g written once.
    """
    return Work(8.0 * n**3 * iterations * batch, 5.0 * n**2 * batch * itemsize)


def log_sum_exp(n: int, batch: int, itemsize: int = 4) -> Work:
    """One half-step: two products; its argument read and its result written once."""
    return Work(4.0 * n**3 * batch, 2.0 * n**2 * batch * itemsize)


def spectral_analysis(n: int, images: int, modes: int, products: float) -> Work:
    """n x n values to modes x modes coefficients; float32, as all that follow."""
    flops = 4.0 * n**2 * modes + 8.0 * n * modes**2
    return Work(flops * images, 4.0 * images * (n**2 + 2 * modes**2), products)


def spectral_mixing(batch: int, channels: int, out: int, modes: int, products: float) -> Work:
    """A complex matrix and a bias for each of modes x modes."""
    size = modes**2 * (batch * (channels + out) + out * (channels + 1))
    return Work(8.0 * batch * channels * out * modes**2, 8.0 * size, products)


def spectral_synthesis(n: int, batch: int, channels: int, modes: int, products: float) -> Work:
    """Coefficients to values, with a bypass of as many channels: its input is read too."""
    transform = spectral_analysis(n, batch * channels, modes, products)
    flops = transform.flops + 2.0 * n**2 * batch * channels**2
    return Work(flops, transform.bytes + field(n, batch, channels), products)


def channel_mlp(n: int, batch: int, channels: int, hidden: int, products: float) -> Work:
    """Two layers with a residual: two fields are read and one is written."""
    flops = 4.0 * n**2 * batch * channels * hidden
    return Work(flops, 3 * field(n, batch, channels), products)


def spectral_block(
    n: int, batch: int, channels: int, hidden: int, modes: int, products: float, backward: bool
) -> Work:
    """A layer of UNOT, forward or with its gradients.

    Every coefficient needs all of the field, and every value all of its coefficients, so that both
    are read twice: x forward, x and the gradient backward. y and the gradient of x are written
    once, and coefficients stay on chip. Weights are read once each way, their gradients written.
    """
    transforms = spectral_synthesis(n, batch, channels, modes, products).flops
    transforms += spectral_analysis(n, batch * channels, modes, products).flops
    mixing = 2 * spectral_mixing(batch, channels, hidden, modes, products).flops
    weights = 8.0 * modes**2 * hidden * (2 * channels + 1)
    passes, copies, times = (8, 3, 3) if backward else (3, 1, 1)
    return Work(
        times * (transforms + mixing),
        passes * field(n, batch, channels) + copies * weights,
        products,
    )


def spectral_network(
    n: int, batch: int, channels: int, hidden: int, modes: int, layers: int, products: float,
    backward: bool,
) -> Work:  # fmt: skip
    """Layers of UNOT between pointwise ones from 2 channels and to 1."""
    block = spectral_block(n, batch, channels, hidden, modes, products, backward)
    ends = 5 * channels + 6 if backward else 2 * channels + 3
    return Work(layers * block.flops, layers * block.bytes + field(n, batch, ends), products)


def field(n: int, batch: int, channels: int) -> float:
    """Bytes of a float32 field."""
    return 4.0 * n**2 * batch * channels
