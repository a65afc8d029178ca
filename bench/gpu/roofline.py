"""The least time that the hardware allows for the arithmetic and the traffic of an operator."""

from __future__ import annotations

from dataclasses import dataclass

PEAKS = {
    # Data sheets: float32 flop/s outside the tensor cores, bytes/s of memory.
    "H200": (67e12, 4.8e12),
    "H100": (67e12, 3.35e12),
    "A100": (19.5e12, 2.0e12),
    "L40S": (91.6e12, 0.86e12),
    "RTX 4090": (82.6e12, 1.01e12),
}


@dataclass(frozen=True)
class Work:
    """Arithmetic and compulsory memory traffic of one call."""

    flops: float
    bytes: float

    def floor(self, device: str) -> float | None:
        """Seconds at the device's peaks, whichever of the two binds; None for an unknown device."""
        for name, (flops, bandwidth) in PEAKS.items():
            if name in device:
                return max(self.flops / flops, self.bytes / bandwidth)
        return None


def sinkhorn(n: int, batch: int, iterations: int, itemsize: int = 4) -> Work:
    """A whole solve on n x n: four products with n x n matrices per iteration.

    The state stays on chip: a, b and the start are read once, f and g written once.
    """
    return Work(8.0 * n**3 * iterations * batch, 5.0 * n**2 * batch * itemsize)


def log_sum_exp(n: int, batch: int, itemsize: int = 4) -> Work:
    """One half-step: two products; its argument read and its result written once."""
    return Work(4.0 * n**3 * batch, 2.0 * n**2 * batch * itemsize)
