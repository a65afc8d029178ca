"""Where the points of a measure come from."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unot_fast.neural_ot.smoothing import Smoothing, smoothing

Source = Tensor | np.ndarray | Callable[..., object] | Iterable[object]


class Draw(NamedTuple):
    """Points, their classes, and their rows in the array that they come from, if they do."""

    x: Tensor  # (n, d), float32
    labels: Tensor | None  # (n,), int64
    rows: Tensor | None  # (n,), int64

    def to(self, device: torch.device) -> Draw:
        return Draw(*(None if t is None else t.to(device) for t in self))

    def first(self, n: int) -> Draw:
        return Draw(*(None if t is None else t[:n] for t in self))


def samples(
    name: str, given: Source, labels: Tensor | np.ndarray | None, dim: int, classes: int
) -> Samples:
    """Arrays, functions of a number of points, and loaders, behind one face.

    Parameters
    ----------
    name : str
        Of the argument, for messages.
    given : Tensor or array of shape (N, dim), callable, or iterable
        A callable is asked for ``given(n)`` points, with ``generator=`` if it takes one; an
        iterable gives batches. With classes, both give pairs of points and labels.
    labels : Tensor or array of shape (N,), optional
        Of an array's rows.
    """
    if isinstance(given, Tensor | np.ndarray):
        x = _points(name, given, dim)
        return Rows(name, x, _classes(name, labels, len(given), classes))
    if labels is not None:
        raise ValueError(
            f"{name}_labels are for arrays; a sampler gives pairs of points and labels"
        )
    if callable(given):
        return Sampler(name, given, dim, classes)
    if isinstance(given, Iterable):
        return Loader(name, given, dim, classes)
    raise TypeError(
        f"{name} must be an array, a callable or an iterable of batches; got {type(given).__name__}"
    )


class Rows:
    """Rows of an array, drawn with replacement; with classes, each class as often as another."""

    def __init__(
        self, name: str, x: Tensor, labels: Tensor | None, smoothing: Smoothing | None = None
    ) -> None:
        self.name, self.x, self.labels, self.smoothing = name, x, labels, smoothing
        self._members: list[Tensor] = []
        if labels is not None:
            self._members = [torch.nonzero(labels == k)[:, 0] for k in range(int(labels.max()) + 1)]

    def draw(self, n: int, random: torch.Generator) -> Draw:
        if not self._members:
            rows = torch.randint(len(self.x), (n,), generator=random)
            return self._drawn(rows, None, random)
        labels = torch.randint(len(self._members), (n,), generator=random)
        rows = torch.empty_like(labels)
        for k, members in enumerate(self._members):
            own = torch.nonzero(labels == k)[:, 0]
            rows[own] = members[torch.randint(len(members), (len(own),), generator=random)]
        return self._drawn(rows, labels, random)

    def _drawn(self, rows: Tensor, labels: Tensor | None, random: torch.Generator) -> Draw:
        x = self.x[rows]
        return Draw(
            x if self.smoothing is None else self.smoothing(x, labels, random), labels, rows
        )

    def first(self, n: int, random: torch.Generator) -> Draw:
        """To learn the units from: everything."""
        return Draw(self.x, self.labels, None)

    def fingerprint(self) -> str:
        """What tells these rows from others."""
        digest = hashlib.sha256(self.x.cpu().contiguous().numpy())
        if self.labels is not None:
            digest.update(self.labels.cpu().contiguous().numpy())
        return f"{tuple(self.x.shape)} {digest.hexdigest()}"

    def split(
        self, random: torch.Generator, held_back: int, bandwidth: float | None
    ) -> tuple[Rows, Draw]:
        """The rows to train on, smoothed, and some of every class that are held back, a tenth."""
        order = torch.randperm(len(self.x), generator=random)
        out, rest = self._parted(order, min(held_back / len(self.x), 0.1))
        back, kept = (
            Draw(self.x[k], None if self.labels is None else self.labels[k], None)
            for k in (out, rest)
        )
        noise = smoothing(kept.x, kept.labels, back.x, back.labels, bandwidth)
        return Rows(self.name, kept.x, kept.labels, noise), back

    def _parted(self, order: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """This share of every class, one row at least, and the rest; in this order."""
        held = torch.zeros(len(order), dtype=torch.bool)
        kinds = [order] if self.labels is None else [
            order[self.labels[order] == k] for k in range(len(self._members))
        ]  # fmt: skip
        for k, own in enumerate(kinds):
            if len(own) < 2:
                of = f" of class {k}" if self._members else ""
                raise ValueError(f"{self.name} must have two rows{of} at least; got {len(own)}")
            held[own[: max(1, int(share * len(own) + 1e-6))]] = True
        return order[held[order]], order[~held[order]]


class Sampler:
    """A function of the number of points."""

    def __init__(self, name: str, function: Callable[..., object], dim: int, classes: int) -> None:
        self.name, self.function, self.dim, self.classes = name, function, dim, classes
        try:
            self._seeded = "generator" in inspect.signature(function).parameters
        except (TypeError, ValueError):  # built-in functions may hide theirs
            self._seeded = False

    def draw(self, n: int, random: torch.Generator) -> Draw:
        given = self.function(n, generator=random) if self._seeded else self.function(n)
        x, labels = _batch(self.name, given, self.dim, self.classes)
        if len(x) != n:
            raise ValueError(f"{self.name} was asked for {n} points and gave {len(x)}")
        return Draw(x, labels, None)

    def first(self, n: int, random: torch.Generator) -> Draw:
        return self.draw(n, random)

    def fingerprint(self) -> str:
        return "points of a function"

    def split(
        self, random: torch.Generator, held_back: int, bandwidth: float | None
    ) -> tuple[Sampler, Draw]:
        return self, self.draw(held_back, random)


class Loader:
    """Batches of a loader, again and again, cut to what is asked for."""

    def __init__(self, name: str, batches: Iterable[object], dim: int, classes: int) -> None:
        self.name, self.batches, self.dim, self.classes = name, batches, dim, classes
        self._left: Iterator[object] = iter(())
        self._x = torch.empty(0, dim)
        self._labels = torch.empty(0, dtype=torch.int64)

    def draw(self, n: int, random: torch.Generator) -> Draw:
        while len(self._x) < n:
            x, labels = _batch(self.name, self._next(), self.dim, self.classes)
            self._x = torch.cat((self._x, x))
            if labels is not None:
                self._labels = torch.cat((self._labels, labels))
        x, self._x = self._x[:n], self._x[n:]
        labels, self._labels = self._labels[:n], self._labels[n:]
        return Draw(x, labels if self.classes > 1 else None, None)

    def first(self, n: int, random: torch.Generator) -> Draw:
        return self.draw(n, random)

    def fingerprint(self) -> str:
        return "points of a loader"

    def split(
        self, random: torch.Generator, held_back: int, bandwidth: float | None
    ) -> tuple[Loader, Draw]:
        return self, self.draw(held_back, random)

    def _next(self) -> object:
        batch = next(self._left, None)
        if batch is None:
            self._left = iter(self.batches)
            batch = next(self._left, None)
        if batch is None:
            raise ValueError(f"{self.name} has no batches")
        return batch


Samples = Rows | Sampler | Loader


def _batch(name: str, given: object, dim: int, classes: int) -> tuple[Tensor, Tensor | None]:
    labels = None
    if isinstance(given, tuple | list):
        if classes > 1 and len(given) != 2:
            raise ValueError(f"{name} must give pairs of points and labels, for {classes} classes")
        given, *rest = given
        labels = rest[0] if rest else None
    x = _points(name, given, dim)
    return x, _classes(name, labels, len(x), classes)


def _points(name: str, given: object, dim: int) -> Tensor:
    x = torch.as_tensor(given)
    if x.ndim != 2 or x.shape[1] != dim or not len(x):
        raise ValueError(f"{name} must have shape (N, {dim}), N > 0; got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers; got {x.dtype}")
    if not x.isfinite().all():
        raise ValueError(f"{name} must be finite")
    return x.detach().float()


def _classes(name: str, labels: object, n: int, classes: int) -> Tensor | None:
    if classes == 1:
        return None
    if labels is None:
        raise ValueError(f"{name}_labels are needed, for {classes} classes")
    labels = torch.as_tensor(labels)
    if labels.shape != (n,) or labels.is_floating_point():
        raise ValueError(f"{name}_labels must be {n} whole numbers; got {tuple(labels.shape)}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{name}_labels must be in 0..{classes - 1}")
    return labels.long()
