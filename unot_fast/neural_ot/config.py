"""How a potential is fitted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FitConfig:
    """Settings of a fit; the defaults are meant for every dimension.

    Attributes
    ----------
    batch : int
        Points of the target in a step.
    source_draws : int
        Points of the source in a step for each of the target. They need no search, and the more
        there are the less noise has the gradient.
    matrix_rate, rate : float
        Learning rates of the matrices, by Muon, and of all else, by Adam. Both follow a cosine to
        0, after ``warm_up`` steps.
    warm_up : int
    ema : float
        Decay of the averaged weights, which are the result.
    tol : float
        Of the searches while training, see `c_transform`.
    max_iter : int
        Gradients that such a search may take.
    mmd, energy : float
        Weights of discrepancies between moved points and as many of the target, which are added to
        the loss: of the squared maximum mean discrepancy and of the squared energy distance. Each
        is pooled, of classes as frequent on one side as on the other, and with classes the mean
        over them is added. The dual that is reported never contains them.
    leave_out : float
        Points whose search ended at a greater residual, relative like ``tol``, are left out of
        the step.
    smooth : float, optional
        Bandwidth of the noise on rows of arrays, relative to their covariance within classes, which
        stays as it is: 0 for none. By default at most a third of the bandwidth that makes the rows
        held back likeliest, and next to nothing where there are many rows.
    held_back : int
        Points of each side that are kept from an array for validation, at most a tenth of it, or
        of each of its classes; of a sampler, as many are drawn once.
    validations : int
        How often the value on those is looked at in a fit. It is -inf, and weights are not taken,
        where more than a hundredth of the searches do not converge.
    patience : int
        A fit from arrays ends when the last so many validations have brought nothing, and the best
        weights of all are its result; 0 for never, and the last ones.
    shards : int
        Parts of a batch that several processes may share; the result does not depend on how many
        processes there are.
    seed : int
    """

    batch: int = 512
    source_draws: int = 4
    matrix_rate: float = 1e-2
    rate: float = 4e-3
    warm_up: int = 100
    ema: float = 0.999
    tol: float = 1e-2
    max_iter: int = 60
    mmd: float = 0.0
    energy: float = 0.0
    leave_out: float = 0.1
    smooth: float | None = None
    held_back: int = 2048
    validations: int = 20
    patience: int = 5
    shards: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "batch", "source_draws", "max_iter", "held_back", "validations", "shards",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        for name in ("matrix_rate", "rate", "tol", "leave_out"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        for name in ("mmd", "energy", "patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if self.smooth is not None and not self.smooth >= 0:
            raise ValueError(f"smooth must not be negative; got {self.smooth}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1); got {self.ema}")
        if self.batch % self.shards:
            raise ValueError(f"batch must be a multiple of shards; got {self.batch}, {self.shards}")
