"""Optimal transport between two sets of samples, as one learned potential."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unot_fast.conjugate import CTransform, PowerCost
from unot_fast.models import NeuralPotential
from unot_fast.models.files import load_state, save_state
from unot_fast.neural_ot.config import FitConfig
from unot_fast.neural_ot.fit import Fit, Row
from unot_fast.neural_ot.linear_map import LinearMap
from unot_fast.neural_ot.maps import Maps
from unot_fast.neural_ot.progress import progress_bar
from unot_fast.neural_ot.samples import Samples, Source, samples
from unot_fast.neural_ot.units import Units
from unot_fast.training.processes import random_at

_KIND = "unot_fast.NeuralOT"
_PARTS = ("potential", "units", "linear")


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
        A potential of your own, in place of the three arguments before.
    standardize : bool
        Learn in units where both sides have mean 0 and coordinates that vary by about 1.
    cost : PowerCost, optional
        In place of half the squared distance. The potential is then a free network, both sides
        share their units, and nothing promises that a search finds the least of several minima.
    device : str or torch.device
        Where the potential is, and what the maps take has to be; samples are brought there.
    **fit
        Settings of `unot_fast.neural_ot.config.FitConfig`, such as ``batch`` or ``seed``.

    Attributes
    ----------
    potential : NeuralPotential
        In those units.
    units : Units
    maps : Maps
        The same maps in those units, and the searches as they are begun.
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
        cost: PowerCost | None = None,
        device: str | torch.device = "cpu",
        **fit: float,
    ) -> None:
        self.config = FitConfig(**fit)
        if potential is None:
            potential = NeuralPotential(
                dim, widths, classes=classes, quadratic=quadratic, convex=cost is None,
                seed=self.config.seed,
            )  # fmt: skip
        if not isinstance(potential, NeuralPotential):
            raise TypeError(f"potential must be a NeuralPotential; got {type(potential).__name__}")
        if potential.dim != dim:
            raise ValueError(f"potential must have dim = {dim}; got {potential.dim}")
        self.dim, self.device = dim, torch.device(device)
        self.potential = potential.to(self.device, torch.float32)
        self.units, self.standardize, self.cost = Units(dim).to(self.device), standardize, cost
        self.linear = LinearMap(dim, potential.classes).to(self.device)
        self.maps = Maps(self.potential, self.linear, cost)
        self.history: list[Row] = []

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
            one. With classes, callables and iterables give pairs of points and labels.
        source_labels, target_labels : Tensor or array of shape (N,), optional
            Of arrays, with classes.
        budget : float, optional
            Seconds; 60 if neither is given. The learning rate follows the clock.
        steps : int, optional
            In place of a budget: then the result is a function of the arguments.
        checkpoint : str or Path, optional
            A file that the fit is saved to every minute, and from which it goes on if it is there.
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
            The dual is not bounded, as may happen to a free potential.

        Warns
        -----
        UserWarning
            The potential is a free one, and not convex where it should be.
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
                "fit: the dual on the points held back was never finite, so there is no result; "
                f"{self.history[-1].left_out:.0%} of the last searches were left out"
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
        if self.standardize:
            self.units.measure(x.x, z.x, common=self.cost is not None)
        if self.cost is not None:
            return
        self.linear.measure(self.units.source(x.x), self.units.target(z.x), x.labels, z.labels)
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
        left = int((~found.converged).sum())
        if left:
            raise RuntimeError(
                f"inverse: {left} of {found.converged.numel()} points did not converge in "
                f"{max_iter} gradients, largest residual {float(found.residual.max()):.1e}; "
                "raise tol or max_iter, or look at conjugate(z)"
            )
        return self.units.source_back(found.y)

    def conjugate(
        self, z: Tensor, labels: Tensor | None = None, *, tol: float = 1e-5, max_iter: int = 500
    ) -> CTransform:
        """The c-transform at points of the target, in the units of the potential."""
        self._check("z", z)
        with torch.no_grad():
            return self.maps.search(
                self.units.target(z.float()), labels, tol=tol, max_iter=max_iter
            )

    def dual_value(
        self,
        x: Tensor,
        z: Tensor,
        labels: tuple[Tensor, Tensor] | None = None,
        *,
        tol: float = 1e-5,
    ) -> float:
        r"""What the dual says of :math:`\tfrac12 W_2^2`, from points of both sides.

        In expectation never above the true value, whatever the potential. With a cost of its own,
        of the least cost of a transport.

        Parameters
        ----------
        x, z : Tensor, shapes (N, dim) and (M, dim)
        labels : tuple of Tensor, shapes (N,) and (M,), optional
            With classes.
        tol : float
            Of the searches.

        Returns
        -------
        float
            In squared units of the data, or those of the cost.
        """
        self._check("x", x)
        own, others = (None, None) if labels is None else labels
        found = self.conjugate(z, others, tol=tol)
        units = self.units
        if self.cost is not None:
            with torch.no_grad():
                g = self.potential(units.source(x.float()), own)
            return float(
                (found.value.double().mean() - g.double().mean())
                * units.source_scale.double() ** self.cost.p
            )
        with torch.no_grad():
            u = self.potential.convex_value(units.source(x.float()), own)
        target = units.target(z.float())
        conjugate = target.square().sum(1) / 2 - found.value  # u^*
        both = units.source_scale * units.target_scale
        shift = units.source_mean - units.target_mean
        left, right = x.float() - units.source_mean, z.float() - units.target_mean
        phi = left.square().sum(1) / 2 + left @ shift - both * u
        psi = right.square().sum(1) / 2 - right @ shift - both * conjugate
        constant = shift.square().sum() / 2
        return float(phi.double().mean() + psi.double().mean() + constant.double())

    def w2(self, x: Tensor, z: Tensor, labels: tuple[Tensor, Tensor] | None = None) -> float:
        """The Wasserstein-2 distance by `dual_value`: sqrt(2 dual), in the units of the data."""
        if self.cost is not None:
            raise ValueError(f"w2 is for the quadratic cost; this is fitted for {self.cost}")
        return max(2 * self.dual_value(x, z, labels), 0.0) ** 0.5

    def save(self, path: str | Path) -> None:
        """Write everything that the maps need, as safetensors."""
        potential = self.potential
        described = {
            "dim": self.dim, "widths": potential.widths, "classes": potential.classes,
            "quadratic": len(potential.quadratic), "convex": potential.convex,
            "sharpness": potential.sharpness, "strong": potential.strong,
        }  # fmt: skip
        state = {
            f"{part}.{k}": v for part in _PARTS for k, v in getattr(self, part).state_dict().items()
        }
        save_state(
            path,
            _KIND,
            state,
            potential=json.dumps(described),
            fit=json.dumps(dataclasses.asdict(self.config)),
            cost=json.dumps(None if self.cost is None else self.cost.p),
        )

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> NeuralOT:
        """What `save` wrote.

        Raises
        ------
        ValueError
            The file holds something else.
        """
        state, metadata = load_state(path, _KIND)
        described = json.loads(metadata["potential"])
        potential = NeuralPotential(**described)
        p = json.loads(metadata["cost"])
        ot = cls(
            described["dim"], potential=potential, cost=None if p is None else PowerCost(p),
            device=device, **json.loads(metadata["fit"]),
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
