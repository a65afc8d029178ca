"""Two Gaussians, whose optimal map is a matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unot_fast.neural_ot import symmetric_power


class GaussianPair:
    r"""Centred Gaussians of given covariances.

    .. math:: T^*(x) = S_0^{-1/2} (S_0^{1/2} S_1 S_0^{1/2})^{1/2} S_0^{-1/2} x

    Parameters
    ----------
    first, second : Tensor, shape (d, d)
        Covariances of source and target.
    """

    def __init__(self, first: Tensor, second: Tensor) -> None:
        first, second = first.double(), second.double()
        self.dim = len(first)
        self.root, inverse = symmetric_power(first, 0.5), symmetric_power(first, -0.5)
        self.matrix = inverse @ symmetric_power(self.root @ second @ self.root, 0.5) @ inverse
        self.inverse_matrix = torch.linalg.inv(self.matrix)
        self.source_variance, self.target_variance = float(first.trace()), float(second.trace())

    @classmethod
    def random(cls, dim: int, seed: int) -> GaussianPair:
        """Covariances with random axes and eigenvalues exp(U(-log 2, log 2))."""
        random = torch.Generator().manual_seed(seed)

        def covariance() -> Tensor:
            normal = torch.randn(dim, dim, generator=random, dtype=torch.float64)
            axes = torch.linalg.qr(normal).Q
            powers = 2 * torch.rand(dim, generator=random, dtype=torch.float64) - 1
            return (axes * (math.log(2) * powers).exp()) @ axes.T

        return cls(covariance(), covariance())

    def source(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.dim, generator=generator) @ self.root.float()

    def target(self, n: int, generator: torch.Generator) -> Tensor:
        return self.transport(self.source(n, generator))

    def transport(self, x: Tensor) -> Tensor:
        """The optimal map."""
        return x @ self.matrix.to(x.dtype)

    def w2(self) -> float:
        """The Wasserstein-2 distance."""
        cross = float((self.root @ self.matrix @ self.root).trace())
        return max(self.source_variance + self.target_variance - 2 * cross, 0.0) ** 0.5

    def best_of_expansions(self, iterations: int = 20000) -> tuple[Tensor, float, float]:
        r"""The symmetric matrix that solves the dual among maps that contract nowhere.

        What convex g instead of convex u can reach: :math:`A \succeq I` with
        :math:`\min_A \tfrac12 \mathrm{tr}(A S_0) + \tfrac12 \mathrm{tr}(A^{-1} S_1)`, by projected
        gradient descent.

        Returns
        -------
        tuple of Tensor and float
            A, and the L2-UVP in percent of it and of its inverse.
        """
        first = self.root @ self.root
        second = self.matrix @ first @ self.matrix
        eye = torch.eye(self.dim, dtype=torch.float64)
        a, step = eye.clone(), 0.5 / float(torch.linalg.eigvalsh(second)[-1])
        for _ in range(iterations):
            inverse = torch.linalg.inv(a)
            values, vectors = torch.linalg.eigh(a - step * (first - inverse @ second @ inverse) / 2)
            new = (vectors * values.clamp_min(1.0)) @ vectors.T
            change, a = float((new - a).abs().max()), new
            if change < 1e-12:
                break
        ahead, back = a - self.matrix, torch.linalg.inv(a) - self.inverse_matrix
        return (
            a,
            float(100 * (ahead @ first @ ahead).trace() / self.target_variance),
            float(100 * (back @ second @ back).trace() / self.source_variance),
        )
