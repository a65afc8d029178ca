"""What a transport potential can be asked, whatever it is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Potential(nn.Module):
    r"""A function g on the source space, the dual potential of a transport of quadratic cost.

    With cost :math:`\tfrac12|x - z|^2` the Kantorovich potential of the source is -g, the Brenier
    potential :math:`u(x) = \tfrac12|x|^2 + g(x)`, and the map is
    :math:`T(x) = \nabla u(x) = x + \nabla g(x)`. The prox of g is T's inverse where u is convex.

    A subclass defines `forward`; the rest then comes by automatic differentiation, which it may
    replace by something faster.

    Parameters
    ----------
    dim : int
        d, of the space.
    classes : int
        How many potentials there are, chosen by ``labels``; with 1 there are no labels.

    Attributes
    ----------
    convex : bool
        Whether u is convex by construction.
    """

    convex = False

    def __init__(self, dim: int, classes: int = 1) -> None:
        super().__init__()
        for name, number in (("dim", dim), ("classes", classes)):
            if number < 1:
                raise ValueError(f"{name} must be positive; got {number}")
        self.dim, self.classes = dim, classes

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """g.

        Parameters
        ----------
        x : Tensor, shape (B, dim)
        labels : Tensor, shape (B,), int64, optional
            The class of every point.

        Returns
        -------
        Tensor, shape (B,)
        """
        raise NotImplementedError

    def gradient(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The gradient of g in ``x``, shape (B, dim), itself differentiable."""
        keep = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x = x if x.requires_grad else _leaf(x)
            value = self(x, _plain(labels)).sum()
            if not value.requires_grad:  # g is constant
                return torch.zeros_like(x)
            return torch.autograd.grad(value, x, create_graph=keep, materialize_grads=True)[0]

    def transport(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The map T(x), shape (B, dim)."""
        return x + self.gradient(x, labels)

    def hessian_vector(self, x: Tensor, v: Tensor, labels: Tensor | None = None) -> Tensor:
        """The Hessian of g at ``x`` times ``v``, shape (B, dim)."""
        with torch.inference_mode(False), torch.enable_grad():
            x = _leaf(x)
            slope = self.gradient(x, _plain(labels))
            if not slope.requires_grad:  # g is linear
                return torch.zeros_like(x)
            return torch.autograd.grad(slope, x, _plain(v), materialize_grads=True)[0]

    def curvature(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Least and greatest eigenvalue of the Hessian of u = |x|^2/2 + g at every point.

        The inverse map is well posed where the least is positive: u is convex there. Costs
        ``dim`` products of the Hessian, and its eigenvalues, for every point: take some hundreds.

        Returns
        -------
        tuple of Tensor, shapes (B,) and (B,)
        """
        batch, dim = x.shape
        many = x.repeat_interleave(dim, 0)
        labels = None if labels is None else labels.repeat_interleave(dim)
        basis = torch.eye(dim, dtype=x.dtype, device=x.device)
        rows = self.hessian_vector(many, basis.repeat(batch, 1), labels)
        hessians = rows.view(batch, dim, dim) + basis
        eigenvalues = torch.linalg.eigvalsh((hessians + hessians.mT) / 2)
        return eigenvalues[:, 0], eigenvalues[:, -1]


def _leaf(x: Tensor) -> Tensor:
    return _plain(x).detach().requires_grad_()


def _plain(x: Tensor | None) -> Tensor | None:
    """A tensor that autograd may keep, where this one is of inference mode."""
    return x.clone() if x is not None and x.is_inference() else x
