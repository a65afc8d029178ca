"""Functions on a grid from a few modes, with the pointwise rest of a Fourier layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unot_fast.ops import _torch
from unot_fast.ops.autocast import keep_single
from unot_fast.ops.backends import implementation
from unot_fast.ops.complex_tables import adjoint
from unot_fast.ops.folding import register_vmap
from unot_fast.ops.keeping import expect_kept, is_recorded, passed_on, room_for_kept, shape_of_kept
from unot_fast.ops.returning import asked_for, separate
from unot_fast.ops.second_derivatives import pull_back
from unot_fast.ops.shapes import expect, expect_alike, expect_mlp
from unot_fast.ops.shortcut import shortcut
from unot_fast.ops.spectral_analysis import spectral_analysis
from unot_fast.ops.spectral_empty import unless_empty
from unot_fast.ops.tangents import refuse_tangents

_OPTIONAL = ("x", "skip", "bias", "w1", "b1", "w2", "b2", "gate")
_DATA = (0, 1)  # c and x, which are no weights
_ARGUMENTS = ", ".join(
    ("Tensor c", "Tensor[] tables", *(f"Tensor? {name}" for name in _OPTIONAL), "bool gelu")
)

torch.library.define(
    "unot_fast::spectral_synthesis",
    f"({_ARGUMENTS}, bool keep, str backend) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "unot_fast::spectral_synthesis_vjp",
    f"(Tensor grad, {_ARGUMENTS}, Tensor kept, bool weights, str backend) "
    f"-> ({', '.join(['Tensor'] * 9)})",
    tags=torch.Tag.pt2_compliant_tag,
)

_MODULES = {
    "cpu": "unot_fast.ops._cpu",
    "triton": "unot_fast.kernels.spectral_synthesis",
    "torch": "unot_fast.ops._torch",
    "reference": "unot_fast.reference.spectral_synthesis",
}


def _impl(c, tables, *rest):
    *rest, keep, backend = rest
    optional = dict(zip(_OPTIONAL, rest, strict=False))
    expect_alike("spectral_synthesis", tables, c=c, **optional)
    _check(c, tables, *rest)
    room = _kept(c, tables, *rest, keep, backend)
    backend = unless_empty(backend, c, *tables, *optional.values())
    kept = room_for_kept(c, room, backend)
    synthesis = implementation("spectral_synthesis", backend, _MODULES)
    return synthesis(c, tables, *rest, **passed_on(kept, backend)).contiguous(), kept


torch.library.impl("unot_fast::spectral_synthesis", "CompositeExplicitAutograd", _impl)


def _kept(c, tables, x, skip, bias, w1, b1, w2, b2, gate, gelu, keep, backend):
    shape = c.shape[0], c.shape[1], *_points(c, tables)
    return shape_of_kept(shape, keep and (gelu or w1 is not None), backend)


def _points(c, tables):
    return *c.shape[2 : -len(tables) - 1], *(t.shape[0] for t in tables)


def _check(c, tables, x, skip, bias, w1, b1, w2, b2, gate, gelu) -> None:
    name, d, out = "spectral_synthesis", len(tables), c.shape[1]
    if c.ndim - d not in ((3, 4) if d == 1 else (3,)) or c.shape[-d - 1] != 2:
        raise ValueError(
            f"{name}: c must have shape (B, O, 2, m_1, ..., m_d), with points of a first axis "
            f"before the 2 where d is 1; got {tuple(c.shape)} and {d} tables"
        )
    for m, table in zip(c.shape[-d:], tables, strict=True):
        expect(name, table=(table, (table.shape[0], m, 2)))
    points = _points(c, tables)
    channels = 0 if x is None else x.shape[1]
    expect(
        name, x=(x, (c.shape[0], channels, *points)), skip=(skip, (out, channels)),
        bias=(bias, (out,)), gate=(gate, (channels,)),
    )  # fmt: skip
    if w1 is not None:
        _, out = expect_mlp(name, out, w1, b1, w2, b2)
    if gate is not None and out != channels:
        raise ValueError(f"{name}: a gated x needs {channels} channels in the result; got {out}")


@torch.library.impl("unot_fast::spectral_synthesis_vjp", "CompositeExplicitAutograd")
def _impl_vjp(grad, c, tables, *rest):
    *rest, kept, weights, backend = rest
    optional = dict(zip(_OPTIONAL, rest, strict=False))
    expect_alike("spectral_synthesis_vjp", tables, c=c, **optional, grad=grad, kept=kept)
    expect_kept("spectral_synthesis_vjp", kept, (*c.shape[:2], *_points(c, tables)))
    backend = unless_empty(backend, c, *tables, *optional.values())
    vjp = implementation("spectral_synthesis_vjp", backend, _MODULES)
    found = vjp(grad, c, tables, *rest, weights, **passed_on(kept, backend))
    return separate(found, asked_for((c, *optional.values()), _DATA, weights))


@torch.library.register_fake("unot_fast::spectral_synthesis")
def _fake(c, tables, *rest):
    w2 = rest[5]
    channels = c.shape[1] if w2 is None else w2.shape[0]
    out = c.new_empty((c.shape[0], channels, *_points(c, tables)))
    return out, c.new_empty(_kept(c, tables, *rest))


@torch.library.register_fake("unot_fast::spectral_synthesis_vjp")
def _fake_vjp(grad, c, tables, *rest):
    *optional, _, _, weights, _ = rest
    inputs = asked_for((c, *optional), _DATA, weights)
    return tuple(c.new_empty(0 if t is None else t.shape) for t in inputs)


def _setup_context(ctx, inputs, output) -> None:
    c, tables, *optional, ctx.gelu, _, ctx.backend = inputs
    ctx.set_materialize_grads(False)  # none of what is kept
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(c, output[1], *optional, *tables)


def _backward(ctx, grad: Tensor, _):
    c, kept, *rest = ctx.saved_tensors
    optional, tables = rest[: len(_OPTIONAL)], rest[len(_OPTIONAL) :]
    if grad is None:
        return None, [None] * len(tables), *(None for _ in optional), None, None, None
    if not ctx.gelu and all(t is None for t in optional):
        dc = spectral_analysis(grad, [adjoint(t) for t in tables], backend=ctx.backend)
        found = optional
    else:
        weights = any(ctx.needs_input_grad[3:11])
        refuse_tangents("spectral_synthesis", grad)
        dc, *found = torch.ops.unot_fast.spectral_synthesis_vjp(
            grad, c, tables, *optional, ctx.gelu, kept, weights, ctx.backend
        )
        _, *optional = asked_for((c, *optional), _DATA, weights)
        found = [d if t is not None else None for d, t in zip(found, optional, strict=True)]
    return dc, [None] * len(tables), *found, None, None, None


torch.library.register_autograd(
    "unot_fast::spectral_synthesis", _backward, setup_context=_setup_context
)


def _setup_second(ctx, inputs, output) -> None:
    grad, c, tables, *optional, ctx.gelu, _, ctx.weights, _ = inputs
    ctx.save_for_backward(grad, c, *optional, *tables)


def _backward_second(ctx, *cotangents: Tensor):
    count = 2 + len(_OPTIONAL)
    tensors, tables = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
    need_grad, need_c, _, *need = ctx.needs_input_grad[: count + 1]
    dgrad, dc, *found = pull_back(
        lambda grad, c, *t: _torch.spectral_synthesis_vjp(
            grad, c, tables, *t, ctx.gelu, ctx.weights
        ),
        tensors, (need_grad, need_c, *need), cotangents,
    )  # fmt: skip
    return dgrad, dc, [None] * len(tables), *found, None, None, None, None


torch.library.register_autograd(
    "unot_fast::spectral_synthesis_vjp", _backward_second, setup_context=_setup_second
)
register_vmap("spectral_synthesis", 0, 2)
register_vmap("spectral_synthesis_vjp")
keep_single("spectral_synthesis", "spectral_synthesis_vjp")


def spectral_synthesis(
    c: Tensor,
    tables: Sequence[Tensor],
    x: Tensor | None = None,
    skip: Tensor | None = None,
    bias: Tensor | None = None,
    w1: Tensor | None = None,
    b1: Tensor | None = None,
    w2: Tensor | None = None,
    b2: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    gelu: bool = False,
    backend: str,
) -> Tensor:
    r"""Real functions on a grid from coefficients, and the pointwise rest of a Fourier block.

    .. math::
        h(i) &= \sigma\Bigl(\mathrm{Re} \sum_k T_1(i_1, k_1) \cdots T_d(i_d, k_d)\, c(k)
                + W x(i) + \beta\Bigr) \\
        y(i) &= \sigma\bigl(W_2\, \mathrm{gelu}(W_1 h(i) + \beta_1) + \beta_2
                + \gamma x(i)\bigr)

    Where there is no ``w1``, y is h, with the term of the gate in its sum. Nothing between the
    arguments and y is written to memory, but for what the CPU keeps of the inner activation for a
    backward pass. Second derivatives are computed by torch, without a kernel, where there is more
    than the sum over k.

    Parameters
    ----------
    c : Tensor, shape (B, O, 2, m_1, ..., m_d), float32 or float64
        Or (B, O, n_1, 2, m_2), with points in place of modes on the first axis.
    tables : sequence of d Tensors, shape (n_k, m_k, 2)
        Of the dtype of ``c``, like all others; one for each axis that has modes.
    x : Tensor, shape (B, C, n_1, ..., n_d), optional
        Goes with ``skip`` and ``gate``.
    skip : Tensor, shape (O, C), optional
        W.
    bias : Tensor, shape (O,), optional
    w1, b1 : Tensor, shapes (H, O) and (H,), optional
    w2, b2 : Tensor, shapes (P, H) and (P,), optional
        The second layer; goes with ``w1``.
    gate : Tensor, shape (C,), optional
        The factor of ``x`` before the last activation; needs as many channels in the result.
    gelu : bool
        Whether the activation of h and y is the GELU, with the exact distribution function, or
        none.
    backend : str
        ``"cpu"`` (d <= 2), ``"triton"`` (d <= 2, float32), ``"torch"`` or ``"reference"``.

    Returns
    -------
    Tensor, shape (B, O, n_1, ..., n_d), or P channels
    """
    if skip is None and gate is None:
        x = None
    refuse_tangents("spectral_synthesis", c, x, skip, bias, w1, b1, w2, b2, gate)
    optional = x, skip, bias, w1, b1, w2, b2, gate
    keep = is_recorded(c, *optional)
    run = shortcut(torch.ops.unot_fast.spectral_synthesis, _impl, c, *tables, *optional)
    out, _ = run(c, list(tables), *optional, gelu, keep, backend)
    return out
