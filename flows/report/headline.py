"""The summary of a batch: how much was flagged, what people know of it, and whether that is more than chance."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from nelbo.detectors import APPROXIMATE, Threshold
from nelbo.flows.numbers import percent

#: Probabilities by chance: up to the first a count is more than chance; up to the second it can hardly be chance; up to
#: the third it can be chance; above it, chance gives as much.
_RARE, _UNUSUAL, _LIKELY = 0.01, 0.05, 0.5
_RAREST = 1e-6

#: Columns of scores that say what people know of a batch.
KNOWN_BY = ("image_id", "anomaly_score", "verdict", "label")


def headline(counts: Mapping[str, int], threshold: Threshold | None) -> str:
    """How many images were flagged, and how many false alarms the promise allows for.

    Args:
        counts: ``images``, ``scored``, ``anomalous`` and ``review``.
        threshold: None without a calibration.

    >>> threshold = Threshold.from_normals(range(1, 1000), fpr=0.01, review_fpr=0.02)
    >>> headline({"images": 2630, "scored": 2624, "anomalous": 37, "review": 12}, threshold)
    '37 of 2,624 images anomalous, 12 for review; at the promised 1 % about 26 false alarms would be normal.'
    >>> threshold = Threshold.from_normals(range(1, 1000), fpr=0.01, cross=True)
    >>> headline({"images": 2630, "scored": 2624, "anomalous": 37, "review": 0}, threshold)
    '37 of 2,624 images anomalous; at an aim of 1 % (approximate) about 26 false alarms would be normal.'
    """
    n_scored = counts["scored"]
    if not n_scored:
        return f"0 of {counts['images']:,} images could be scored."
    if threshold is None:
        return f"{n_scored:,} of {counts['images']:,} images scored, without verdicts: the model is not calibrated."
    text = f"{counts['anomalous']:,} of {n_scored:,} images anomalous"
    if threshold.review is not None:
        text += f", {counts['review']:,} for review"
    if threshold.fpr is None:
        return f"{text}; no promised rate of false alarms."
    rate = percent(threshold.fpr)
    at = f"an aim of {rate} (approximate)" if threshold.approximate else f"the promised {rate}"
    return f"{text}; at {at} {_false_alarms(threshold.fpr * n_scored)}."


class Known(NamedTuple):
    """What people know of a batch, in sentences, and whether they know of any defect."""

    said: list[str]
    defects: bool


def known_of(scores: pa.Table, reviewed: Mapping[str, int]) -> Known:
    """What labels and reviews say of the images that were scored.

    Args:
        scores: rows of scores, with the columns `KNOWN_BY`.
        reviewed: content hash of each image that people decided on -> 0 or 1.

    >>> row = {"anomaly_score": 9.0, "verdict": "anomalous", "label": -1}
    >>> known_of(pa.Table.from_pylist([row | {"image_id": "a"}, row | {"image_id": "b"}]), {"a": 1, "b": 1})
    Known(said=['2 of 2 reviewed images are anomalous: all of these were flagged.'], defects=True)
    """
    scored = scores.filter(pc.is_valid(scores["anomaly_score"]))
    flagged = pc.is_in(scored["verdict"], pa.array(["anomalous", "review"])).to_numpy()
    of_people = {
        "labelled": scored["label"].to_numpy(),
        "reviewed": np.array([reviewed.get(image_id, -1) for image_id in scored["image_id"].to_pylist()], np.int8),
    }
    said = [known(labels, flagged, by) for by, labels in of_people.items()]
    return Known([one for one in said if one], any((labels == 1).any() for labels in of_people.values()))


def known(labels: ArrayLike, flagged: ArrayLike, by: str = "labelled") -> str:
    """A sentence that compares what people know of a batch with what was flagged; empty where they know no image.

    Args:
        labels: (n,) 1 anomalous, 0 normal, -1 unknown.
        flagged: (n,) whether each image was flagged.
        by: how the labels are known.

    >>> known([1, 1, 1, 0, 0, -1], [True, True, False, False, False, True])
    '3 of 5 labelled images are anomalous: 2 of these were flagged, and none of 2 normal ones.'
    >>> known([1, 1], [True, True], by="reviewed")
    '2 of 2 reviewed images are anomalous: all of these were flagged.'
    >>> known([0, 0], [True, False])
    'None of 2 labelled images is anomalous; 1 was flagged.'
    """
    labels, flagged = np.asarray(labels), np.asarray(flagged, bool)
    (n_normal, false), (n_anomalous, found) = (
        (int((labels == label).sum()), int(flagged[labels == label].sum())) for label in (0, 1)
    )
    n = n_normal + n_anomalous
    if not n:
        return ""
    if not n_anomalous:
        return f"None of {n:,} {by} images is anomalous; {_some(false, n)} {_were(false)} flagged."
    said = f"{n_anomalous:,} of {n:,} {by} images are anomalous: "
    said += f"{_some(found, n_anomalous)} of these {_were(found)} flagged"
    return f"{said}, and {_some(false, n_normal)} of {n_normal:,} normal ones." if n_normal else f"{said}."


def chance(
    counts: Mapping[str, int], threshold: Threshold | None, *, blind: bool = False, defects: bool = False
) -> str:
    """A sentence on whether chance explains the number of anomalous images; it says nothing of a single image.

    It is empty where no rate is promised, or nothing was called anomalous. For a blind model a count that is no more
    than chance means nothing, so then it is empty, too.

    Args:
        counts: ``scored`` and ``anomalous``.
        blind: whether the model is blind to simulated defects.
        defects: whether people know of any defects, which chance does not explain.

    >>> threshold = Threshold.from_normals(range(1, 1000), fpr=0.01)
    >>> print(chance({"scored": 2624, "anomalous": 80}, threshold))
    The count is more than chance gives: of 10,000 such batches without defects at most 1 has as many, or more.
    >>> print(chance({"scored": 2624, "anomalous": 37}, threshold))
    The count can be chance: of 100 such batches without defects about 14 have as many, or more.
    >>> print(chance({"scored": 2624, "anomalous": 37}, threshold, defects=True))
    The count alone would not tell: of 100 such batches without defects about 14 have as many, or more.
    >>> print(chance({"scored": 2624, "anomalous": 12}, threshold))
    The count is no more than chance gives: most such batches without defects have as many, or more.
    """
    probability = None if threshold is None else threshold.chance(counts["anomalous"], counts["scored"])
    if threshold is None or probability is None or not counts["anomalous"] or (blind and probability > _RARE):
        return ""
    said = _explained(probability, defects)
    return f"{said} ({APPROXIMATE})." if threshold.approximate else f"{said}."


def _explained(probability: float, defects: bool) -> str:
    if probability <= _RARE:
        rarity = 10 ** math.floor(-math.log10(max(probability, _RAREST)))
        share = f"of {rarity:,} such batches without defects at most 1 has as many, or more"
        return f"The count is more than chance gives: {share}"
    n = round(100 * probability)
    share = f"of 100 such batches without defects about {n} {'has' if n == 1 else 'have'} as many, or more"
    if probability <= _UNUSUAL:
        return f"The count can hardly be chance: {share}"
    if probability <= _LIKELY:
        return f"{'The count alone would not tell' if defects else 'The count can be chance'}: {share}"
    opening = "The count alone would not tell" if defects else "The count is no more than chance gives"
    return f"{opening}: most such batches without defects have as many, or more"


def _were(n: int) -> str:
    return "was" if n == 1 else "were"


def _some(n: int, m: int) -> str:
    """The number n out of m, as "none" or "all" where that fits."""
    return "none" if not n else "all" if n == m else f"{n:,}"


def _false_alarms(expected: float) -> str:
    if expected < 0.5:
        return "less than one false alarm would be normal"
    return f"about {expected:,.0f} false alarm{'' if round(expected) == 1 else 's'} would be normal"
