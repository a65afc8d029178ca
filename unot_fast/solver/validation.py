"""Turn what a user passes into what the operators take, or say what is wrong with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from unot_fast.geometry import Geometry
from unot_fast.geometry.numbers import is_integer, is_size
from unot_fast.ops import Normalised, normalise
from unot_fast.ops.folding import all_values


@dataclass(frozen=True)
class Problems:
    """A checked, flattened batch: masses sum to 1 and ``total`` is what they summed to."""

    a: Tensor  # (B, n_1, ..., n_d)
    b: Tensor  # (B, m_1, ..., m_d)
    epsilon: Tensor  # (B,), float64
    total: Tensor  # (B,)
    batch_shape: torch.Size


def prepare(
    a: Tensor,
    b: Tensor,
    geom: Geometry,
    epsilon: float | Tensor,
    normalize: bool,
    dtype: torch.dtype | None,
    validate: bool,
) -> Problems:
    """Check every argument, broadcast the leading dimensions and normalise the masses.

    With ``validate`` off, nothing that needs to read values from the device is checked.

    Raises
    ------
    TypeError, ValueError
        The message names the argument.
    """
    if not isinstance(geom, Geometry):
        raise TypeError(
            f"geom must be a Geometry such as unot_fast.Grid; got {type(geom).__name__}"
        )
    a = _measure("a", a, geom.shape)
    b = _measure("b", b, geom.target_shape)
    if a.device != b.device:
        raise ValueError(f"b must be on the device of a; got {b.device} and {a.device}")
    dtype = _result_dtype(a, b, dtype)
    d = len(geom.shape)
    lead_a, lead_b = a.shape[: a.ndim - d], b.shape[: b.ndim - d]
    epsilon = _epsilon(epsilon, a.device, geom.max_cost, validate)
    lead_epsilon = epsilon.shape if isinstance(epsilon, Tensor) else ()
    batch_shape = lead_a
    if lead_a != lead_b or lead_epsilon:
        try:
            batch_shape = torch.broadcast_shapes(lead_a, lead_b, lead_epsilon)
        except RuntimeError:
            raise ValueError(
                "a, b and epsilon must have leading dimensions that broadcast; got "
                f"{tuple(lead_a)}, {tuple(lead_b)} and {tuple(lead_epsilon)}"
            ) from None
    if not isinstance(epsilon, Tensor):
        epsilon = torch.full(batch_shape, epsilon, dtype=torch.float64, device=a.device)

    exact = a.dtype is b.dtype is torch.float64
    (a, b), (total_a, total_b), gap = _masses(a.to(dtype), b.to(dtype), d, validate)
    if validate and not normalize and total_a.numel() and total_b.numel():
        if gap is None:
            gap = float(all_values(((total_a - total_b).abs() / total_a).detach()).max())
        if not gap <= (1e-9 if exact else 1e-5):
            raise ValueError(
                f"a and b must have equal totals (relative gap {gap:.1e}); "
                "pass normalize=True to scale both to 1"
            )

    def flatten(x: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        full = (*batch_shape, *shape)
        if x.shape != full:
            x = x.expand(full)
        return x if len(batch_shape) == 1 else x.reshape(-1, *shape)

    total = torch.ones_like(total_a) if normalize else total_a
    return Problems(
        a=flatten(a, geom.shape),
        b=flatten(b, geom.target_shape),
        epsilon=flatten(epsilon),
        total=flatten(total),
        batch_shape=batch_shape,
    )


def _measure(name: str, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(x, Tensor):
        try:
            x = torch.as_tensor(x)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"{name} must be a tensor or an array of numbers; got {type(x).__name__}"
            ) from error
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point; got {x.dtype}: convert it, e.g. .float()")
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor; got layout {x.layout}")
    d = len(shape)
    if x.ndim < d or tuple(x.shape[-d:]) != tuple(shape):
        raise ValueError(
            f"{name} must have shape (..., {', '.join(map(str, shape))}) for this geometry; "
            f"got {tuple(x.shape)}"
        )
    return x


def _masses(a: Tensor, b: Tensor, d: int, validate: bool) -> Normalised:
    """Masses of total 1, and in float64 what they summed to."""
    if normalised := normalise(a, b, d, validate):
        return normalised
    totals = [x.double().sum(tuple(range(x.ndim - d, x.ndim))) for x in (a, b)]
    if validate:
        for name, x, total in zip("ab", (a, b), totals, strict=True):
            if x.numel():
                _check_values(name, all_values(x.detach()), all_values(total.detach()))
    scaled = [
        (x.contiguous().double() / total.view(*total.shape, *(1,) * d)).to(x.dtype)
        for x, total in zip((a, b), totals, strict=True)
    ]
    return Normalised(scaled, totals, None)


def _check_values(name: str, x: Tensor, total: Tensor) -> None:
    smallest = float(x.amin())  # NaN goes through; infinity shows in the total
    if not smallest >= 0:
        kind = "NaN" if math.isnan(smallest) else "negative"
        raise ValueError(f"{name} must hold finite, non-negative masses; it has {kind} entries")
    low, high = (float(t) for t in torch.aminmax(total))
    if not low > 0:
        raise ValueError(f"{name} must have positive total mass in every problem; one is zero")
    if high == math.inf:
        kind = "infinite entries" if x.isinf().any() else "a total that overflows"
        raise ValueError(f"{name} must hold finite, non-negative masses; it has {kind}")


def _epsilon(
    epsilon: float | Tensor, device: torch.device, max_cost: float, validate: bool
) -> float | Tensor:
    if isinstance(epsilon, float):
        if validate:
            _check_epsilon(epsilon, epsilon, max_cost)
        return epsilon
    try:
        value = torch.as_tensor(epsilon, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"epsilon must be a number or a tensor; got {epsilon!r}") from error
    if validate and value.numel():
        _check_epsilon(*map(float, torch.aminmax(all_values(value.detach()))), max_cost)
    return value


def _check_epsilon(low: float, high: float, max_cost: float) -> None:
    # NaN goes through both.
    if not 0 < low <= high < math.inf:
        raise ValueError("epsilon must be positive and finite")
    # Potentials are known to 1e-16 of the largest exponent, max_cost / epsilon nats.
    if max_cost > 0 and not 1e-10 * max_cost <= low <= high <= 1e10 * max_cost:
        raise ValueError(
            f"epsilon must be between {1e-10 * max_cost:.1e} and {1e10 * max_cost:.1e} for a "
            f"largest cost of {max_cost:.3g}: beyond, float64 cannot tell the potentials' digits"
        )


def _result_dtype(a: Tensor, b: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    dtype = torch.promote_types(a.dtype, b.dtype) if dtype is None else dtype
    if dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype must be a floating point type; got {dtype}")
    return torch.promote_types(dtype, torch.float32)


def check_options(
    tol: float, criterion: str, max_iter: int, overrelaxation: str | float
) -> tuple[float, str, int, float | None]:
    """Check the stopping options; the weight comes back as None where it is adaptive."""
    if criterion not in ("marginal", "cost"):
        raise ValueError(f"criterion must be 'marginal' or 'cost'; got {criterion!r}")
    if not is_size(tol):
        raise ValueError(f"tol must be a finite number >= 0; got {tol!r}")
    if not is_integer(max_iter):
        raise ValueError(f"max_iter must be a positive integer; got {max_iter!r}")
    if max_iter >= 2**31:
        raise ValueError(f"max_iter must be below 2**31; got {max_iter!r}")
    if overrelaxation == "auto":
        return float(tol), criterion, int(max_iter), None
    if not isinstance(overrelaxation, Real) or not 1 <= overrelaxation < 2:
        raise ValueError(f"overrelaxation must be 'auto' or in [1, 2); got {overrelaxation!r}")
    return float(tol), criterion, int(max_iter), float(overrelaxation)
