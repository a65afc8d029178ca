"""How a transport network is trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from unot_fast.geometry.numbers import check_integer, check_integers, check_number
from unot_fast.models import PRESETS as MODELS
from unot_fast.models import UNOTConfig

LOSSES = ("converged", "bootstrap")
PRECISIONS = ("float32", "bfloat16")
_PUBLISHED_SIZE = 64  # of the generator's measures


@dataclass(frozen=True)
class TrainingConfig:
    r"""How a transport network is trained.

    A round makes ``batches`` batches of pairs, goes over them ``passes`` times, and then trains
    the generator on its own, if there is one.

    Attributes
    ----------
    model : UNOTConfig
    loss : {"converged", "bootstrap"}
        Target of the potential: the solution, or ``iterations`` of Sinkhorn's algorithm from the
        prediction, as in the paper.
    iterations : int
        At most for the solution, exactly for the bootstrap.
    adversary : float
        Share of pairs, from 0 to 1, that come from a generator trained to make the loss large;
        the others are `RandomMeasures`.
    generator_size : int, optional
        Resolution of the generator's measures and of its own training; by default 64, as
        published, or what is nearest to it within ``resolutions``.
    generator_noise : int
        Resolution of its noise.
    generator_scale, generator_dust : float
        How much of the noise is added, and the mass of every point, as in `Generator`.
    generator_lipschitz : float, optional
        Below 1, and with noise of the measures' resolution, every pair of measures is within the
        generator's reach (Theorem 3 of the paper). It takes the place of batch normalisation.
    resolutions : (int, int)
        Smallest and largest n of the n x n grids, on the sphere n x 2n.
    batch, batches, passes : int
        Pairs per step, steps per pass, passes per round; every pass shows the pairs in another
        of the grid's symmetries.
    shards : int
        Parts of a batch, each of a resolution of its own, that processes share among them. The
        result depends on it, but not on the number of processes.
    learning_rate, weight_decay : float
        Of AdamW; the rate falls to zero along a cosine.
    generator_learning_rate : float
        Of the generator's Adam.
    clip : float
        Largest norm of a gradient.
    ema : float
        Decay of the average of the weights, which is what is validated and kept.
    huber : float, optional
        Errors of a potential above so many epsilon count linearly, else all in square.
    precision : {"float32", "bfloat16"}
        Of products in training: under bfloat16 of the network's forward pass and of the whole
        backward pass. On the CPU those of Fourier layers need AMX or AMD's AVX512-BF16.
    validation : int
        Pairs that are held back.
    seed : int

    Raises
    ------
    ValueError
        A value is out of its range.
    """

    model: UNOTConfig = field(default_factory=UNOTConfig)
    loss: str = "converged"
    iterations: int = 100
    adversary: float = 0.0
    generator_size: int | None = None
    generator_noise: int = 10
    generator_scale: float = 1.0
    generator_dust: float = 1e-6
    generator_lipschitz: float | None = None
    resolutions: tuple[int, int] = (10, 96)
    batch: int = 512
    batches: int = 16
    passes: int = 4
    shards: int = 1
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    generator_learning_rate: float = 1e-3
    clip: float = 1.0
    ema: float = 0.999
    huber: float | None = 2.0
    precision: str = "float32"
    validation: int = 256
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.model, dict):  # from a file
            object.__setattr__(self, "model", UNOTConfig(**self.model))
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {LOSSES}; got {self.loss!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}; got {self.precision!r}")
        check_integers("resolutions", self.resolutions, 2, least=2)
        object.__setattr__(self, "resolutions", tuple(self.resolutions))
        low, high = self.resolutions
        if low > high:
            raise ValueError(f"resolutions must be (low, high), low <= high; got {low, high}")
        for name in ("iterations", "batch", "batches", "passes", "shards", "validation"):
            check_integer(name, getattr(self, name))
        check_integer("seed", self.seed, least=0)
        for name in ("learning_rate", "generator_learning_rate", "clip"):
            check_number(name, getattr(self, name), above=0)
        check_number("weight_decay", self.weight_decay, least=0)
        check_number("ema", self.ema, least=0, below=1)
        if self.huber is not None:
            check_number("huber", self.huber, above=0)
        if self.batch % self.shards:
            raise ValueError(f"batch must be a multiple of shards; got {self.batch}, {self.shards}")
        self._check_adversary()

    def _check_adversary(self) -> None:
        check_number("adversary", self.adversary, least=0)
        if self.adversary > 1:
            raise ValueError(f"adversary must be in [0, 1]; got {self.adversary}")
        if self.generator_size is not None:
            check_integer("generator_size", self.generator_size, least=2)
        check_integer("generator_noise", self.generator_noise)
        check_number("generator_scale", self.generator_scale, above=0)
        check_number("generator_dust", self.generator_dust, least=0)
        if self.generator_lipschitz is not None:
            check_number("generator_lipschitz", self.generator_lipschitz, above=0)
        part = self.batch // self.shards
        single = part == 1 or round(part * self.adversary) == 1
        if self.adversary and single and self.generator_lipschitz is None:
            raise ValueError(
                "adversary must give the generator's batch normalisation several pairs, of the "
                f"{part} of a shard; got {self.adversary}"
            )

    @property
    def generator_resolution(self) -> int:
        """``generator_size``, or what it is by default."""
        low, high = self.resolutions
        return self.generator_size or min(max(_PUBLISHED_SIZE, low), high)


_PUBLISHED = TrainingConfig(
    loss="bootstrap",
    iterations=5,
    adversary=1.0,
    resolutions=(10, 64),
    batch=64,
    batches=79,
    passes=1,
    learning_rate=1e-4,
    ema=0.0,
    huber=None,
)

PRESETS = {
    "sqeuclidean": TrainingConfig(MODELS["sqeuclidean"]),
    "tiny": TrainingConfig(MODELS["tiny"]),
    "euclidean": TrainingConfig(MODELS["euclidean"]),
    "sphere": TrainingConfig(MODELS["sphere"], resolutions=(16, 64)),
    "fourier": TrainingConfig(MODELS["fourier"], resolutions=(10, 64), batch=64),
    "base": replace(_PUBLISHED, model=MODELS["base"]),
}
"""Configurations by name; ``"base"`` is that of the paper."""
