"""The network of Meta OT: one grid, one cost, one epsilon."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from unot_fast.geometry import Geometry, Grid, Structure
from unot_fast.models.inputs import DUST, masses
from unot_fast.solver.dispatch import backend_for, half_step


class MetaOT(nn.Module):
    r"""An MLP from two measures on one grid to their dual potentials.

    As published, the network predicts f, and g is a half-step of Sinkhorn's iteration from it.
    Potentials are relative to the marginals, as the solver has them, and the input is densities
    relative to the uniform measure.

    A model is a start of the solver: ``sinkhorn(a, b, geom, epsilon, init=model)``.

    Parameters
    ----------
    geom : Grid
        Of two axes, with a cost that is a sum over them and the same points on either side.
    epsilon : float
    width : int
        Features of a hidden layer.
    depth : int
        Hidden layers.

    References
    ----------
    Amos et al., "Meta optimal transport", 2022.

    Examples
    --------
    >>> import torch
    >>> from unot_fast import Grid
    >>> from unot_fast.models import MetaOT
    >>> model = MetaOT(Grid((28, 28)), epsilon=0.01, width=64)
    >>> model(*torch.rand(2, 3, 28, 28)).shape
    torch.Size([3, 28, 28])
    """

    def __init__(self, geom: Grid, epsilon: float = 0.01, width: int = 1024, depth: int = 3):
        super().__init__()
        separable = isinstance(geom, Grid) and geom.structure is Structure.SEPARABLE
        if not separable or len(geom.shape) != 2:
            raise ValueError(
                f"geom must be a Grid of two axes whose cost is a sum over them; got {geom!r}"
            )
        if not all(c.shape == c.mT.shape and torch.equal(c, c.mT) for c in geom.axis_costs):
            raise ValueError(f"geom must have the same points on either side; got {geom!r}")
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon must be positive and finite; got {epsilon}")
        self.geom, self.epsilon = geom, float(epsilon)
        points = math.prod(geom.shape)
        layers: list[nn.Module] = []
        for c_in, c_out in itertools.pairwise([2 * points, *[width] * depth]):
            layers += [nn.Linear(c_in, c_out), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Linear(width, points))

    def forward(
        self,
        mu: Tensor,
        nu: Tensor,
        geom: Geometry | None = None,
        epsilon: float | Tensor | None = None,
    ) -> Tensor:
        r"""The potential g of the target: a half-step from the prediction of f.

        It is relative to the marginals and in units of cost.

        Parameters
        ----------
        mu, nu : Tensor, shape (\*batch, n_1, n_2)
            Masses, of any totals.
        geom : Geometry, optional
            Must be that of the network.
        epsilon : float or Tensor, shape (\*batch), optional
            Must be that of the network.

        Returns
        -------
        Tensor, shape (\*batch, n_1, n_2)

        Raises
        ------
        ValueError
            The measures are none or have other shapes, or the network is not for this geometry or
            epsilon.
        """
        if geom is not None and not _same(geom, self.geom):
            raise ValueError(f"geom must be {self.geom!r}, that of the network; got {geom!r}")
        if mu.shape != nu.shape or tuple(mu.shape[-2:]) != self.geom.shape:
            n_1, n_2 = self.geom.shape
            raise ValueError(
                f"mu and nu must have one shape (*batch, {n_1}, {n_2}), that of the network; "
                f"got {tuple(mu.shape)} and {tuple(nu.shape)}"
            )
        if epsilon is not None:
            given = torch.as_tensor(epsilon, dtype=torch.float64)
            if not bool(((given / self.epsilon - 1).abs() < 1e-5).all()):
                raise ValueError(
                    f"epsilon must be {self.epsilon:g}, that of the network; got {epsilon}"
                )
        flat = (-1, *self.geom.shape)
        a, b = (
            x.clamp_min(DUST / x[0].numel()) for x in masses(mu.reshape(flat), nu.reshape(flat))
        )
        of_each = torch.full((len(a),), self.epsilon, dtype=torch.float64, device=a.device)
        backend = backend_for("auto", self.geom, a.device)
        # With the sides exchanged: the cost is the same from either.
        g = half_step(self.geom, a, self.predict(a, b).to(a), of_each, backend)
        return g.reshape(nu.shape)

    def predict(self, a: Tensor, b: Tensor) -> Tensor:
        """The potential f of the source, for masses (B, n_1, n_2) of total 1."""
        points = a[0].numel()
        x = points * torch.cat([a.flatten(1), b.flatten(1)], 1)
        return self.network(x.to(self.network[0].weight.dtype)).view(a.shape)

    def extra_repr(self) -> str:
        return f"geom={self.geom!r}, epsilon={self.epsilon:g}"


def _same(geom: Geometry, other: Grid) -> bool:
    """Whether all costs are equal."""
    if geom is other:
        return True
    if not isinstance(geom, Grid) or geom.structure is not Structure.SEPARABLE:
        return False
    costs = geom.axis_costs
    return [c.shape for c in costs] == [c.shape for c in other.axis_costs] and all(
        map(torch.allclose, costs, other.axis_costs)
    )
