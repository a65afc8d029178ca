"""A potential of input-convex shape at a batch of points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops import _torch_potential
from unot_fast.ops.autocast import keep_single
from unot_fast.ops.backends import implementation
from unot_fast.ops.returning import separate
from unot_fast.ops.shapes import expect, expect_alike
from unot_fast.ops.tangents import refuse_tangents

_WEIGHTS = (
    "Tensor x, Tensor? labels, Tensor maps, Tensor[] hidden, Tensor bias, Tensor top, "
    "Tensor linear, float strong, float sharpness"
)
for _name, _first, _result in (
    ("potential", "", "Tensor"),
    ("potential_gradient", "", "Tensor"),
    ("potential_vjp", "Tensor grad, ", "Tensor[]"),
):
    torch.library.define(
        f"unot_fast::{_name}",
        f"({_first}{_WEIGHTS}, str backend) -> {_result}",
        tags=torch.Tag.pt2_compliant_tag,
    )

_MODULES = {
    "cpu": "unot_fast.ops._cpu_potential",
    "torch": "unot_fast.ops._torch_potential",
    "reference": "unot_fast.reference.potential",
}
_GRADIENT_MODULES = _MODULES | {"triton": "unot_fast.kernels.potential"}


def check_potential(
    operator: str, x: Tensor, labels, maps, hidden, bias, top, linear, sharpness: float
) -> None:
    """Raise unless the arguments are those of one potential."""
    expect_alike(operator, hidden, x=x, maps=maps, bias=bias, top=top, linear=linear)
    widths = [*(v.shape[1] for v in hidden), top.shape[0]]
    dim, classes = x.shape[1], bias.shape[0]
    expect(
        operator, bias=(bias, (classes, sum(widths))), linear=(linear, (classes, dim)),
        labels=(labels, x.shape[:1]), maps=(maps, (maps.shape[0], dim)),
        **{f"hidden[{k}]": (v, (widths[k + 1], widths[k])) for k, v in enumerate(hidden)},
    )  # fmt: skip
    if maps.shape[0] < 2 * sum(widths):
        raise ValueError(f"{operator}: maps must have at least {2 * sum(widths)} rows")
    if labels is not None and labels.dtype is not torch.int64:
        raise TypeError(f"{operator}: labels must be int64; got {labels.dtype}")
    if labels is None and classes != 1:
        raise ValueError(f"{operator}: labels are needed, for {classes} classes")
    if not sharpness > 0:
        raise ValueError(f"{operator}: sharpness must be positive; got {sharpness}")


@torch.library.impl("unot_fast::potential", "CompositeExplicitAutograd")
def _impl(x, *rest):
    *inputs, _, sharpness, backend = rest
    check_potential("potential", x, *inputs, sharpness)
    return implementation("potential", backend, _MODULES)(x, *rest[:-1]).contiguous()


@torch.library.impl("unot_fast::potential_gradient", "CompositeExplicitAutograd")
def _impl_gradient(x, *rest):
    *inputs, _, sharpness, backend = rest
    check_potential("potential_gradient", x, *inputs, sharpness)
    return implementation("potential_gradient", backend, _GRADIENT_MODULES)(
        x, *rest[:-1]
    ).contiguous()


@torch.library.impl("unot_fast::potential_vjp", "CompositeExplicitAutograd")
def _impl_vjp(grad, x, labels, maps, hidden, bias, top, linear, *options):
    weights = (maps, hidden, bias, top, linear)
    vjp = implementation("potential_vjp", options[-1], _MODULES)
    found = vjp(grad, x, labels, *weights, *options[:-1])
    return list(separate(found, (x, maps, bias, top, linear, *hidden)))


@torch.library.register_fake("unot_fast::potential")
def _fake(x, *rest):
    return x.new_empty(x.shape[0])


@torch.library.register_fake("unot_fast::potential_gradient")
def _fake_gradient(x, *rest):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.register_fake("unot_fast::potential_vjp")
def _fake_vjp(grad, x, labels, maps, hidden, bias, top, linear, strong, sharpness, backend):
    return [t.new_empty(t.shape) for t in (x, maps, bias, top, linear, *hidden)]


def _setup_context(ctx, inputs, output) -> None:
    x, labels, maps, hidden, bias, top, linear, *ctx.options = inputs
    ctx.has_labels = labels is not None
    ctx.save_for_backward(x, maps, bias, top, linear, *hidden, *([labels] * ctx.has_labels))


def _backward(ctx, grad: Tensor):
    x, maps, bias, top, linear, *hidden = ctx.saved_tensors
    labels = hidden.pop() if ctx.has_labels else None
    dx, dmaps, dbias, dtop, dlinear, *dhidden = torch.ops.unot_fast.potential_vjp(
        grad, x, labels, maps, hidden, bias, top, linear, *ctx.options
    )
    return dx, None, dmaps, dhidden, dbias, dtop, dlinear, None, None, None


torch.library.register_autograd("unot_fast::potential", _backward, setup_context=_setup_context)


def _no_derivative(ctx, *grads):
    raise RuntimeError("potential: second derivatives are those of backend='torch' alone")


torch.library.register_autograd("unot_fast::potential_gradient", _no_derivative)
torch.library.register_autograd("unot_fast::potential_vjp", _no_derivative)
keep_single("potential", "potential_gradient", "potential_vjp")


def potential(
    x: Tensor,
    labels: Tensor | None,
    maps: Tensor,
    hidden: Sequence[Tensor],
    bias: Tensor,
    top: Tensor,
    linear: Tensor,
    *,
    strong: float,
    sharpness: float,
    backend: str,
) -> Tensor:
    r"""A potential of input-convex shape, differentiable in all its tensors.

    .. math::

        p_l = V_l h_{l-1} + (R_l x)^2 + W_l x + b_l, \qquad
        h_l = \tfrac1s \log(1 + e^{s p_l}),

        u(x) = w \cdot h_L + \tfrac12 |A x|^2 + \tfrac\alpha2 |x|^2 + c \cdot x

    u is convex where all V and w are nonnegative. With input-convex networks as potentials:
    Amos, Xu and Kolter (ICML 2017); quadratic skips: Korotin et al. (ICLR 2021).

    Parameters
    ----------
    x : Tensor, shape (B, d), float32 or float64
    labels : Tensor, shape (B,), int64, optional
        The class of every point; may be None where there is one class.
    maps : Tensor, shape (2 (n_1 + ... + n_L) + r, d)
        W_1, R_1, ..., W_L, R_L and A, one under the other; r may be 0.
    hidden : sequence of Tensor, shapes (n_l, n_(l-1)), l = 2..L
        V.
    bias : Tensor, shape (classes, n_1 + ... + n_L)
        b of every class.
    top : Tensor, shape (n_L,)
        w.
    linear : Tensor, shape (classes, d)
        c of every class.
    strong : float
        alpha.
    sharpness : float
        s.
    backend : str
        ``"cpu"``, ``"torch"`` or ``"reference"``.

    Returns
    -------
    Tensor, shape (B,)
    """
    refuse_tangents("potential", x, maps, *hidden, bias, top, linear)
    return torch.ops.unot_fast.potential(
        x, labels, maps, list(hidden), bias, top, linear, strong, sharpness, backend
    )


def potential_gradient(
    x: Tensor,
    labels: Tensor | None,
    maps: Tensor,
    hidden: Sequence[Tensor],
    bias: Tensor,
    top: Tensor,
    linear: Tensor,
    *,
    strong: float,
    sharpness: float,
    backend: str,
) -> Tensor:
    """The gradient of `potential` in x, shape (B, d).

    ``backend`` may be ``"triton"`` too, in float32 and for up to 256 dimensions.
    With ``backend="torch"`` it is differentiable, any number of times; else it is not.
    """
    if backend == "torch":
        return _torch_potential.potential_gradient(
            x, labels, maps, hidden, bias, top, linear, strong, sharpness
        )
    refuse_tangents("potential_gradient", x, maps, *hidden, bias, top, linear)
    return torch.ops.unot_fast.potential_gradient(
        x, labels, maps, list(hidden), bias, top, linear, strong, sharpness, backend
    )
