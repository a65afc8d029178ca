"""The generator of training measures."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Generator(nn.Module):
    r"""Pairs of measures from Gaussian noise, the adversary of UNOT's training.

    .. math:: G(z) = N\bigl(N(\mathrm{ReLU}(\mathrm{NN}(z) + \lambda\, I(z))) + \delta\bigr)

    with a small network NN of five layers, bilinear interpolation I of the sample's own noise and
    N the scaling to a total of 1.

    Parameters
    ----------
    n : int
        Resolution of the measures, n x n.
    noise : int
        That of the noise.
    hidden : int
        Width of the network.
    scale : float
        :math:`\lambda`, positive.
    dust : float
        :math:`\delta`, the mass added to every point.
    lipschitz : float, optional
        Bound on the Lipschitz constant of NN in units of :math:`\lambda`. Below 1, as in the
        paper's Theorem 3, NN + :math:`\lambda` id is invertible and every pair of measures of the
        noise's resolution is reached. It takes the place of batch normalisation, which has no
        such bound.

    Raises
    ------
    ValueError
        An argument is out of its range.

    Notes
    -----
    The published code adds the noise of other samples of the batch; this one a sample's own, as
    the paper has it.

    References
    ----------
    Geuter et al., "Universal neural optimal transport", 2025, section 4.

    Examples
    --------
    >>> from unot_fast.models import Generator
    >>> mu, nu = Generator(n=64).sample(8)
    >>> mu.shape
    torch.Size([8, 64, 64])
    """

    def __init__(
        self,
        n: int = 64,
        noise: int = 10,
        hidden: int = 164,
        *,
        scale: float = 1.0,
        dust: float = 1e-6,
        lipschitz: float | None = None,
    ):
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale must be positive; got {scale}")
        if dust < 0:
            raise ValueError(f"dust must not be negative; got {dust}")
        if lipschitz is not None and lipschitz <= 0:
            raise ValueError(f"lipschitz must be positive; got {lipschitz}")
        self.n, self.noise, self.scale, self.dust = n, noise, scale, dust
        widths = [2 * noise**2, *[hidden] * 4, 2 * n**2]
        layers: list[nn.Module] = []
        for k, (w_in, w_out) in enumerate(itertools.pairwise(widths)):
            layers.append(nn.Linear(w_in, w_out))
            last = k == len(widths) - 2
            if lipschitz is not None:
                # The sigmoid has slope 1/4 at most, the ELU 1.
                bound = 4 * lipschitz * scale if last else 1.0
                parametrize.register_parametrization(layers[-1], "weight", _Bounded(bound))
            elif not last:
                layers.append(nn.BatchNorm1d(w_out))
            layers.append(nn.Sigmoid() if last else nn.ELU())
        self.network = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Measures mu and nu, (B, n, n), of total 1, from noise (B, 2, noise, noise)."""
        if z.shape[1:] != (2, self.noise, self.noise):
            raise ValueError(
                f"z must have shape (B, 2, {self.noise}, {self.noise}); got {tuple(z.shape)}"
            )
        x = self.network(z.flatten(1)).view(-1, 2, self.n, self.n)
        own = F.interpolate(z, size=(self.n, self.n), mode="bilinear", align_corners=False)
        return normalised(F.relu(x + self.scale * own), self.dust).unbind(1)

    def sample(
        self,
        batch: int,
        shape: int | tuple[int, int] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pairs from fresh noise, by ``generator``, on another grid if its shape is given."""
        like = next(self.parameters())
        noise = batch, 2, self.noise, self.noise
        z = torch.randn(noise, generator=generator, dtype=like.dtype, device=like.device)
        return self.pair(z, shape)

    def pair(self, z: Tensor, shape: int | tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Measures from noise (B, 2, noise, noise), on another grid if its shape is given."""
        pair = self(z)
        if shape in (None, self.n, (self.n, self.n)):
            return pair
        return tuple(resampled(x, shape, self.dust) for x in pair)


def normalised(x: Tensor, dust: float) -> Tensor:
    r"""Measures of total 1 from non-negative functions (\*batch, n, n), ``dust`` on every point.

    One that is zero everywhere becomes uniform.
    """
    tiny = torch.finfo(x.dtype).tiny
    x = x / x.amax((-2, -1), keepdim=True).clamp_min(tiny)  # sums of large values may overflow
    x = x / x.sum((-2, -1), keepdim=True).clamp_min(tiny)
    x = x + max(dust, tiny)
    return x / x.sum((-2, -1), keepdim=True)


def resampled(x: Tensor, shape: int | tuple[int, int], dust: float) -> Tensor:
    """Measures (B, ., .) on another grid, by bilinear interpolation of their values."""
    size = (shape, shape) if isinstance(shape, int) else shape
    x = F.interpolate(x[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return normalised(x, dust)


class _Bounded(nn.Module):
    """Matrices scaled down to a spectral norm of at most ``bound``."""

    def __init__(self, bound: float):
        super().__init__()
        self.bound = bound

    def forward(self, w: Tensor) -> Tensor:
        # The norm is at most the geometric mean of the largest sums over rows and columns.
        size = w.abs()
        norm = (size.sum(0).amax() * size.sum(1).amax()).sqrt()
        return w * (self.bound / norm.clamp_min(self.bound))
