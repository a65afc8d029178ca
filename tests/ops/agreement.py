"""How far the backends of a spectral layer are from its float64 reference, gradients included."""

from __future__ import annotations

import torch

# Sums of a few thousand products, in each precision.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 3e-5}


def compare(operator, arguments, backend, dtype, **options):
    """Assert that ``operator(*arguments)`` and its gradients agree with the reference.

    ``arguments`` are float64 tensors, None, or lists of tensors that carry no gradient.
    """
    expected = _run(operator, arguments, "reference", torch.float64, options)
    found = _run(operator, arguments, backend, dtype, options)
    for name, x, y in zip(("value", *range(len(found) - 1)), found, expected, strict=True):
        assert x.dtype == dtype
        scale = y.abs().max().clamp_min(1e-30)
        error = float((x.double() - y).abs().max() / scale) if y.numel() else 0.0
        assert error < TOLERANCE[dtype], f"{name}: {error:.1e}"


def _run(operator, arguments, backend, dtype, options):
    leaves, converted = [], []
    for x in arguments:
        if isinstance(x, torch.Tensor):
            x = x.to(dtype).requires_grad_()
            leaves.append(x)
        elif isinstance(x, list):
            x = [t.to(dtype) for t in x]
        converted.append(x)
    out = operator(*converted, backend=backend, **options)
    weight = torch.randn(out.shape, dtype=torch.float64, generator=torch.manual_seed(1))
    return out.detach(), *torch.autograd.grad((out * weight.to(dtype)).sum(), leaves)


def normal(*shape, scale=1.0):
    return torch.randn(*shape, dtype=torch.float64) * scale
