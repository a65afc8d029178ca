"""What a Fourier layer does on the grid: synthesis, bypass, bias, GELU and channel MLP in one pass.

A program owns a stretch of the rows of all samples and takes them a few columns at a time, with
all channels. What one product leaves for the next goes through a small scratch area of the program,
which stays in cache, so that every product streams its factors in slices and no tile is ever held
whole but the sums. Gradients of weights are summed in registers over the stretch and then in the
order of the programs, so results do not change from run to run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from unot_fast.kernels.first_axis import to_lines, to_modes
from unot_fast.kernels.gelu import gelu_and_slope, gelu_slope, normal_cdf
from unot_fast.kernels.products import add_product, dot, padded, parts, precision, programs
from unot_fast.kernels.spectral_analysis import spectral_analysis

WIDEST = 128
_MODES = 32  # of either axis, for both transforms to be part of the pass


class Layer:
    r"""A layer and its gradients, on a grid.

    .. math:: h = \sigma(\mathrm{Re}\, T c + W x + \beta), \quad
              y = \sigma(W_2\, \mathrm{gelu}(W_1 h + \beta_1) + \beta_2 + \gamma r)

    h = x where there is no ``c``; y = h where there is no ``w1``, with :math:`\gamma r` inside. r
    is ``residual``, or x. Other arguments are those of `unot_fast.ops.spectral_synthesis`.
    """

    def __init__(
        self,
        c: Tensor | None,
        tables: Sequence[Tensor],
        x: Tensor | None,
        skip: Tensor | None,
        bias: Tensor | None,
        w1: Tensor | None,
        b1: Tensor | None,
        w2: Tensor | None,
        b2: Tensor | None,
        residual: Tensor | None,
        gate: Tensor | None,
        gelu: bool,
    ):
        # kind: 0 without coefficients, 1 with those of lines, 2 with those of both axes.
        self.tables = [t.contiguous() for t in tables]
        self.one_source = c is not None  # of the bypass and of the gated residual
        if c is None:
            points, m1, m2, kind = x.shape[2:], 0, 0, 0
        else:
            lead = c.shape[2 : c.ndim - len(tables) - 1]
            points = *lead, *(t.shape[0] for t in tables)
            c, m1, m2, kind = c.contiguous(), 1, c.shape[-1], 1
            if len(tables) == 2 and max(c.shape[-2:]) <= _MODES:
                m1, kind = c.shape[-2], 2
            elif len(tables) == 2:
                c = to_lines(c, self.tables[0])
            residual = x if gate is not None else None
            x = x if skip is not None else None
        first = self.tables[0] if kind == 2 else None
        last = self.tables[-1] if tables else None
        optional = (x, skip, bias, w1, b1, w2, b2, residual, gate)
        self.tensors = [None if t is None else t.contiguous() for t in (c, first, last, *optional)]
        self.like = x if c is None else c
        c_h, c_x = self.like.shape[1], 0 if x is None else x.shape[1]
        c_m, c_y = (0, c_h) if w1 is None else (w1.shape[0], w2.shape[0])
        if max(c_h, c_x, c_y) > WIDEST or c_m > 2 * WIDEST:
            raise ValueError(
                f"backend 'triton' takes up to {WIDEST} channels, and twice as many between the "
                f"layers of an MLP; got {c_x or c_h}, {c_h}, {c_m} and {c_y}"
            )
        self.points, self.kind, self.narrow = points, kind, max(c_h, c_x, c_m, c_y) <= 64
        self.rows = len(self.like) * math.prod(points[:-1])
        self.lengths = (
            self.rows, math.prod(points[:-1]), points[-1], m1, m2, c_h, c_x, c_m, c_y
        )  # fmt: skip
        self.constants = {
            "KIND": kind, "GELU": gelu, "COLS": min(padded(points[-1]), 32),
            "M2": min(padded(m2, 8), _MODES), "C_H": padded(c_h), "C_X": padded(c_x),
            "C_M": padded(c_m), "C_Y": padded(c_y), "DEPTH": 16, "PRECISION": precision(),
        }  # fmt: skip

    def value(self) -> Tensor:
        y = self.like.new_empty(len(self.like), self.lengths[-1], *self.points)
        if y.numel():
            count = programs(y, self.rows, 4)
            with torch.cuda.device_of(y):
                _value_kernel[(count,)](
                    *self.tensors, y, self._scratch(count, backward=False), *self.lengths,
                    **self.constants, num_warps=4 if self.narrow else 8, num_stages=1,
                )  # fmt: skip
        return y

    def vjp(self, grad: Tensor) -> tuple[Tensor, ...]:
        """Of c, x, skip, bias, w1, b1, w2, b2, residual and gate; empty for what is not there.

        Where x and the residual are one, x has all of it.
        """
        _, _, _, x, skip, bias, w1, b1, w2, b2, residual, gate = self.tensors
        m2, c_h = self.lengths[4:6]
        count = programs(grad, self.rows, 2)
        shares = [
            None if t is None else grad.new_zeros(count, *t.shape)
            for t in (skip, bias, w1, b1, w2, b2, gate)
        ]
        dx = dr = dlines = dz = None
        if x is not None or (self.one_source and residual is not None):
            dx = torch.empty_like(residual if x is None else x)
        if residual is not None and not self.one_source:
            dr = torch.empty_like(residual)
        if self.kind and m2 <= _MODES:
            dlines = grad.new_empty(len(grad), c_h, *self.points[:-1], 2, m2)
        elif self.kind:
            dz = grad.new_empty(len(grad), c_h, *self.points)
        if grad.numel():
            with torch.cuda.device_of(grad):
                _vjp_kernel[(count,)](
                    *self.tensors, grad.contiguous(), dx, dr, dlines, dz, *shares,
                    self._scratch(count, backward=True), *self.lengths, **self.constants,
                    num_warps=8, num_stages=1,
                )  # fmt: skip
        dskip, *mlp, dgate = (grad.new_empty(0) if t is None else t.sum(0) for t in shares)
        dx, dr = (grad.new_empty(0) if t is None else t for t in (dx, dr))
        return self._to_modes(dlines, dz, grad), dx, dskip, *mlp, dr, dgate

    def _to_modes(self, dlines: Tensor | None, dz: Tensor | None, grad: Tensor) -> Tensor:
        if self.kind == 0:
            return grad.new_empty(0)
        if dz is not None:
            return spectral_analysis(dz, [_adjoint(t) for t in self.tables])
        return to_modes(dlines, _adjoint(self.tables[0])) if len(self.tables) == 2 else dlines

    def _scratch(self, count: int, backward: bool) -> Tensor:
        """Room for a line of modes and for the tiles between products, as the kernels have it."""
        c_h, c_m, c_y, columns = (self.constants[k] for k in ("C_H", "C_M", "C_Y", "COLS"))
        if self.tensors[6] is None:  # w1
            c_m = c_y = 0
        tiles = 2 * c_h + 2 * c_m + c_y if backward else c_h + c_m
        return self.like.new_empty(count, c_h * 2 * self.lengths[4] + tiles * columns)


def _adjoint(table: Tensor) -> Tensor:
    re, im = table.transpose(0, 1).unbind(-1)
    return torch.stack((re, -im), -1)


@triton.jit
def _value_kernel(
    c, first, last, x, skip, bias, w1, b1, w2, b2, residual, gate, y, scratch, rows, n1, n2, m1, m2,
    c_h, c_x, c_m, c_y, KIND: tl.constexpr, GELU: tl.constexpr, COLS: tl.constexpr,
    M2: tl.constexpr, C_H: tl.constexpr, C_X: tl.constexpr, C_M: tl.constexpr, C_Y: tl.constexpr,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    stretch = tl.cdiv(rows, tl.num_programs(0))
    begin = tl.program_id(0) * stretch
    size = C_H * 2 * m2 + (C_H + C_M if w1 is not None else C_H) * COLS
    scratch += tl.program_id(0).to(tl.int64) * size
    modes, h = scratch, scratch + C_H * 2 * m2
    inner = h + C_H * COLS
    for row in range(begin, tl.minimum(begin + stretch, rows)):
        sample, line = (row // n1).to(tl.int64), row % n1
        _keep_line_of_modes(modes, c, first, sample, line, n1, m1, m2, c_h, KIND, M2, C_H)
        for start in range(0, n2, COLS):
            z = _before_activation(
                modes, last, x, skip, bias, sample, line, start, n1, n2, m2, c_h, c_x, KIND, COLS,
                C_H, DEPTH, PRECISION,
            )  # fmt: skip
            if w1 is not None:
                if KIND > 0:
                    _keep(h, z * normal_cdf(z) if GELU else z, C_H, COLS)
                u = _hidden(
                    x, h, w1, b1, sample, line, start, n1, n2, c_h, c_m, KIND, COLS, C_M, DEPTH,
                    PRECISION,
                )  # fmt: skip
                _keep(inner, u * normal_cdf(u), C_M, COLS)
                z = _column(b2, c_y, C_Y, COLS)
                z = add_product(
                    z, w2, c_m, 1, c_y, c_m, inner, COLS, 1, COLS, C_Y, COLS, DEPTH, PRECISION
                )
                tl.debug_barrier()  # the scratch area is free again
            if residual is not None:
                r = _load(residual, sample, line, start, n1, n2, c_y, C_Y, COLS)
                z += r if gate is None else r * _column(gate, c_y, C_Y, COLS)
            if GELU:
                z *= normal_cdf(z)
            _store(y, z, sample, line, start, n1, n2, c_y, C_Y, COLS)
        tl.debug_barrier()


@triton.jit
def _vjp_kernel(
    c, first, last, x, skip, bias, w1, b1, w2, b2, residual, gate, grad, dx, dr, dlines, dz, dskip,
    dbias, dw1, db1, dw2, db2, dgate, scratch, rows, n1, n2, m1, m2, c_h, c_x, c_m, c_y,
    KIND: tl.constexpr, GELU: tl.constexpr, COLS: tl.constexpr, M2: tl.constexpr, C_H: tl.constexpr,
    C_X: tl.constexpr, C_M: tl.constexpr, C_Y: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    stretch = tl.cdiv(rows, tl.num_programs(0))
    begin = tl.program_id(0) * stretch
    size = C_H * 2 * m2 + (2 * C_H + 2 * C_M + C_Y if w1 is not None else 2 * C_H) * COLS
    scratch += tl.program_id(0).to(tl.int64) * size
    modes, g, h = scratch, scratch + C_H * 2 * m2, scratch + C_H * 2 * m2 + C_H * COLS
    inner, d_inner, d_end = h + C_H * COLS, h + (C_H + C_M) * COLS, h + (C_H + 2 * C_M) * COLS
    s_skip, s_bias = tl.zeros((C_H, C_X), tl.float32), tl.zeros((C_H,), tl.float32)
    s_1, t_1 = tl.zeros((C_M, C_H), tl.float32), tl.zeros((C_M,), tl.float32)
    s_2, t_2 = tl.zeros((C_Y, C_M), tl.float32), tl.zeros((C_Y,), tl.float32)
    s_gate = tl.zeros((C_Y,), tl.float32)
    for row in range(begin, tl.minimum(begin + stretch, rows)):
        sample, line = (row // n1).to(tl.int64), row % n1
        _keep_line_of_modes(modes, c, first, sample, line, n1, m1, m2, c_h, KIND, M2, C_H)
        d_modes = tl.zeros((C_H, 2 * M2), tl.float32)
        for start in range(0, n2, COLS):
            dy = _load(grad, sample, line, start, n1, n2, c_y, C_Y, COLS)
            if w1 is None:
                if GELU:
                    z = _before_activation(
                        modes, last, x, skip, bias, sample, line, start, n1, n2, m2, c_h, c_x, KIND,
                        COLS, C_H, DEPTH, PRECISION,
                    )  # fmt: skip
                    if residual is not None:
                        r = _load(residual, sample, line, start, n1, n2, c_y, C_Y, COLS)
                        z += r * _column(gate, c_y, C_Y, COLS)
                    dy *= gelu_slope(z)
                d_first = dy
            else:
                if KIND > 0:
                    z = _before_activation(
                        modes, last, x, skip, bias, sample, line, start, n1, n2, m2, c_h, c_x, KIND,
                        COLS, C_H, DEPTH, PRECISION,
                    )  # fmt: skip
                    if GELU:
                        z, slope = gelu_and_slope(z)
                    _keep(h, z, C_H, COLS)
                u = _hidden(
                    x, h, w1, b1, sample, line, start, n1, n2, c_h, c_m, KIND, COLS, C_M, DEPTH,
                    PRECISION,
                )  # fmt: skip
                u, inner_slope = gelu_and_slope(u)
                _keep(inner, u, C_M, COLS)
                if GELU:
                    end = _column(b2, c_y, C_Y, COLS)
                    end = add_product(
                        end, w2, c_m, 1, c_y, c_m, inner, COLS, 1, COLS, C_Y, COLS, DEPTH,
                        PRECISION,
                    )  # fmt: skip
                    if residual is not None:
                        r = _load(residual, sample, line, start, n1, n2, c_y, C_Y, COLS)
                        end += r if gate is None else r * _column(gate, c_y, C_Y, COLS)
                    dy *= gelu_slope(end)
                _keep(d_end, dy, C_Y, COLS)
                t_2 += tl.sum(dy, 1)
                s_2 = _add_outer(
                    s_2, d_end, COLS, c_y, COLS, inner, COLS, c_m, COLS, C_Y, C_M, COLS, DEPTH,
                    PRECISION,
                )  # fmt: skip
                u = add_product(
                    tl.zeros((C_M, COLS), tl.float32), w2, 1, c_m, c_m, c_y, d_end, COLS, 1, COLS,
                    C_M, COLS, DEPTH, PRECISION,
                )  # fmt: skip
                u *= inner_slope
                _keep(d_inner, u, C_M, COLS)
                t_1 += tl.sum(u, 1)
                if KIND > 0:
                    s_1 = _add_outer(
                        s_1, d_inner, COLS, c_m, COLS, h, COLS, c_h, COLS, C_M, C_H, COLS, DEPTH,
                        PRECISION,
                    )  # fmt: skip
                else:
                    s_1 = _add_outer(
                        s_1, d_inner, COLS, c_m, COLS, _from(x, sample, line, start, n1, n2, c_h),
                        n1 * n2, c_h, n2 - start, C_M, C_H, COLS, DEPTH, PRECISION,
                    )  # fmt: skip
                d_first = add_product(
                    tl.zeros((C_H, COLS), tl.float32), w1, 1, c_h, c_h, c_m, d_inner, COLS, 1,
                    COLS, C_H, COLS, DEPTH, PRECISION,
                )  # fmt: skip
                if GELU and KIND > 0:
                    d_first *= slope
            s_bias += tl.sum(d_first, 1)
            if residual is not None:
                if gate is not None:
                    r = _load(residual, sample, line, start, n1, n2, c_y, C_Y, COLS)
                    s_gate += tl.sum(dy * r, 1)
                    dy *= _column(gate, c_y, C_Y, COLS)
                if dr is not None:
                    _store(dr, dy, sample, line, start, n1, n2, c_y, C_Y, COLS)
            if KIND > 0:
                _keep(g, d_first, C_H, COLS)
            if skip is not None:
                s_skip = _add_outer(
                    s_skip, g, COLS, c_h, COLS, _from(x, sample, line, start, n1, n2, c_x),
                    n1 * n2, c_x, n2 - start, C_H, C_X, COLS, DEPTH, PRECISION,
                )  # fmt: skip
                back = add_product(
                    tl.zeros((C_X, COLS), tl.float32), skip, 1, c_x, c_x, c_h, g, COLS, 1, COLS,
                    C_X, COLS, DEPTH, PRECISION,
                )  # fmt: skip
                if residual is not None:
                    back += dy
                _store(dx, back, sample, line, start, n1, n2, c_x, C_X, COLS)
            elif KIND == 0:
                _store(dx, d_first, sample, line, start, n1, n2, c_h, C_H, COLS)
            elif dx is not None:
                _store(dx, dy, sample, line, start, n1, n2, c_y, C_Y, COLS)
            if dz is not None:
                _store(dz, d_first, sample, line, start, n1, n2, c_h, C_H, COLS)
            if dlines is not None:
                d_modes = _add_modes(
                    d_modes, g, last, start, n2, m2, COLS, M2, C_H, DEPTH, PRECISION
                )
            tl.debug_barrier()
        if dlines is not None:
            k2, part, sign = parts(M2)
            channel = tl.arange(0, C_H)[:, None]
            at = (((sample * c_h + channel) * n1 + line) * 2 + part[None, :]) * m2 + k2[None, :]
            inside = (channel < c_h) & (k2 < m2)[None, :]
            tl.store(dlines + at, d_modes * sign[None, :], mask=inside)
        tl.debug_barrier()
    _store_share(dskip, s_skip, c_h, c_x, C_H, C_X)
    _store_share(dw1, s_1, c_m, c_h, C_M, C_H)
    _store_share(dw2, s_2, c_y, c_m, C_Y, C_M)
    _store_sums(dbias, s_bias, c_h, C_H)
    _store_sums(db1, t_1, c_m, C_M)
    _store_sums(db2, t_2, c_y, C_Y)
    _store_sums(dgate, s_gate, c_y, C_Y)


@triton.jit
def _keep_line_of_modes(
    modes, c, first, sample, line, n1, m1, m2, c_h, KIND: tl.constexpr, M2: tl.constexpr,
    C_H: tl.constexpr,
):  # fmt: skip
    """Coefficients along the last axis, conjugate, parts side by side: modes (C_H, 2 m2)."""
    channel = tl.arange(0, C_H)[:, None]
    if KIND > 0:
        for start in range(0, m2, M2):
            k2, part, sign = parts(M2)
            k2, part, sign = (start + k2)[None, :], part[None, :], sign[None, :]
            inside = (channel < c_h) & (k2 < m2)
            if KIND == 1:  # lines (B, C_H, n1, 2, m2)
                at = c + (((sample * c_h + channel) * n1 + line) * 2 + part) * m2 + k2
                value = tl.load(at, mask=inside, other=0.0) * sign
            else:
                at = c + (sample * c_h + channel) * 2 * m1 * m2 + k2
                own, other = at + part * m1 * m2, at + (1 - part) * m1 * m2
                value = tl.zeros((C_H, 2 * M2), tl.float32)
                for k1 in range(0, m1):
                    cos = tl.load(first + (line * m1 + k1) * 2)
                    sin = tl.load(first + (line * m1 + k1) * 2 + 1)
                    value += cos * sign * tl.load(own + k1 * m2, mask=inside, other=0.0)
                    value -= sin * tl.load(other + k1 * m2, mask=inside, other=0.0)
            tl.store(modes + channel * 2 * m2 + 2 * k2 + part, value, mask=k2 < m2)
        tl.debug_barrier()


@triton.jit
def _before_activation(
    modes, last, x, skip, bias, sample, line, start, n1, n2, m2, c_h, c_x, KIND: tl.constexpr,
    COLS: tl.constexpr, C_H: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """z of some columns of a line: (C_H, COLS)."""
    if KIND == 0:
        return _load(x, sample, line, start, n1, n2, c_h, C_H, COLS)
    else:
        z = _column(bias, c_h, C_H, COLS)
        z = add_product(
            z, modes, 2 * m2, 1, c_h, 2 * m2, last + start * 2 * m2, 1, 2 * m2, n2 - start, C_H,
            COLS, DEPTH, PRECISION,
        )  # fmt: skip
        if skip is not None:
            z = add_product(
                z, skip, c_x, 1, c_h, c_x, _from(x, sample, line, start, n1, n2, c_x), n1 * n2, 1,
                n2 - start, C_H, COLS, DEPTH, PRECISION,
            )  # fmt: skip
        return z


@triton.jit
def _hidden(
    x, h, w1, b1, sample, line, start, n1, n2, c_h, c_m, KIND: tl.constexpr, COLS: tl.constexpr,
    C_M: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """W1 h + b1, where h = x without coefficients: (C_M, COLS)."""
    u = _column(b1, c_m, C_M, COLS)
    if KIND == 0:
        return add_product(
            u, w1, c_h, 1, c_m, c_h, _from(x, sample, line, start, n1, n2, c_h), n1 * n2, 1,
            n2 - start, C_M, COLS, DEPTH, PRECISION,
        )  # fmt: skip
    else:
        return add_product(u, w1, c_h, 1, c_m, c_h, h, COLS, 1, COLS, C_M, COLS, DEPTH, PRECISION)


@triton.jit
def _add_outer(
    acc, a, a_row, a_rows, a_columns, b, b_row, b_rows, b_columns, M: tl.constexpr, N: tl.constexpr,
    COLS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc + a b^T, for a (a_rows, a_columns) and b (b_rows, b_columns) of COLS columns at most."""
    left, right = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    for start in range(0, COLS, DEPTH):
        k = start + tl.arange(0, DEPTH)
        inside = (left < a_rows) & (k < a_columns)[None, :]
        u = tl.load(a + left * a_row + k[None, :], mask=inside, other=0.0)
        inside = (right < b_rows) & (k < b_columns)[:, None]
        v = tl.load(b + right * b_row + k[:, None], mask=inside, other=0.0)
        acc = dot(u, v, acc, PRECISION)
    return acc


