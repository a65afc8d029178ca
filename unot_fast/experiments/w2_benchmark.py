"""The Wasserstein-2 benchmark: mixtures of Gaussians and a known optimal map between them."""

from __future__ import annotations

import pickle
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
        ``scale``, ``shift``, ``var_source``, ``var_target``. Or one of the two checkpoints of the
        published benchmark, ``D_v1.pt`` or ``D_v2.pt``, with the other beside it.

    Attributes
    ----------
    dim : int
    potential : Potential
        The true one.
    source_variance, target_variance : float
        Traces of the covariances.

    Raises
    ------
    ValueError
        The file is no such pair.

    References
    ----------
    Korotin et al., "Do neural optimal transport solvers work? A continuous Wasserstein-2
    benchmark", NeurIPS 2021.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        tensors = _from_checkpoints(path) if path.suffix == ".pt" else _from_arrays(path)
        self.centers, self.mix = tensors["centers"], tensors["mix"]
        self.dim = self.centers.shape[1]
        self.source_variance = float(tensors["var_source"])
        self.target_variance = float(tensors["var_target"])
        self.potential = TruePotential(tensors)

    def source(self, n: int, generator: torch.Generator) -> Tensor:
        return _mixture(self.centers, self.mix, n, generator)

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


def _mixture(centers: Tensor, mix: Tensor, n: int, generator: torch.Generator) -> Tensor:
    k = torch.randint(len(centers), (n,), generator=generator)
    normal = torch.randn(n, centers.shape[1], generator=generator)
    # Every point by every matrix, of which there are few: cheaper than a matrix for every point.
    return centers[k] + (normal @ mix.mT)[k, torch.arange(n)]


def _from_arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path) as file:
        arrays = {k: file[k] for k in file.files if file[k].dtype.kind == "f"}
    missing = {"centers", "mix", "scale", "shift", "n1_w", "n2_w"} - set(arrays)
    if missing:
        raise ValueError(f"{path} is no pair of the benchmark: no {sorted(missing)}")
    return {k: torch.from_numpy(np.array(v, np.float32)) for k, v in arrays.items()}


def _from_checkpoints(path: Path) -> dict[str, Tensor]:
    """Both nets from their files; the source is a function of the dimension."""
    dim, _, net = path.stem.partition("_")
    if not dim.isdigit() or net not in ("v1", "v2"):
        raise ValueError(f"path must be D_v1.pt or D_v2.pt of the benchmark; got {path.name}")
    tensors = _published_source(int(dim))
    for j in (1, 2):
        file = path.with_name(f"{dim}_v{j}.pt")
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            for k in range(3):
                layer = f"quadratic_layers.{k}"
                tensors[f"n{j}_R{k}"] = state[f"{layer}.quadratic_decomposed"][:, 0]
                tensors[f"n{j}_W{k}"] = state[f"{layer}.weight"]
                tensors[f"n{j}_b{k}"] = state[f"{layer}.bias"]
            for k in (1, 2):
                tensors[f"n{j}_V{k}"] = state[f"convex_layers.{k - 1}.weight"]
            tensors[f"n{j}_w"] = state["final_layer.weight"]
        except (OSError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
            raise ValueError(f"{file} is no checkpoint of the benchmark: {error!r}") from error
    return _standardised(tensors)


def _published_source(dim: int, std: float = 0.4) -> dict[str, Tensor]:
    """Three Gaussians from numpy's random numbers of seed 0: the benchmark's source."""
    random = np.random.RandomState(0)
    centers = np.stack([random.permutation(3) - 1.0 for _ in range(dim)], axis=1)
    mix = random.normal(size=(3, dim, dim))
    mix /= np.linalg.norm(mix, axis=2, keepdims=True)
    size = np.sqrt(((centers**2).sum(1).mean() + dim * std**2) / dim)
    tensors = {"centers": centers / size, "mix": std * mix / size}
    return {k: torch.from_numpy(v.astype(np.float32)) for k, v in tensors.items()}


def _standardised(tensors: dict[str, Tensor], size: int = 2**16) -> dict[str, Tensor]:
    """With the scale and shift that give the target mean 0 and variance d, as published.

    From more points than the published 2^14, and of other random numbers: the map differs from the
    published one by a factor and a shift that are 1 and 0 up to sampling.
    """
    x = _mixture(tensors["centers"], tensors["mix"], size, torch.Generator().manual_seed(0))
    dim = x.shape[1]
    plain = TruePotential({**tensors, "scale": torch.ones(()), "shift": torch.zeros(dim)})
    z = plain.transport(x)
    return {
        **tensors,
        "shift": -z.mean(0),
        "scale": z.var(0, correction=0).mean().rsqrt(),
        "var_source": x.var(0, correction=0).sum(),
        "var_target": torch.tensor(float(dim)),
    }
