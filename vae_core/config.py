"""What a model is made of and how it is trained; plain values that JSON can hold."""

import difflib
import math
from dataclasses import asdict, dataclass
from typing import Any

PRESETS = ("conv_1x1x16", "conv_spatial", "resnet")
LIKELIHOODS = (
    "gaussian_fixed_sigma",
    "gaussian_learned_sigma",
    "gaussian_pixel_sigma",
    "discretised_logistic",
    "continuous_bernoulli",
    "bernoulli",
)
#: Those that are probabilities of the levels of pixels; the others are densities over [0, 1].
PROBABILITIES = ("discretised_logistic", "bernoulli")
STATISTICS = ("nelbo", "peak")
PRECISIONS = ("float32", "mixed_bfloat16")
SCHEDULES = ("constant", "cosine")
FLIPS = ("none", "horizontal", "vertical", "both")
#: Smallest standard deviation of a density: that of rounding to 8 bits. Below it a density would reward itself for
#: digits that the images do not have.
SIGMA_FLOOR = 1 / 255 / math.sqrt(12)
MIN_SIDE_PX = 16
MAX_SIDE_PX = 1024


@dataclass(frozen=True)
class VAEConfig:
    """The network and what is thresholded: everything about a model that a score depends on, weights aside.

    Args:
        height, width: pixels of the input, 16 to 1,024 each.
        channels: 1 or 3.
        preset: the architecture: ``conv_1x1x16`` (convolutions, 16 latents for the whole image), ``conv_spatial``
            (convolutions, 8 latents for each 8 x 8 pixels) or ``resnet`` (residual blocks, 16 latents for each
            16 x 16 pixels).
        likelihood: p(x given z): ``gaussian_fixed_sigma``, ``gaussian_learned_sigma`` (one for all values),
            ``gaussian_pixel_sigma`` (one for each value, from the decoder), ``discretised_logistic`` (8-bit images),
            ``continuous_bernoulli``, or ``bernoulli`` (binarised images).
        sigma: standard deviation of ``gaussian_fixed_sigma``, in [0, 1] units; None with any other likelihood.
        statistic: the anomaly score; ``nelbo`` of the whole image, or the ``peak`` of its smoothed local
            negative ELBO, standardised per pixel on held-out normal images.
        smoothing_px: side of the box that smooths the map before its peak is taken; odd.
        noise_draws: draws of eps over which a score is averaged.
    """

    height: int = 64
    width: int = 64
    channels: int = 1
    preset: str = "conv_1x1x16"
    likelihood: str = "gaussian_learned_sigma"
    sigma: float | None = None
    statistic: str = "peak"
    smoothing_px: int = 5
    noise_draws: int = 1

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
                nearest = min(max(side, MIN_SIDE_PX), MAX_SIDE_PX)
                raise ValueError(f"{name}={side} px: expected {MIN_SIDE_PX} to {MAX_SIDE_PX}; try {nearest}")
        if self.channels not in (1, 3):
            nearest = 1 if self.channels < 3 else 3
            raise ValueError(f"channels={self.channels}: expected 1 (grey) or 3 (RGB); try {nearest}")
        _one_of("preset", self.preset, PRESETS)
        _one_of("likelihood", self.likelihood, LIKELIHOODS)
        _one_of("statistic", self.statistic, STATISTICS)
        self._check_sigma()
        if self.smoothing_px % 2 == 0 or not 1 <= self.smoothing_px <= min(self.height, self.width):
            nearest = min(max(self.smoothing_px, 1), min(self.height, self.width) - 1) // 2 * 2 + 1
            raise ValueError(
                f"smoothing_px={self.smoothing_px}: expected odd and no larger than the image; try {nearest}"
            )
        if self.noise_draws < 1:
            raise ValueError(f"noise_draws={self.noise_draws}: expected 1 or more; try 1")

    def _check_sigma(self) -> None:
        fixed = self.likelihood == "gaussian_fixed_sigma"
        if fixed and (self.sigma is None or not SIGMA_FLOOR <= self.sigma < math.inf):
            raise ValueError(f"sigma={self.sigma}: gaussian_fixed_sigma expects {SIGMA_FLOOR:.2g} or more; try 0.1")
        if not fixed and self.sigma is not None:
            raise ValueError(
                f"sigma={self.sigma} does not go with likelihood {self.likelihood}; "
                "leave it out, or try gaussian_fixed_sigma"
            )

    @property
    def is_density(self) -> bool:
        """Whether the likelihood is a density over [0, 1], rather than a probability."""
        return self.likelihood not in PROBABILITIES

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class TrainConfig:
    """How the network is trained. With the defaults the loss is the mean nelbo, in nats.

    Args:
        epochs: passes over the training images at most.
        patience: epochs without a better validation nelbo after which training stops; the best weights stay.
        batch_size: images a step, over all devices together.
        learning_rate: of Adam.
        learning_rate_schedule: ``constant``, or ``cosine``, which falls to 0 over `epochs`.
        weight_decay: decoupled (AdamW), of kernels only; 0 is none.
        clip_norm: gradients whose joint norm is larger are scaled down to it; None leaves them.
        beta: weight of the rate in the loss (Higgins et al. 2017); scores never contain it.
        warmup_epochs: epochs over which that weight rises linearly from 1/warmup_epochs of beta; 0 is none.
        free_bits: nats of rate that each latent channel of each image has for free in the loss (Kingma et al.
            2016, section 2.4 and appendix C.8, there as a mean over the batch).
        latent_l2: weight of the sum of squared kernel weights of the layers z_mean and z_log_var in the loss.
        denoising: share of training images whose copy for the encoder gets a simulated local defect, while the
            likelihood is taken on the clean one; 0 is none.
        flip: which mirror images are as normal as the image: ``none``, ``horizontal``, ``vertical`` or ``both``.
        shift_px: largest shift, each way, that keeps an image normal; edges are repeated.
        precision: of the arithmetic in training: ``float32``, or ``mixed_bfloat16`` (weights, posterior and likelihood
            stay float32). Scores are always computed in float32.
        devices: over which each batch is spread, by data parallelism.
        deterministic: ask the framework for operations that repeat to the bit, at some cost in speed. It holds
            for the whole process from then on.
        seed: of weights, order, noise, defects, flips, shifts and the eps kept for scoring.
    """

    epochs: int = 150
    patience: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    learning_rate_schedule: str = "constant"
    weight_decay: float = 0.0
    clip_norm: float | None = None
    beta: float = 1.0
    warmup_epochs: int = 0
    free_bits: float = 0.0
    latent_l2: float = 0.0
    denoising: float = 0.0
    flip: str = "none"
    shift_px: int = 0
    precision: str = "float32"
    devices: int = 1
    deterministic: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size", "learning_rate", "clip_norm", "beta", "devices"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value}: expected a positive number")
        for name in ("weight_decay", "warmup_epochs", "free_bits", "latent_l2", "shift_px", "seed"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}: expected 0 or more")
        if not 0 <= self.denoising <= 1:
            raise ValueError(f"denoising={self.denoising}: expected a share between 0 and 1")
        _one_of("learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        _one_of("flip", self.flip, FLIPS)
        _one_of("precision", self.precision, PRECISIONS)
        if self.batch_size % self.devices:
            nearest = max(1, round(self.batch_size / self.devices)) * self.devices
            raise ValueError(
                f"batch_size={self.batch_size} cannot be spread evenly over {self.devices} devices; try {nearest}"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def check_together(config: VAEConfig, train_config: TrainConfig) -> None:
    """Raise a ValueError for a network and a training that do not go together."""
    smallest = min(config.height, config.width)
    if train_config.shift_px >= smallest:
        raise ValueError(
            f"shift_px={train_config.shift_px}: expected less than the image's {smallest} pixels; try {smallest // 8}"
        )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        nearest = difflib.get_close_matches(value, known, n=1, cutoff=0)[0]
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)}; try {nearest}")