@triton.jit
def _add_modes(
    acc, g, last, begin, n2, m2, COLS: tl.constexpr, M2: tl.constexpr, C_H: tl.constexpr,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc (C_H, 2 M2) + g t, for g (C_H, COLS) and a table t (n2, m2, 2) from a row on."""
    k2, part, _ = parts(M2)
    for start in range(0, COLS, DEPTH):
        k = start + tl.arange(0, DEPTH)
        u = tl.load(g + tl.arange(0, C_H)[:, None] * COLS + k[None, :])
        at = last + ((begin + k)[:, None] * m2 + k2[None, :]) * 2 + part[None, :]
        v = tl.load(at, mask=(begin + k < n2)[:, None] & (k2 < m2)[None, :], other=0.0)
        acc = dot(u, v, acc, PRECISION)
    return acc


@triton.jit
def _keep(place, value, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Write a whole tile to the scratch area, for all threads to read."""
    tl.store(place + tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :], value)
    tl.debug_barrier()


@triton.jit
def _column(v, n, N: tl.constexpr, COLS: tl.constexpr):
    """An optional vector as a tile (N, COLS); zeros if it is not there."""
    tile = tl.zeros((N, COLS), tl.float32)
    if v is not None:
        tile += tl.load(v + tl.arange(0, N), mask=tl.arange(0, N) < n, other=0.0)[:, None]
    return tile


