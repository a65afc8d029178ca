"""How far the backends of a spectral layer are from its float64 reference, gradients included."""

from __future__ import annotations

import torch

# Sums of a few thousand products, in each precision.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 3e-5}
BFLOAT16 = 3e-2  # of factors rounded to 8 bits


def compare(operator, arguments, backend, dtype, *, device="cpu", tolerance=None, **options):
    """Assert that ``operator(*arguments)`` and its gradients agree with the reference.

    ``arguments`` are float64 tensors, None, or lists of tensors that carry no gradient.
    """
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    expected = run(operator, arguments, "reference", torch.float64, device, **options)
    found = run(operator, arguments, backend, dtype, device, **options)
    for name, x, y in zip(("value", *range(len(found) - 1)), found, expected, strict=True):
        assert x.dtype == dtype
        scale = y.abs().max().clamp_min(1e-30)
        error = float((x.double() - y).abs().max() / scale) if y.numel() else 0.0
        assert error < tolerance, f"{name}: {error:.1e}"


def run(operator, arguments, backend, dtype, device="cpu", **options):
    """The value, and the gradients of all arguments that have one."""
    leaves, converted = [], []
    for x in arguments:
        if isinstance(x, torch.Tensor):
            x = x.to(device, dtype).detach().requires_grad_()
            leaves.append(x)
        elif isinstance(x, list):
            x = [t.to(device, dtype) for t in x]
        converted.append(x)
    out = operator(*converted, backend=backend, **options)
    weight = torch.randn(out.shape, dtype=torch.float64, generator=torch.manual_seed(1))
    return out.detach(), *torch.autograd.grad((out * weight.to(out)).sum(), leaves)


def check_second_derivatives(operator, arguments, **options):
    """Assert that they are those of finite differences, in all arguments and in the first alone."""
    leaves = [x.requires_grad_() for x in arguments if isinstance(x, torch.Tensor)]

    def squares(*tensors):
        given = iter(tensors)
        every = (next(given) if isinstance(x, torch.Tensor) else x for x in arguments)
        return operator(*every, **options).square()

    assert torch.autograd.gradgradcheck(squares, leaves)
    first, *others = leaves
    others = [x.detach() for x in others]
    assert torch.autograd.gradgradcheck(lambda x: squares(x, *others), first)


def normal(*shape, scale=1.0):
    return torch.randn(*shape, dtype=torch.float64) * scale
