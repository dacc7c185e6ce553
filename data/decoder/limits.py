"""What one image may cost at most."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Limits:
    """Limits for each image: one that exceeds them gets a reason in its own row, and the run goes on.

    Args:
        pixels: larger images are `too_large`; this is checked before they are decoded.
        side_px: images with a shorter side are `too_small`.
        size_bytes: larger files are `too_large`; they are not read.
        seconds: decoding that takes longer is stopped, with the reason `timeout`.

    Raises:
        ValueError: one of them is not positive.

    >>> Limits(pixels=100).pixels
    100
    """

    pixels: int = 64_000_000
    side_px: int = 1
    size_bytes: int = 1 << 30
    seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name}={value}: a limit must be positive")
