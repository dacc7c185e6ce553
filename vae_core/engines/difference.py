"""How far two scores of the same images are apart: shares, which are compared with one tolerance.

Each number has a scale of its own, because its rounding error depends on the numbers that it was made from. A part of a
score (one latent, one pixel) may be off by a larger share than the sum that it is in: it may lose one more digit,
`LOST`.
"""

import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.scoring import JOINT, VARIANT, Score

#: Largest difference from Keras's scores that an engine may have.
TOLERANCE = 1e-5
#: Parts may be off by this many times the share that their sum may be off.
LOST = 10
#: Sides of the grid on which a map is averaged that is kept for comparison.
GRID = 16
#: What every score has, and all that is compared: parts of ``joint``, the variant and the map where there are any.
NUMBERS = ("anomaly_score", "nelbo", "distortion", "rate", "z_mean_norm", "z_log_var_sum", "worst_pixels", "peak")
COMPARED = (*NUMBERS, *JOINT, *VARIANT, "local_nelbo")

Shares = NDArray[np.float64]


def differences(found: Score, expected: Score, subtracted: float) -> dict[str, Shares]:
    """The difference of each expected number as a share of its scale, image by image.

    The scales, where m and s are the model's usual mean and standard deviation of a pixel's nelbo:

    * nelbo, distortion, rate, worst_pixels: |worst_pixels| + |distortion - worst_pixels| + rate, which is |distortion|
      + rate unless a density is above 1 in some pixels and below in others, and their logarithms cancel;
    * variant: 1, so it has to be the same one;
    * peak, variant_z, and the parts of joint: 10 (|peak| + `subtracted`), in standard deviations: of a nelbo
      that is off by a share t of itself, z = (nelbo - m) / s is off by t |z + m / s|, at most t (|z| + |m| / s); of
      their sum, joint, three times that;
    * z_mean_norm, z_log_var_sum: 100 (1 + rate + the number itself): the prior has the scale 1, and the whitening of
      features, ahead of the encoder, enlarges what was rounded;
    * local_nelbo: 10 times the image's largest value and mean nats a value.

    Args:
        found, expected: scores of the same images; the map may be on a coarser grid, in both.
        subtracted: largest mean of |m| / s over the box that smooths the map, of a part of joint, or of a distance.

    Returns:
        (n,) shares by name; infinite where a number is missing or has another shape.

    >>> one = np.ones(1)
    >>> expected = Score(*[one] * 8)
    >>> off = differences(expected._replace(nelbo=1.5 * one, peak=0 * one), expected, subtracted=4.0)
    >>> {name: float(share[0]) for name, share in off.items() if share[0]}
    {'nelbo': 0.25, 'peak': 0.02}
    """
    scales = _scales(expected, subtracted)
    shares = {}
    for name, scale in scales.items():
        ours, theirs = getattr(found, name), getattr(expected, name)
        if ours is None or ours.shape != theirs.shape:
            shares[name] = np.full(len(theirs), np.inf)
            continue
        off = np.abs(ours.astype(np.float64) - theirs)
        shares[name] = off.reshape(len(off), -1).max(axis=1) / scale
    return shares


def difference(found: Score, expected: Score, subtracted: float) -> float:
    """The largest of all `differences`; NaN if any is NaN.

    Args:
        found: an engine's scores.
        expected: those of Keras.
        subtracted: as in `differences`.

    >>> expected = Score(*[np.arange(1.0, 4.0)] * 8)
    >>> difference(expected._replace(nelbo=np.full(3, np.nan)), expected, subtracted=4.0)
    nan
    """
    return float(np.max([share.max() for share in differences(found, expected, subtracted).values()]))


def unmoved(found: Score, expected: Score, subtracted: float) -> list[str]:
    """Names of the numbers that are the same for all images, or NaN or infinite for some, but are expected to vary.

    However far off an engine may be: one that gives every image the same number measures nothing.

    Args:
        found: an engine's scores.
        expected: those of Keras.
        subtracted: as in `differences`.

    >>> expected = Score(*[np.arange(3.0)] * 8)
    >>> unmoved(expected._replace(peak=np.zeros(3)), expected, subtracted=4.0)
    ['peak']
    """
    names = []
    for name, scale in _scales(expected, subtracted).items():
        ours, theirs = getattr(found, name), getattr(expected, name)
        # Less is rounding, of the number itself or of what it was made from.
        least = max(TOLERANCE * np.abs(theirs).max(), np.finfo(np.float32).eps * scale.max())
        moves = np.ptp(theirs, axis=0).max() > least
        if moves and (ours is None or not np.isfinite(ours).all() or not np.ptp(ours, axis=0).any()):
            names.append(name)
    return names


def _scales(expected: Score, subtracted: float) -> dict[str, Shares]:
    """(n,) scale of each number that is there."""
    rate = expected.rate.astype(np.float64)
    distortion, worst = (values.astype(np.float64) for values in (expected.distortion, expected.worst_pixels))
    nats = np.abs(worst) + np.abs(distortion - worst) + rate
    # The number that is thresholded is one of the others, or the sum of the parts of joint.
    thresholded = next(
        (name for name in ("peak", "nelbo") if np.array_equal(expected.anomaly_score, getattr(expected, name))),
        "peak" if expected.peak_z is None else "joint",
    )
    scales: dict[str, Shares] = {}
    for name in COMPARED:
        if (values := getattr(expected, name)) is None:
            continue
        name_of_scale = thresholded if name == "anomaly_score" else name
        rows = np.abs(values.astype(np.float64)).reshape(len(values), -1)
        highest = rows.max(axis=1)
        if name_of_scale in ("nelbo", "distortion", "rate", "worst_pixels"):
            scales[name] = nats
        elif name_of_scale == "variant":
            scales[name] = np.ones(len(values))
        elif name_of_scale in ("peak", "variant_z", *JOINT):
            scales[name] = LOST * (highest + subtracted)
        elif name_of_scale == "joint":
            parts = np.stack([np.abs(getattr(expected, part).astype(np.float64)) for part in JOINT])
            scales[name] = LOST * (parts.sum(axis=0) + len(JOINT) * subtracted)
        elif name_of_scale in ("z_mean_norm", "z_log_var_sum"):
            scales[name] = LOST**2 * (1 + rate + highest)
        else:
            scales[name] = LOST * (nats / rows.shape[1] + highest)
    return scales


def coarse(score: Score) -> Score:
    """The score with its map averaged on a grid of at most 16 x 16 fields, which is small enough to keep."""
    if score.local_nelbo is None:
        return score
    fields = score.local_nelbo.astype(np.float64)
    for axis in (1, 2):
        parts = np.array_split(fields, min(GRID, fields.shape[axis]), axis)
        fields = np.stack([part.mean(axis) for part in parts], axis)
    return score._replace(local_nelbo=fields.astype(np.float32))
