"""The networks of the published UNOT and their checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from unot_fast.geometry import Geometry, Grid, Sphere, Structure
from unot_fast.models.network import DOMAINS, FourierNetwork

_INPUTS = {2: (), 3: ("epsilon",), 4: ("grid",), 5: ("grid", "epsilon")}  # beside the measures
_BLOCK = re.compile(r"fno_blocks\.(\d+)\.(.+)")
_CACHE = re.compile(r"\._i?SHT_cache\.")  # transforms of the resolutions that were met in training


class PublishedUNOT(nn.Module):
    r"""The network of Geuter et al., 2025, as their code has it.

    It predicts :math:`\log v = g / \varepsilon + \log \nu` for the scaling v of Sinkhorn's
    algorithm, on square grids of [0, 1]^2 with the cost :math:`|x - y|^2`; on the sphere for
    :math:`\arccos\langle x, y \rangle / 10` on ``Sphere.published``'s grid.

    A model is a start of the solver: ``sinkhorn(a, b, geom, model.epsilon, init=model)``.

    Parameters
    ----------
    channels, depth, hidden : int
        Width and number of the Fourier layers, and width of the networks on their modes.
    modes : (int, int)
    inputs : int
        Channels that come in: 2 (the measures), 3 (and epsilon), 4 (and the coordinates) or 5
        (coordinates and epsilon).
    domain : {"plane", "sphere"}
    epsilon : float
        That of the training, where epsilon is no input.
    dust : float
        Mass that is added to every point of measures of total 1, before they are scaled to it
        again: 1e-6 in their training, 1e-4 in their evaluation.

    Notes
    -----
    Kept as published, for their weights: only the non-negative half of the first axis's
    frequencies, aliased on grids below 19, and features whose scale depends on the resolution.

    Examples
    --------
    >>> import torch
    >>> from unot_fast import Grid, sinkhorn
    >>> from unot_fast.models import PublishedUNOT
    >>> model = PublishedUNOT(channels=8, depth=2, hidden=16)
    >>> a, b = torch.rand(2, 3, 28, 28)
    >>> model(a, b).shape
    torch.Size([3, 28, 28])
    >>> result = sinkhorn(a, b, Grid((28, 28)), model.epsilon, init=model, normalize=True)
    """

    def __init__(
        self,
        channels: int = 64,
        modes: tuple[int, int] = (10, 10),
        depth: int = 4,
        hidden: int = 256,
        inputs: int = 2,
        *,
        domain: str = "plane",
        epsilon: float = 0.01,
        dust: float = 1e-6,
    ):
        super().__init__()
        if inputs not in _INPUTS:
            raise ValueError(f"inputs must be one of {tuple(_INPUTS)}; got {inputs}")
        self.inputs, self.epsilon, self.dust = _INPUTS[inputs], epsilon, dust
        self.domain = domain
        self.network = FourierNetwork(
            inputs, 1, channels, modes, depth, hidden, domain=domain, frequencies="nonnegative",
            norm="backward",
        )  # fmt: skip

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
        mu, nu : Tensor, shape (\*batch, n, n)
            Masses, of any totals.
        geom : Geometry, optional
            Where the solver has them: the square grid and cost of the training alone, see the
            class.
        epsilon : float or Tensor, shape (\*batch)
            Needed where the network takes it; otherwise it must be that of the training.

        Returns
        -------
        Tensor, shape (\*batch, n, n)

        Raises
        ------
        ValueError
            The measures have other shapes or are none, or the network does not know this geometry
            or epsilon.
        """
        if mu.shape != nu.shape or mu.ndim < 2 or mu.shape[-1] != mu.shape[-2]:
            raise ValueError(
                f"mu and nu must have one shape (*batch, n, n); got {tuple(mu.shape)} and "
                f"{tuple(nu.shape)}"
            )
        if geom is not None and not torch.compiler.is_compiling():
            self._check(geom)
        dtype = self.network.lifting.weight.dtype
        mu, nu = self._dusted("mu", mu), self._dusted("nu", nu)
        epsilon = self._epsilon(epsilon, nu)
        planes = [mu, nu]
        if "grid" in self.inputs:
            line = torch.linspace(0, 1, mu.shape[-1], dtype=mu.dtype, device=mu.device)
            planes += [line.view(-1, 1).expand_as(mu), line.expand_as(mu)]
        if "epsilon" in self.inputs:
            planes.append(epsilon.expand_as(mu))
        x = torch.stack(planes, -3).reshape(-1, len(planes), *mu.shape[-2:])
        log_v = self.network(x.to(dtype)).view(nu.shape).to(nu.dtype)
        return epsilon * (log_v - nu.log())

    def _check(self, geom: Geometry) -> None:
        if self.domain == "sphere":
            if not isinstance(geom, Sphere) or geom.grid != "published":
                raise ValueError(
                    "geom must be Sphere.published(n), the grid and cost of the training; got "
                    f"{geom!r}"
                )
        elif not isinstance(geom, Grid) or not _is_unit_square(geom):
            raise ValueError(
                "geom must be Grid((n, n)), the unit square with |x - y|^2, as in the training; "
                f"got {geom!r}"
            )

    def _dusted(self, name: str, x: Tensor) -> Tensor:
        points = x.shape[-1] * x.shape[-2]
        total = x.sum((-2, -1), keepdim=True)
        if not torch.compiler.is_compiling():
            valid = (x >= 0).all() & (total > 0).all() & total.isfinite().all()
            if not bool(valid):
                raise ValueError(f"{name} must be finite, non-negative and not zero everywhere")
        return (x / total + self.dust) / (1 + points * self.dust)

    def _epsilon(self, epsilon: float | Tensor | None, like: Tensor) -> Tensor:
        """One number for each measure, (\\*batch, 1, 1)."""
        own = torch.tensor(self.epsilon, dtype=like.dtype, device=like.device)
        if "epsilon" in self.inputs:
            if epsilon is None:
                raise ValueError("epsilon must be given: the network takes it as an input")
            return torch.as_tensor(epsilon).to(like)[..., None, None]
        if epsilon is not None and not torch.compiler.is_compiling():
            given = torch.as_tensor(epsilon).to(like)
            if not torch.allclose(given, own, rtol=1e-5, atol=0):
                raise ValueError(
                    f"epsilon must be {self.epsilon}, that of the training; got {epsilon}"
                )
        return own

    @classmethod
    def load(cls, path: str | Path, *, domain: str = "plane", **options) -> PublishedUNOT:
        """A published checkpoint, such as ``unot_fno.pt`` or, on the sphere, ``unot_sphere.pt``.

        Its sizes are read from it; other options are those of the class.

        Raises
        ------
        FileNotFoundError
        ValueError
            The file is no such checkpoint; the message lists what is missing, surplus or of an
            unexpected shape. Or it is one of the other domain.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"path: {path} is no file")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever another file makes of torch's reader
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{path} holds no parameters that torch can read: {reason}") from error
        try:
            return cls.from_state_dict(state, domain=domain, **options)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], *, domain: str = "plane", **options
    ) -> PublishedUNOT:
        """The same from the parameters of a checkpoint, under their published names.

        They may be an entry ``state_dict``, and those of a network in `torch.nn.DataParallel`.
        """
        if domain not in DOMAINS:
            raise ValueError(f"domain must be one of {DOMAINS}; got {domain!r}")
        state = _parameters(state)
        if domain == "plane" and any(map(_CACHE.search, state)):
            raise ValueError(
                "domain must be 'sphere': the checkpoint has transforms of the sphere; got 'plane'"
            )
        state = {k: v for k, v in state.items() if not _CACHE.search(k)}
        first = "fno_blocks.0.spectral_conv.layers.0.real_weights"
        for name, axes in (("lifting.weight", 4), (first, 4)):
            if name not in state or state[name].ndim != axes:
                raise ValueError(f"not a published UNOT: {name} of {axes} axes is missing")
        depth = 1 + max(int(m[1]) for k in state if (m := _BLOCK.match(k)))
        channels, inputs = state["lifting.weight"].shape[:2]
        hidden, *modes = state[first].shape[1:]
        if inputs not in _INPUTS:
            raise ValueError(f"not a published UNOT: lifting.weight takes {inputs} channels")
        model = cls(channels, tuple(modes), depth, hidden, inputs, domain=domain, **options)
        own = model.network.state_dict()
        wanted = {name: shape for k, v in own.items() for name, shape in _published(k, v.shape)}
        wrong = [f"{k} is missing" for k in wanted if k not in state]
        wrong += [f"{k} is not part of it" for k in state if k not in wanted]
        wrong += [
            f"{k} must have shape {tuple(shape)}; got {tuple(state[k].shape)}"
            for k, shape in wanted.items()
            if k in state and tuple(state[k].shape) != tuple(shape)
        ]
        if wrong:
            raise ValueError("not a published UNOT: " + "; ".join(wrong))
        for key, value in own.items():
            parts = [state[name] for name, _ in _published(key, value.shape)]
            value.copy_(torch.stack(parts, -1) if len(parts) == 2 else parts[0].view(value.shape))
        return model


def _is_unit_square(geom: Grid) -> bool:
    """Whether it is that of the training, with |x - y|^2."""
    if geom.structure is not Structure.SEPARABLE or geom.p != 2 or geom.ndim != 2:
        return False
    line = torch.linspace(0, 1, geom.shape[0], dtype=torch.float64)
    sides = *geom.coordinates, *geom.target_coordinates
    return all(x.shape == line.shape and torch.allclose(x, line) for x in sides)


def _parameters(state: object) -> dict[str, Tensor]:
    """Tensors by name, of what a checkpoint holds."""
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise ValueError(f"not a published UNOT: holds no parameters but a {type(state).__name__}")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError("not a published UNOT: holds other things than parameters by name")
    return {k.removeprefix("module."): v for k, v in state.items()}


_LAYER = {
    "skip": "bypass_conv.weight",
    "bias": "bypass_conv.bias",
    "w1": "spectral_conv.layers.0.{}_weights",
    "b1": "spectral_conv.layers.0.{}_bias",
    "w2": "spectral_conv.layers.1.{}_weights",
}


def _published(name: str, shape: torch.Size) -> list[tuple[str, tuple[int, ...]]]:
    """Published names and shapes of what a parameter of ours is made of."""
    if not name.startswith("layers."):
        return [(name, tuple(shape))]
    _, k, own = name.split(".")
    theirs = f"fno_blocks.{k}.{_LAYER[own]}"
    if "{}" in theirs:
        return [(theirs.format(part), tuple(shape[:-1])) for part in ("real", "imag")]
    return [(theirs, (*shape, 1, 1) if own == "skip" else tuple(shape))]
