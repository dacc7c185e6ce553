"""What a model is made of and how it is trained; plain values that JSON can hold."""

from dataclasses import asdict, dataclass
from typing import Any

PRESETS = ("conv_1x1x16",)
LIKELIHOODS = ("gaussian_learned_sigma",)
STATISTICS = ("nelbo", "peak")
MIN_SIDE_PX = 16
MAX_SIDE_PX = 512


@dataclass(frozen=True)
class VAEConfig:
    """The network and what is thresholded.

    Args:
        height, width: pixels of the input, 16 to 512 each.
        channels: 1 or 3.
        preset: the architecture; ``conv_1x1x16`` is a convolutional VAE with 16 latents.
        likelihood: p(x given z); ``gaussian_learned_sigma`` is a Gaussian with one learned sigma.
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
    statistic: str = "peak"
    smoothing_px: int = 5
    noise_draws: int = 1

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
                nearest = min(max(side, MIN_SIDE_PX), MAX_SIDE_PX)
                raise ValueError(f"{name}={side} px: expected {MIN_SIDE_PX} to {MAX_SIDE_PX}; try {nearest}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: expected 1 (grey) or 3 (RGB)")
        _one_of("preset", self.preset, PRESETS)
        _one_of("likelihood", self.likelihood, LIKELIHOODS)
        _one_of("statistic", self.statistic, STATISTICS)
        if self.smoothing_px % 2 == 0 or not 1 <= self.smoothing_px <= min(self.height, self.width):
            raise ValueError(f"smoothing_px={self.smoothing_px}: expected odd and no larger than the image")
        if self.noise_draws < 1:
            raise ValueError(f"noise_draws={self.noise_draws}: expected 1 or more")

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class TrainConfig:
    """How the network is trained.

    Args:
        epochs: passes over the training images at most.
        patience: epochs without a better validation nelbo after which training stops; the best weights stay.
        batch_size: images a step.
        learning_rate: of Adam.
        seed: of weights, order, noise and the eps kept for scoring.
    """

    epochs: int = 150
    patience: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a positive number")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: expected 0 or more")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)}")
