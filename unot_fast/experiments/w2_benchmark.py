"""The Wasserstein-2 benchmark: mixtures of Gaussians and a known optimal map between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unot_fast.models import Potential


class W2Benchmark:
    """A pair Mix3toMix10: three Gaussians, carried to something like ten by a known potential.

    Parameters
    ----------
    path : str or Path
        Arrays of a pair, ``.npz``: ``centers`` (K, d) and ``mix`` (K, d, d) of the source,
        x = centers[k] + mix[k] e with e normal; for nets j = 1, 2 the weights ``nj_R0`` (d, n),
        ``nj_W0`` (n, d), ``nj_b0``, the same for layers 1 and 2, ``nj_V1``, ``nj_V2``, ``nj_w``;
        ``scale``, ``shift``, ``var_source``, ``var_target``.

    Attributes
    ----------
    dim : int
    potential : Potential
        The true one.
    source_variance, target_variance : float
        Traces of the covariances.

    References
    ----------
    Korotin et al., "Do neural optimal transport solvers work? A continuous Wasserstein-2
    benchmark", NeurIPS 2021.
    """

    def __init__(self, path: str | Path) -> None:
        with np.load(path) as file:
            arrays = {k: file[k] for k in file.files if file[k].dtype.kind == "f"}
        missing = {"centers", "mix", "scale", "shift", "n1_w", "n2_w"} - set(arrays)
        if missing:
            raise ValueError(f"{path} is no pair of the benchmark: no {sorted(missing)}")
        tensors = {k: torch.from_numpy(np.array(v, np.float32)) for k, v in arrays.items()}
        self.centers, self.mix = tensors["centers"], tensors["mix"]
        self.dim = self.centers.shape[1]
        self.source_variance = float(arrays["var_source"])
        self.target_variance = float(arrays["var_target"])
        self.potential = TruePotential(tensors)

    def source(self, n: int, generator: torch.Generator) -> Tensor:
        k = torch.randint(len(self.centers), (n,), generator=generator)
        normal = torch.randn(n, self.dim, 1, generator=generator)
        return self.centers[k] + (self.mix[k] @ normal)[..., 0]

    def target(self, n: int, generator: torch.Generator) -> Tensor:
        return self.transport(self.source(n, generator))

    def transport(self, x: Tensor) -> Tensor:
        """The optimal map."""
        with torch.no_grad():
            return self.potential.transport(x)


class TruePotential(Potential):
    r"""The benchmark's potential: u = scale (psi_1 + psi_2 + shift . x).

    .. math::

        p_0 = (R_0^T x)^2 + W_0 x + b_0, \quad
        p_1 = (R_1^T x)^2 + W_1 x + b_1 + V_1 p_0, \quad
        p_2 = (R_2^T x)^2 + W_2 x + b_2 + V_2\, \mathrm{celu}(p_1),

        \psi = w \cdot \mathrm{celu}(p_2) + \tfrac{0.01}{2} |x|^2
    """

    convex = True

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        super().__init__(len(arrays["shift"]))
        self.register_buffer("scale", arrays["scale"])
        self.register_buffer("shift", arrays["shift"])
        for name, value in arrays.items():
            if name.startswith(("n1_", "n2_")):
                self.register_buffer(name, value.flatten() if name.endswith("_w") else value)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        total = x @ self.shift
        for net in ("n1", "n2"):
            p, _ = self._layers(net, x)[-1]
            total = total + F.celu(p) @ self._of(net, "w") + 0.005 * x.square().sum(1)
        return self.scale * total - x.square().sum(1) / 2

    def gradient(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.transport(x) - x

    def transport(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        total = self.shift.expand_as(x)
        for net in ("n1", "n2"):
            layers = self._layers(net, x)
            delta = self._of(net, "w") * _celu_slope(layers[2][0])
            total = total + 0.01 * x
            for k in (2, 1, 0):
                _p, r = layers[k]
                total = total + delta @ self._of(net, f"W{k}")
                total = total + (2 * r * delta) @ self._of(net, f"R{k}").T
                if k:
                    delta = delta @ self._of(net, f"V{k}")
                    if k == 2:
                        delta = delta * _celu_slope(layers[1][0])
        return self.scale * total

    def _of(self, net: str, name: str) -> Tensor:
        return getattr(self, f"{net}_{name}")

    def _layers(self, net: str, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """p and R^T x of every layer."""
        layers = []
        for k in range(3):
            r = x @ self._of(net, f"R{k}")
            p = r.square() + F.linear(x, self._of(net, f"W{k}"), self._of(net, f"b{k}"))
            if k:
                below = layers[-1][0]
                p = p + (below if k == 1 else F.celu(below)) @ self._of(net, f"V{k}").T
            layers.append((p, r))
        return layers


def _celu_slope(p: Tensor) -> Tensor:
    return p.clamp_max(0).exp()
