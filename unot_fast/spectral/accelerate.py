"""Faster layers inside models that are there already."""

from __future__ import annotations

import contextlib
import importlib
import sys
from dataclasses import dataclass

from torch import nn

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
    """

    replaced: dict[str, str]
    kept: dict[str, str]

    def __str__(self) -> str:
        lines = [f"replaced {len(self.replaced)} modules"]
        lines += [f"  {name or '(model)'}: {kind}" for name, kind in self.replaced.items()]
        if self.kept:
            lines.append(f"left {len(self.kept)} as they are")
            lines += [f"  {name or '(model)'}: {reason}" for name, reason in self.kept.items()]
        return "\n".join(lines)


def accelerate(model: nn.Module, *, backend: str = "auto", verbose: bool = True) -> Acceleration:
    """Replace spectral layers of `neuralop` and `torch_harmonics` by faster ones, in place.

    Parameters, buffers and the state dict are those of before, shared and not copied; outputs are
    equal up to rounding. Layers with an option that is not supported are left as they are.
    Accelerate a model before ``torch.compile`` and before wrapping it for data-parallel training.

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
    neuralop 2.0.0 shifts the spectrum of axes of odd length to the wrong place; layers here do not,
    so results differ from its own on such grids. For double precision the spectral layers of
    torch-harmonics compute in single; layers here do not.

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
    for slow, fast in _faster_classes().items():
        for name, module in model.named_modules():
            if type(module) is slow:
                reason = fast.obstacle(module)
                if reason is None:
                    module.__class__, module.backend = fast, backend
                    replaced[name] = slow.__name__
                else:
                    kept[name] = f"{slow.__name__} with {reason}"
            elif isinstance(module, slow) and not isinstance(module, fast):
                kept[name] = f"{type(module).__name__}, a subclass of {slow.__name__}"
    done = Acceleration(replaced, kept)
    if verbose:
        print(done)
    return done


def restore(model: nn.Module) -> nn.Module:
    """Undo `accelerate`, in place; returns the model."""
    slower = {fast: slow for slow, fast in _faster_classes().items()}
    for module in model.modules():
        if type(module) in slower:
            module.__class__ = slower[type(module)]
            del module.backend
    return model


def _faster_classes() -> dict[type, type]:
    """Of the libraries that are loaded: a model's own library is."""
    found = {}
    for library, module in _FASTER.items():
        if library in sys.modules:
            with contextlib.suppress(ImportError):  # a version of it that has other layers
                found |= importlib.import_module(module).FASTER
    return found
