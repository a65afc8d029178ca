"""The network of Meta OT: one grid, one cost, one epsilon."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from unot_fast.geometry import Geometry, Grid, Structure


class MetaOT(nn.Module):
    r"""An MLP from two measures on one grid to the dual potential g.

    The published network predicts f and takes g from a half-step; this one predicts g, so that an
    iteration from it begins as one from any other start. Potentials are relative to the
    marginals, as the solver has them, and the input is densities relative to the uniform measure.

    A model is a start of the solver: ``sinkhorn(a, b, geom, epsilon, init=model)``.

    Parameters
    ----------
    geom : Grid
        With a cost that is a sum over the axes, and the same points on either side.
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
        if not isinstance(geom, Grid) or geom.structure is not Structure.SEPARABLE:
            raise ValueError(f"geom must be a Grid whose cost is a sum over axes; got {geom!r}")
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
        r"""The potential g of the target, relative to the marginals and in units of cost.

        Parameters
        ----------
        mu, nu : Tensor, shape (\*batch, \*geom.shape)
            Masses, of any totals.
        geom : Geometry, optional
            Must be that of the network.
        epsilon : float or Tensor, shape (\*batch), optional
            Must be that of the network.

        Returns
        -------
        Tensor, shape (\*batch, \*geom.shape)

        Raises
        ------
        ValueError
            The measures have other shapes, or the network is not for this geometry or epsilon.
        """
        if geom is not None and not _same(geom, self.geom):
            raise ValueError(f"geom must be {self.geom!r}, that of the network; got {geom!r}")
        axes = len(self.geom.shape)
        if mu.shape != nu.shape or tuple(mu.shape[-axes:]) != self.geom.shape:
            raise ValueError(
                f"mu and nu must have one shape (*batch, {', '.join(map(str, self.geom.shape))}), "
                f"that of the network; got {tuple(mu.shape)} and {tuple(nu.shape)}"
            )
        if epsilon is not None:
            given = torch.as_tensor(epsilon, dtype=torch.float64)
            if not bool(((given / self.epsilon - 1).abs() < 1e-5).all()):
                raise ValueError(
                    f"epsilon must be {self.epsilon:g}, that of the network; got {epsilon}"
                )
        weight = self.network[0].weight
        densities = [x.flatten(-axes).to(weight.dtype) for x in (mu, nu)]
        densities = [x / x.mean(-1, keepdim=True) for x in densities]
        g = self.network(torch.cat(densities, -1))
        return g.unflatten(-1, self.geom.shape).to(nu.dtype)

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
