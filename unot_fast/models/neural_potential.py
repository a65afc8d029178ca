"""The network that stands for a potential."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unot_fast.models.potential import Potential
from unot_fast.ops import potential, potential_gradient
from unot_fast.ops.backends import resolve


class NeuralPotential(Potential):
    r"""A potential g = u - |x|^2/2 of dense layers, u convex by construction unless said otherwise.

    .. math::

        p_l = V_l h_{l-1} + (R_l x)^2 + W_l x + b_l, \qquad
        h_l = \tfrac1s \log(1 + e^{s p_l}),

        u(x) = w \cdot h_L + \tfrac12 |A x|^2 + \tfrac\alpha2 |x|^2 + c \cdot x

    It is u that is convex and not g, so the map can contract as well as expand, and the search
    for its inverse has one minimum. At the start the map is near the identity.

    Parameters
    ----------
    dim : int
        d.
    widths : sequence of int, optional
        n_1, ..., n_L: two layers of 128 by default, or of ``dim`` if that is more.
    classes : int
        Potentials that share everything but b and c; points then come with labels.
    quadratic : int, optional
        Rows of A, ``dim`` by default. With fewer the identity of the start is made by the squares
        of the last layer, which must then be at least ``dim`` wide.
    convex : bool
        Whether V and w are kept nonnegative, which `project` sees to. A free potential starts
        from :math:`\alpha = 1`; ask `curvature` whether its map is still one to one.
    sharpness : float
        s.
    strong : float, optional
        alpha: 0.01 by default, 1 for a free potential.
    seed : int
        Of the start.

    Notes
    -----
    V, w and the rest are ordinary parameters; whoever trains them calls `project` after each step.

    References
    ----------
    Amos, Xu and Kolter, "Input convex neural networks", ICML 2017, for convexity by nonnegative
    weights; Korotin et al., "Wasserstein-2 generative networks", ICLR 2021, for quadratic skips.

    Examples
    --------
    >>> import torch
    >>> from unot_fast.models import NeuralPotential
    >>> g = NeuralPotential(3)
    >>> g.transport(torch.zeros(5, 3)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        dim: int,
        widths: Sequence[int] | None = None,
        *,
        classes: int = 1,
        quadratic: int | None = None,
        convex: bool = True,
        sharpness: float = 30.0,
        strong: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, classes)
        quadratic = dim if quadratic is None else quadratic
        strong = (0.01 if convex else 1.0) if strong is None else strong
        widths = (max(128, dim),) * 2 if widths is None else widths
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be one or more positive numbers; got {widths}")
        if not 0 < sharpness < math.inf:
            raise ValueError(f"sharpness must be positive and finite; got {sharpness}")
        if quadratic < 0:
            raise ValueError(f"quadratic must not be negative; got {quadratic}")
        if not 0 < strong <= 1:
            raise ValueError(f"strong must be in (0, 1]; got {strong}")
        self.widths, self.convex = tuple(widths), convex
        self.sharpness, self.strong = sharpness, strong
        random = torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=random) * scale)

        self.slopes = nn.ParameterList(normal(n, dim, scale=dim**-0.5) for n in widths)
        self.squares = nn.ParameterList(normal(n, dim, scale=0.3 * dim**-0.5) for n in widths)
        self.bias = normal(classes, sum(widths), scale=1.0)
        with torch.no_grad():
            self.bias.copy_(self.bias[:1].expand(classes, -1))
        self.hidden = nn.ParameterList(
            nn.Parameter(torch.rand(n, below, generator=random) * 2 / below)
            for below, n in zip(self.widths, self.widths[1:], strict=False)
        )
        self.top = nn.Parameter(torch.full((self.widths[-1],), 0.01 / self.widths[-1]))
        self.quadratic = nn.Parameter(torch.zeros(quadratic, dim))
        self.linear = nn.Parameter(torch.zeros(classes, dim))
        self._near_identity(random)

    @torch.no_grad()
    def _near_identity(self, random: torch.Generator) -> None:
        missing = 1 - self.strong
        # Rows of zeros would stay zero.
        small = torch.randn(self.quadratic.shape, generator=random) * 0.05 * self.dim**-0.5
        self.quadratic.copy_(small)
        if missing > 0 and len(self.quadratic) >= self.dim:
            self.quadratic[: self.dim].copy_(math.sqrt(missing) * torch.eye(self.dim))
        elif missing > 0:
            width = self.widths[-1]
            if width < self.dim:
                raise ValueError(
                    f"widths must end with at least dim = {self.dim} where quadratic is less than "
                    f"dim; got {width}"
                )
            # Where p is large the softplus is the identity, and the squares of orthogonal rows
            # add up to |x|^2.
            frame = torch.linalg.qr(torch.randn(width, self.dim, generator=random)).Q
            self.squares[-1].copy_(frame * math.sqrt(width / self.dim))
            self.slopes[-1].mul_(0.1)
            self.bias[:, -width:] = 1.0
            self.top.fill_(missing * self.dim / (2 * width))

    @torch.no_grad()
    def project(self) -> None:
        """Put the weights that convexity wants nonnegative back to zero where they are not."""
        if self.convex:
            for weight in (*self.hidden, self.top):
                weight.clamp_(min=0)

    def arguments(self) -> dict[str, object]:
        """What makes another of this shape, but for the seed of its start."""
        return {
            "dim": self.dim, "widths": list(self.widths), "classes": self.classes,
            "quadratic": len(self.quadratic), "convex": self.convex,
            "sharpness": self.sharpness, "strong": self.strong,
        }  # fmt: skip

    def weights(self) -> dict[str, Tensor | list[Tensor] | float]:
        """The arguments of u in `unot_fast.ops.potential`."""
        rows = [x for pair in zip(self.slopes, self.squares, strict=True) for x in pair]
        return {
            "maps": torch.cat([*rows, self.quadratic]),
            "hidden": list(self.hidden),
            "bias": self.bias,
            "top": self.top,
            "linear": self.linear,
            "strong": self.strong,
            "sharpness": self.sharpness,
        }

    def convex_value(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """u, shape (B,)."""
        return potential(x, self._labels(labels), **self.weights(), backend=self._backend(x))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.convex_value(x, labels) - x.square().sum(1) / 2

    def gradient(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.transport(x, labels) - x

    def transport(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        backend = "torch" if torch.is_grad_enabled() else self._backend(x)
        return potential_gradient(x, self._labels(labels), **self.weights(), backend=backend)

    def _labels(self, labels: Tensor | None) -> Tensor | None:
        if labels is None and self.classes > 1:
            raise ValueError(f"labels are needed, for {self.classes} classes")
        return None if self.classes == 1 else labels

    @staticmethod
    def _backend(x: Tensor) -> str:
        return "torch" if x.device.type != "cpu" else resolve("auto", x.device)
