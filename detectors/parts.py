"""How normal images are shared out: most to train on, the others to validate and to calibrate."""

import math
from collections.abc import Collection

VALIDATION_SHARE = 0.15
CALIBRATION_SHARE = 0.2
#: With fewer calibration images, the promise is so vague that cross-fitting, approximate but on all images, is better.
HELD_OUT_FROM = 200
#: A factor to spare, because chance may leave few images of a rare variant to set its threshold.
_MARGIN = 1.5


def part_sizes(n: int, n_calibration: int, have: Collection[str] = ()) -> dict[str, int]:
    """How many of n distinct images to draw for the parts that are not there already.

    Calibration gets the larger of 20 % and what its promise needs, or nothing where that is more than half.

    Args:
        n: distinct normal images.
        n_calibration: calibration images that are needed at least; see `n_needed`.
        have: parts that are there already.

    >>> part_sizes(100, 19)
    {'calibration': 20, 'validation': 15}
    >>> part_sizes(30, 19)
    {'calibration': 0, 'validation': 5}
    """
    calibration = max(math.ceil(CALIBRATION_SHARE * n), n_calibration)
    wanted = {
        "calibration": calibration if calibration <= n / 2 else 0,
        "validation": math.ceil(VALIDATION_SHARE * n),
    }
    return {part: size for part, size in wanted.items() if part not in have}


def images_of_variant(n_needed: int, n_fitted: int, n_calibration: int) -> int:
    """How many images fitted on must show a variant of the product, so that enough images set its threshold.

    Args:
        n_needed: images that its threshold needs.
        n_fitted: images fitted on.
        n_calibration: images held out to set thresholds; 0 where those fitted on set them.

    >>> images_of_variant(19, 100, 0), images_of_variant(19, 800, 200)
    (19, 114)
    """
    return math.ceil(_MARGIN * n_needed * n_fitted / n_calibration) if n_calibration else n_needed
