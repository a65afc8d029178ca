"""Optimal transport between two sets of samples, as one learned potential."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unot_fast.conjugate import Cost, CTransform, PowerCost, described, in_units
from unot_fast.models import NeuralPotential
from unot_fast.models.files import load_state, save_state
from unot_fast.neural_ot.balance import balanced, one_class
from unot_fast.neural_ot.config import FitConfig
from unot_fast.neural_ot.domain import Domain
from unot_fast.neural_ot.fit import Fit, Row
from unot_fast.neural_ot.linear_map import LinearMap
from unot_fast.neural_ot.maps import Maps
from unot_fast.neural_ot.progress import progress_bar
from unot_fast.neural_ot.samples import Samples, Source, samples
from unot_fast.neural_ot.units import Units
from unot_fast.training.processes import random_at

_KIND = "unot_fast.NeuralOT"
_PARTS = ("potential", "units", "linear", "domain")
_COST = ("value", "gradient", "transport")


class NeuralOT:
    r"""The optimal map of quadratic cost between measures that are known by samples.

    One convex potential u is trained on the dual

    .. math::

        \max_u \; -\mathbb E_\mu u(x) - \mathbb E_\nu u^*(z), \qquad
        u^*(z) = \max_y z \cdot y - u(y),

    in which the maximum over y is found for every point and the gradient needs nothing else
    (Danskin). The forward map is the gradient of u, the backward map that of u^*.

    Parameters
    ----------
    dim : int
        d, of the space.
    widths : sequence of int, optional
        Of the network's layers: two of 128 by default, or of ``dim`` if that is more.
    classes : int
        Class-conditional transport: class k of the source goes to class k of the target.
    quadratic : int, optional
        Rank of the network's quadratic term: full if None, 0 for none. A full one begins at the
        optimal map of Gaussians with the samples' covariances.
    potential : NeuralPotential, optional
        A potential of your own, in place of the three arguments before. It is trained itself where
        it is float32 and on the device, a copy of it elsewhere.
    standardize : bool
        Learn in units where both sides have mean 0 and coordinates that vary by about 1: one scale
        for all columns of a side, for columns that are alike. Where they are not, divide each by
        its spread; a fit warns where its maps cannot be as steep or as flat as they should.
    cost : Cost, optional
        In place of half the squared distance: `PowerCost`, or what has its three methods. The
        potential is then a free network, both sides share their units, and searches stay in a ball
        around the source; they begin at the best of some of its points, and nothing promises that
        they find the least of several minima.
    device : str or torch.device
        Where the potential is, and what the maps take has to be; samples are brought there.
    **fit
        Settings of `unot_fast.neural_ot.config.FitConfig`, such as ``batch`` or ``seed``.

    Attributes
    ----------
    potential : NeuralPotential
        In those units.
    units : Units
    history : list of Row
        Validations of the last fit.

    References
    ----------
    Park et al., "Implicit neural optimal transport via fixed-point optimization", 2026; Makkuva et
    al., "Optimal transport mapping via input convex neural networks", ICML 2020; Amos, "On
    amortizing convex conjugates for optimal transport", ICLR 2023.

    Examples
    --------
    >>> import torch, unot_fast
    >>> x = torch.randn(4000, 2)
    >>> z = torch.randn(4000, 2) @ torch.tensor([[2.0, 0.0], [0.5, 1.0]]) + 3
    >>> ot = unot_fast.NeuralOT(2).fit(x, z, steps=50)
    >>> ot.transport(x[:5]).shape, ot.inverse(z[:5]).shape
    (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        dim: int,
        widths: Sequence[int] | None = None,
        *,
        classes: int = 1,
        quadratic: int | None = None,
        potential: NeuralPotential | None = None,
        standardize: bool = True,
        cost: Cost | None = None,
        device: str | torch.device = "cpu",
        **fit: float,
    ) -> None:
        self.config = FitConfig(**fit)
        missing = [name for name in _COST if cost is not None and not hasattr(cost, name)]
        if missing:
            raise TypeError(f"cost must have methods {_COST}; got no {', '.join(missing)}")
        if potential is None:
            potential = NeuralPotential(
                dim, widths, classes=classes, quadratic=quadratic, convex=cost is None,
                seed=self.config.seed,
            )  # fmt: skip
        if not isinstance(potential, NeuralPotential):
            raise TypeError(f"potential must be a NeuralPotential; got {type(potential).__name__}")
        if potential.dim != dim:
            raise ValueError(f"potential must have dim = {dim}; got {potential.dim}")
        if classes not in (1, potential.classes):
            raise ValueError(f"potential must have classes = {classes}; got {potential.classes}")
        self.dim, self.device = dim, torch.device(device)
        if any(p.dtype is not torch.float32 or p.device != self.device for p in _all(potential)):
            potential = copy.deepcopy(potential).to(self.device, torch.float32)
        self.potential = potential
        self.units, self.standardize, self.cost = Units(dim).to(self.device), standardize, cost
        self.linear = LinearMap(dim, potential.classes).to(self.device)
        self.domain = Domain(dim).to(self.device)
        self.history: list[Row] = []

    @property
    def maps(self) -> Maps:
        """The same maps in those units, and the searches as they are begun."""
        cost = None if self.cost is None else self._in_units()[0]
        return Maps(self.potential, self.linear, self.domain, cost)

    def _in_units(self) -> tuple[Cost, float]:
        return in_units(self.cost, float(self.units.source_scale.double()), self.dim)

    def fit(
        self,
        source: Source,
        target: Source,
        *,
        source_labels: Tensor | np.ndarray | None = None,
        target_labels: Tensor | np.ndarray | None = None,
        budget: float | None = None,
        steps: int | None = None,
        checkpoint: str | Path | None = None,
        progress: bool = False,
        report: Callable[[Row], None] | None = None,
    ) -> NeuralOT:
        """Learn the map from samples.

        Parameters
        ----------
        source, target : array or Tensor of shape (N, dim), callable, or iterable of batches
            A callable is asked for n points, ``source(n)``, with ``generator=`` where it takes
            one. With classes, callables and iterables give pairs of points and labels; how often
            a class comes may differ between both sides, for every class has one weight.
        source_labels, target_labels : Tensor or array of shape (N,), optional
            Of arrays, with classes.
        budget : float, optional
            Seconds; 60 if neither is given. The learning rate follows the clock.
        steps : int, optional
            In place of a budget: then the result is a function of the arguments.
        checkpoint : str or Path, optional
            A file that the fit is saved to every minute, every quarter of the fit and when it is
            interrupted, and from which it goes on if it is there.
        progress : bool
            Show a bar.
        report : callable, optional
            Called with every validation.

        Returns
        -------
        NeuralOT
            Itself.

        Raises
        ------
        TypeError, ValueError
            The message names the argument.
        RuntimeError
            At no validation did the searches converge, as may happen to a free potential.

        Warns
        -----
        UserWarning
            The potential is a free one, and not convex where it should be; the searches of the
            last weights do not converge; or the map has to be steeper or flatter than it can.
        """
        if budget is not None and steps is not None:
            raise ValueError("budget: give either budget or steps")
        if steps is None:
            budget = 60.0 if budget is None else budget
        for name, value in (("budget", budget), ("steps", steps)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive; got {value}")
        classes = self.potential.classes
        x = samples("source", source, source_labels, self.dim, classes)
        z = samples("target", target, target_labels, self.dim, classes)
        path = None if checkpoint is None else Path(checkpoint)
        self._begin(x, z)
        fit = Fit(self.maps, self.units, x, z, self.config)
        if path is not None and path.exists():
            fit.resume(path)
        with progress_bar(progress, steps, budget) as bar:

            def told(done: float, row: Row | None) -> None:
                bar(done, row)
                if row is not None and report is not None:
                    report(row)

            fit.run(steps=steps, budget=budget, path=path, report=told)
        self.history = fit.history
        self.potential.requires_grad_(False)
        if not math.isfinite(max(row.dual for row in self.history)):
            raise RuntimeError(
                "fit: the dual on the points held back was never finite, or too few searches "
                "converged, so there is no result; "
                f"{self.history[-1].left_out:.0%} of the last searches were left out"
            )
        if not fit.ends and self.history[-1].dual == -math.inf:
            judged = [row.step for row in self.history if row.dual > -math.inf]
            warnings.warn(
                "fit: the searches of the last weights did not converge on the points held back; "
                f"the result is what there was after {judged[-1]} of {fit.steps} steps",
                stacklevel=2,
            )
        if fit.curvature <= 0:
            warnings.warn(
                f"potential: the map is not one to one: at a point held back |x|^2/2 + g has a "
                f"curvature of {fit.curvature:.2g}; a NeuralPotential with convex=True keeps it "
                "positive",
                stacklevel=2,
            )
        return self

    def _begin(self, source: Samples, target: Samples) -> None:
        """Units, and the map to begin with, from the first points."""
        count, seed, potential = max(10_000, 20 * self.dim), self.config.seed, self.potential
        x = source.first(count, random_at(seed, 4)).to(self.device)
        z = target.first(count, random_at(seed, 5)).to(self.device)
        for name, drawn in (("source", x), ("target", z)):
            _check_classes(name, drawn.labels, potential.classes)
        if self.standardize:
            self.units.measure(x.x, z.x, common=self.cost is not None)
        if self.cost is not None:
            self.domain.measure(self.units.source(x.x))
            return
        self.linear.measure(self.units.source(x.x), self.units.target(z.x), x.labels, z.labels)
        least = float(torch.linalg.eigvalsh(self.linear.slope)[0])
        if potential.convex and least < potential.strong:
            warnings.warn(
                f"potential: strong = {potential.strong:.2g} keeps the map from contracting more, "
                f"and that of Gaussians contracts to {least:.2g}",
                stacklevel=3,
            )
        if len(potential.quadratic) < self.dim:
            return
        values, vectors = torch.linalg.eigh(self.linear.slope)
        root = (values - potential.strong).clamp_min(0).sqrt()
        with torch.no_grad():
            potential.quadratic.zero_()
            potential.quadratic[: self.dim].copy_((vectors * root) @ vectors.T)
            potential.linear.copy_(self.linear.offset)

    def transport(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The forward map, from the source to the target.

        Parameters
        ----------
        x : Tensor, shape (..., dim)
        labels : Tensor, shape (...), int64, optional
            With classes.

        Returns
        -------
        Tensor, shape (..., dim)
        """
        self._check("x", x)
        flat = self.units.source(x.float()).reshape(-1, self.dim)
        labels = None if labels is None else labels.reshape(-1)
        with torch.no_grad():
            found = self.maps.transport(flat, labels)
        return self.units.target_back(found).view(x.shape)

    def inverse(
        self, z: Tensor, labels: Tensor | None = None, *, tol: float = 1e-5, max_iter: int = 500
    ) -> Tensor:
        """The backward map, from the target to the source.

        Parameters
        ----------
        z : Tensor, shape (..., dim)
        labels : Tensor, shape (...), int64, optional
            With classes.
        tol : float
            Of the searches, see `unot_fast.c_transform`.
        max_iter : int
            Gradients that a point may take.

        Returns
        -------
        Tensor, shape (..., dim)

        Raises
        ------
        RuntimeError
            Some searches did not converge; `conjugate` returns what they found.
        """
        found = self.conjugate(z, labels, tol=tol, max_iter=max_iter)
        _expect_converged("inverse", found, max_iter)
        return self.units.source_back(found.y)

    def conjugate(
        self, z: Tensor, labels: Tensor | None = None, *, tol: float = 1e-5, max_iter: int = 500
    ) -> CTransform:
        """The c-transform at points of the target, in the units of the potential."""
        self._check("z", z)
        flat = self.units.target(z.float()).reshape(-1, self.dim)
        labels = None if labels is None else labels.reshape(-1)
        with torch.no_grad():
            found = self.maps.search(flat, labels, tol=tol, max_iter=max_iter)
        lead = {
            name: getattr(found, name).view(z.shape[:-1])
            for name in ("value", "residual", "n_iters", "converged")
        }
        return dataclasses.replace(found, y=found.y.view(z.shape), **lead)

    def dual_value(
        self,
        x: Tensor,
        z: Tensor,
        labels: tuple[Tensor, Tensor] | None = None,
        *,
        tol: float = 1e-4,
        max_iter: int = 500,
    ) -> float:
        r"""What the dual says of :math:`\tfrac12 W_2^2`, from points of both sides.

        In expectation never above the true value, whatever the potential. With a cost of its own,
        of the least cost of a transport. With classes the sum of what it says of each, times the
        mean of the class's shares of both sides.

        Parameters
        ----------
        x, z : Tensor, shapes (N, dim) and (M, dim)
        labels : tuple of Tensor, shapes (N,) and (M,), optional
            With classes.
        tol, max_iter
            Of the searches, see `inverse`.

        Returns
        -------
        float
            In squared units of the data, or those of the cost.

        Raises
        ------
        RuntimeError
            Some searches did not converge, and their values say nothing.
        """
        own, others = (None, None) if labels is None or self.potential.classes == 1 else labels
        for name, points, given in (("x", x, own), ("z", z, others)):
            self._check(name, points)
            if len(points) == 0:
                raise ValueError(f"{name} must have a point at least")
            _check_classes(name, given, self.potential.classes)
        left, right = balanced(one_class(own, x), one_class(others, z), self.potential.classes)
        found = self.conjugate(z, others, tol=tol, max_iter=max_iter)
        _expect_converged("dual_value", found, max_iter)
        units = self.units
        if self.cost is not None:
            with torch.no_grad():
                g = self.maps.whole(units.source(x.float()), own)
            return float(found.value.double() @ right - g.double() @ left) * self._in_units()[1]
        with torch.no_grad():
            u = self.potential.convex_value(units.source(x.float()), own)
        target = units.target(z.float())
        conjugate = target.square().sum(1) / 2 - found.value  # u^*
        both = units.source_scale * units.target_scale
        shift = units.source_mean - units.target_mean
        apart, beyond = x.float() - units.source_mean, z.float() - units.target_mean
        phi = apart.square().sum(1) / 2 + apart @ shift - both * u
        psi = beyond.square().sum(1) / 2 - beyond @ shift - both * conjugate
        constant = shift.square().sum() / 2
        return float(phi.double() @ left + psi.double() @ right + constant.double())

    def w2(
        self,
        x: Tensor,
        z: Tensor,
        labels: tuple[Tensor, Tensor] | None = None,
        *,
        tol: float = 1e-4,
        max_iter: int = 500,
    ) -> float:
        """The Wasserstein-2 distance by `dual_value`: sqrt(2 dual), in the units of the data."""
        if self.cost is not None:
            raise ValueError(f"w2 is for the quadratic cost; this is fitted for {self.cost}")
        return max(2 * self.dual_value(x, z, labels, tol=tol, max_iter=max_iter), 0.0) ** 0.5

    def save(self, path: str | Path) -> None:
        """Write everything that the maps need, as safetensors."""
        state = {
            f"{part}.{k}": v for part in _PARTS for k, v in getattr(self, part).state_dict().items()
        }
        save_state(
            path,
            _KIND,
            state,
            potential=json.dumps(self.potential.arguments()),
            fit=json.dumps(dataclasses.asdict(self.config)),
            standardize=json.dumps(self.standardize),
            cost=json.dumps(described(self.cost)),
        )

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "cpu", *, cost: Cost | None = None
    ) -> NeuralOT:
        """What `save` wrote.

        Parameters
        ----------
        path : str or Path
        device : str or torch.device
        cost : Cost, optional
            Of a fit with a cost that is no `PowerCost`: files know such a one by name alone.

        Raises
        ------
        ValueError
            The file holds something else, or is of another cost.
        """
        state, metadata = load_state(path, _KIND)
        potential = NeuralPotential(**json.loads(metadata["potential"]))
        known = json.loads(metadata["cost"])
        if cost is None and isinstance(known, float):
            cost = PowerCost(known)
        if described(cost) != known:
            raise ValueError(f"cost must be that of the fit, {known}; got {described(cost)}")
        ot = cls(
            potential.dim, potential=potential, cost=cost, device=device,
            standardize=json.loads(metadata["standardize"]), **json.loads(metadata["fit"]),
        )  # fmt: skip
        for name in _PARTS:
            own = f"{name}."
            part = {k.removeprefix(own): v for k, v in state.items() if k.startswith(own)}
            getattr(ot, name).load_state_dict(part)
        ot.potential.requires_grad_(False)
        return ot

    def _check(self, name: str, x: Tensor) -> None:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{name} must be a tensor of floating-point numbers")
        if x.device.type != self.device.type:
            raise ValueError(f"{name} must be where the potential is, on {self.device}")
        if x.ndim < 1 or x.shape[-1] != self.dim:
            raise ValueError(f"{name} must have shape (..., {self.dim}); got {tuple(x.shape)}")
        if not x.isfinite().all():
            raise ValueError(f"{name} must be finite")


def _all(potential: NeuralPotential) -> list[Tensor]:
    return [*potential.parameters(), *potential.buffers()]


def _check_classes(name: str, labels: Tensor | None, classes: int) -> None:
    if classes == 1:
        return
    if labels is None:
        raise ValueError(f"labels are needed, for {classes} classes")
    if labels.is_floating_point() or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels of {name} must be whole numbers in 0..{classes - 1}")
    absent = torch.nonzero(torch.bincount(labels, minlength=classes) == 0)[:, 0].tolist()
    if absent:
        raise ValueError(
            f"{name} must have points of all {classes} classes; none of {len(labels)} is of class "
            f"{', '.join(map(str, absent))}"
        )


def _expect_converged(name: str, found: CTransform, max_iter: int) -> None:
    left = int((~found.converged).sum())
    if left:
        raise RuntimeError(
            f"{name}: {left} of {found.converged.numel()} points did not converge in {max_iter} "
            f"gradients, largest residual {float(found.residual.max()):.1e}; "
            "raise tol or max_iter, or look at conjugate(z)"
        )
