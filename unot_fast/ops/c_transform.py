"""The c-transform of a potential, as the minimum of a convex function of every point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unot_fast.ops.autocast import keep_single
from unot_fast.ops.backends import implementation
from unot_fast.ops.potential import check_potential
from unot_fast.ops.shapes import expect, expect_alike
from unot_fast.ops.tangents import refuse_tangents

torch.library.define(
    "unot_fast::c_transform",
    "(Tensor z, Tensor? labels, Tensor start, Tensor tolerance, Tensor maps, Tensor[] hidden, "
    "Tensor bias, Tensor top, Tensor linear, Tensor? preconditioner, float strong, "
    "float sharpness, int memory, int max_iter, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
_MODULES = {
    "cpu": "unot_fast.ops._cpu_potential",
    "triton": "unot_fast.kernels.c_transform",
    "reference": "unot_fast.reference.c_transform",
}
MEMORY = range(1, 17)


class Minimum(NamedTuple):
    """Where a search ended, for every point."""

    y: Tensor  # (B, d)
    residual: Tensor  # (B,), the length of the gradient there
    n_iters: Tensor  # (B,), int32, gradients taken
    converged: Tensor  # (B,), bool


@torch.library.impl("unot_fast::c_transform", "CompositeExplicitAutograd")
def _impl(
    z, labels, start, tolerance, maps, hidden, bias, top, linear, preconditioner, strong,
    sharpness, memory, max_iter, backend,
):  # fmt: skip
    check_potential("c_transform", z, labels, maps, hidden, bias, top, linear, sharpness)
    expect_alike(
        "c_transform", z=z, start=start, tolerance=tolerance, preconditioner=preconditioner
    )
    dim = z.shape[1]
    expect(
        "c_transform", start=(start, z.shape), tolerance=(tolerance, z.shape[:1]),
        preconditioner=(preconditioner, (dim, dim)),
    )  # fmt: skip
    if memory not in MEMORY:
        raise ValueError(f"c_transform: memory must be in 1..{MEMORY[-1]}; got {memory}")
    if max_iter < 1:
        raise ValueError(f"c_transform: max_iter must be positive; got {max_iter}")
    return implementation("c_transform", backend, _MODULES)(
        z, labels, start, tolerance, maps, hidden, bias, top, linear, preconditioner, strong,
        sharpness, memory, max_iter,
    )  # fmt: skip


@torch.library.register_fake("unot_fast::c_transform")
def _fake(z, *rest):
    batch = z.shape[:1]
    return (
        torch.empty_like(z, memory_format=torch.contiguous_format),
        z.new_empty(batch),
        z.new_empty(batch, dtype=torch.int32),
        z.new_empty(batch, dtype=torch.bool),
    )


def _no_derivative(ctx, *grads):
    raise RuntimeError("c_transform: where the minimum is has no derivative here, its value has")


torch.library.register_autograd("unot_fast::c_transform", _no_derivative)
keep_single("c_transform")


def c_transform(
    z: Tensor,
    labels: Tensor | None,
    start: Tensor,
    tolerance: Tensor,
    maps: Tensor,
    hidden: Sequence[Tensor],
    bias: Tensor,
    top: Tensor,
    linear: Tensor,
    preconditioner: Tensor | None = None,
    *,
    strong: float,
    sharpness: float,
    memory: int,
    max_iter: int,
    backend: str,
) -> Minimum:
    r"""The minimum over y of :math:`u(y) - z \cdot y`, u being that of `potential`.

    A search of limited memory for every point, each with its own line search: a trial is taken
    where the slope along the step has not turned upwards by more than half of what it was, and
    every trial teaches the curvature. A point ends when the length of its gradient is below its
    own tolerance. Values are not looked at: of a u that is not convex it may end at a maximum, or
    above its start, which `unot_fast.c_transform` sees to.

    Parameters
    ----------
    z, start : Tensor, shape (B, d), float32 or float64
    tolerance : Tensor, shape (B,)
    labels, maps, hidden, bias, top, linear, strong, sharpness
        Those of `potential`.
    preconditioner : Tensor, shape (d, d), optional
        Symmetric, positive definite, about the inverse of the Hessian of u; the identity if None.
    memory : int
        Steps that a search remembers, 1 to 16.
    max_iter : int
        Gradients that a point may take.
    backend : str
        ``"cpu"``, ``"triton"`` (float32, up to 256 dimensions) or ``"reference"``.

    Returns
    -------
    Minimum
    """
    refuse_tangents("c_transform", z, maps, *hidden, bias, top, linear)
    found = torch.ops.unot_fast.c_transform(
        z, labels, start, tolerance, maps, list(hidden), bias, top, linear, preconditioner,
        strong, sharpness, memory, max_iter, backend,
    )  # fmt: skip
    return Minimum(*found)
