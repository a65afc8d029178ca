"""Faster layers inside models that are there already."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from unot_fast.spectral.conv import BACKENDS

_FASTER = {
    "neuralop": "unot_fast.spectral.neuralop",
    "torch_harmonics.examples.models": "unot_fast.spectral.harmonics",
}


@dataclass(frozen=True)
class Acceleration:
    """What `accelerate` did; printing it gives a table.

    Attributes
    ----------
    replaced : dict of str to str
        Names of the modules that are faster now, and their classes.
    kept : dict of str to str
        Names of the modules that could have been, and why they are not.
    reason : str, optional
        Why there are no modules in either.
    """

    replaced: dict[str, str]
    kept: dict[str, str]
    reason: str | None = None

    def __str__(self) -> str:
        why = "" if self.reason is None else f": {self.reason}"
        lines = [f"replaced {len(self.replaced)} modules{why}"]
        lines += [f"  {name or '(model)'}: {kind}" for name, kind in self.replaced.items()]
        if self.kept:
            lines.append(f"left {len(self.kept)} as they are")
            lines += [f"  {name or '(model)'}: {reason}" for name, reason in self.kept.items()]
        return "\n".join(lines)


def accelerate(model: nn.Module, *, backend: str = "auto", verbose: bool = True) -> Acceleration:
    """Replace spectral layers of `neuralop` and `torch_harmonics` by faster ones, in place.

    Parameters, buffers and the state dict are those of before, shared and not copied; outputs are
    equal up to rounding. Layers with an option that is not supported are left as they are, and so
    are those around a module with hooks or of another class than usual. Where such a thing comes
    later, a replaced layer calls its modules one by one, as before. Accelerate a model before
    ``torch.compile`` and before wrapping it for data-parallel training.

    Parameters
    ----------
    model : nn.Module
        Contains ``SpectralConv``, ``SphericalConv``, ``ChannelMLP`` or ``FNOBlocks`` of neuralop,
        as FNO, TFNO and SFNO do, or ``SpectralConvS2`` or ``MLP`` of the examples of
        torch-harmonics, as the spherical Fourier neural operator does.
    backend : str
        Of all layers that are replaced; see `spectral_backend`. Those that were replaced before
        keep theirs: `restore` the model first to change it.
    verbose : bool
        Print the result.

    Returns
    -------
    Acceleration
        What was replaced, and what was not and why.

    Raises
    ------
    ValueError
        The backend is unknown.

    Notes
    -----
    neuralop 2.0.0 lowers the frequencies of its results by one on axes of odd length, the last axis
    excepted, and keeps the order of coefficients, not their frequencies, on another grid. Replaced
    layers do the same; `spectral_conv2d` does not. For double precision the spectral layers of
    torch-harmonics compute in single; layers here do not.

    Under ``torch.autocast`` replaced layers compute in float32, with products as
    ``torch.set_float32_matmul_precision`` says: after ``"medium"`` of factors rounded to bfloat16,
    on processors that can (`spectral_backend`). Second and higher derivatives through replaced
    layers are computed by torch, without kernels. Forward-mode derivatives and ``torch.func.grad``
    raise an error: `restore` the model for those.

    Examples
    --------
    >>> import unot_fast
    >>> from neuralop.models import FNO                                          # doctest: +SKIP
    >>> model = FNO(n_modes=(10, 10), in_channels=1, out_channels=1, hidden_channels=64)
    ...                                                                          # doctest: +SKIP
    >>> unot_fast.accelerate(model)                                              # doctest: +SKIP
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be 'auto' or one of {BACKENDS}; got {backend!r}")
    replaced, kept = {}, {}
    faster, missing = _faster_classes()
    for slow, fast in faster.items():
        for name, module in model.named_modules():
            if type_before_parametrizations(module) is slow:
                reason = fast.obstacle(module)
                if reason is None:
                    _turn_into(fast, module)
                    module.backend = backend
                    replaced[name] = slow.__name__
                else:
                    kept[name] = f"{slow.__name__} with {reason}"
            elif isinstance(module, slow) and not isinstance(module, fast):
                kept[name] = f"{type(module).__name__}, a subclass of {slow.__name__}"
    done = Acceleration(replaced, kept)
    if not replaced and not kept:
        done = Acceleration(replaced, kept, _why_nothing(model, faster, missing))
    if verbose:
        print(done)
    return done


def restore(model: nn.Module) -> nn.Module:
    """Undo `accelerate`, in place; returns the model.

    Raises
    ------
    TypeError
        Something else than a parametrization has made a new class of that of a replaced module.
    """
    slower = {fast: slow for slow, fast in _faster_classes()[0].items()}
    fast = tuple(slower)
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, fast)]
    for name, module in modules:
        if type_before_parametrizations(module) not in slower:
            raise TypeError(f"{name or '(model)'} is a {type(module).__name__}: undo that first")
    for _, module in modules:
        _turn_into(slower[type_before_parametrizations(module)], module)
        del module.backend
    return model


def _turn_into(kind: type, module: nn.Module) -> None:
    """Change the class of a module, or that below the one that its parametrizations have made."""
    if is_parametrized(module):
        own = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__")}
        kind = type(f"Parametrized{kind.__name__}", (kind,), own)
    module.__class__ = kind


def _faster_classes() -> tuple[dict[type, type], list[str]]:
    """Of the libraries that are loaded, as a model's own is; and those with other layers."""
    found, missing = {}, []
    for library, module in _FASTER.items():
        if library in sys.modules:
            try:
                found |= importlib.import_module(module).FASTER
            except ImportError as reason:
                missing.append(f"{library} has other layers in this version ({reason})")
    return found, missing


def _why_nothing(model: nn.Module, faster: dict[type, type], missing: list[str]) -> str:
    if any(isinstance(module, tuple(faster.values())) for module in model.modules()):
        return "they are replaced already"
    if missing:
        return "; ".join(missing)
    if not faster:
        return f"none of {', '.join(_FASTER)} is imported"
    return f"the model has no {', '.join(slow.__name__ for slow in faster)}"