@triton.jit
def _from(x, sample, line, start, n1, n2, channels):
    """Where a line of an array (B, channels, n1, n2) has its columns from ``start`` on."""
    return x + (sample * channels * n1 + line) * n2 + start


@triton.jit
def _place(sample, line, start, n1, n2, channels, C: tl.constexpr, COLS: tl.constexpr):
    """Offsets and mask of columns of a line, all channels, in an array (B, channels, n1, n2)."""
    channel, column = tl.arange(0, C)[:, None], start + tl.arange(0, COLS)[None, :]
    at = ((sample * channels + channel) * n1 + line) * n2 + column
    return at, (channel < channels) & (column < n2)


@triton.jit
def _load(x, sample, line, start, n1, n2, channels, C: tl.constexpr, COLS: tl.constexpr):
    at, inside = _place(sample, line, start, n1, n2, channels, C, COLS)
    return tl.load(x + at, mask=inside, other=0.0)


@triton.jit
def _store(x, value, sample, line, start, n1, n2, channels, C: tl.constexpr, COLS: tl.constexpr):
    at, inside = _place(sample, line, start, n1, n2, channels, C, COLS)
    tl.store(x + at, value, mask=inside)


@triton.jit
def _store_share(shares, total, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    if shares is not None:
        row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
        at = shares + tl.program_id(0) * rows * columns + row * columns + column
        tl.store(at, total, mask=(row < rows) & (column < columns))


@triton.jit
def _store_sums(shares, total, n, N: tl.constexpr):
    if shares is not None:
        entry = tl.arange(0, N)
        tl.store(shares + tl.program_id(0) * n + entry, total, mask=entry < n)
