"""What a batch comes to, in two sentences: how much was flagged, and whether that is more than chance."""

import math
from collections.abc import Mapping

from nelbo.detectors import APPROXIMATE, Threshold
from nelbo.flows.numbers import percent

#: Rarer than this by chance is called more than chance; and what is between is not called chance, either.
_RARE, _UNUSUAL = 0.01, 0.05
_RAREST = 1e-6


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


def chance(counts: Mapping[str, int], threshold: Threshold | None, *, blind: bool = False) -> str:
    """Whether the images called anomalous are more than chance gives; empty where no rate is promised.

    That there are no more means nothing of a model that is blind, and is not said.

    >>> threshold = Threshold.from_normals(range(1, 1000), fpr=0.01)
    >>> print(chance({"scored": 2624, "anomalous": 80}, threshold))
    More anomalous images than chance gives: with no defects, as many or more come in at most 1 of 10,000 batches.
    >>> print(chance({"scored": 2624, "anomalous": 37}, threshold))
    Chance alone can explain the anomalous images: with no defects, as many or more come in about 14 of 100 batches.
    >>> print(chance({"scored": 2624, "anomalous": 12}, threshold))
    No more anomalous images than chance would give.
    >>> print(chance({"scored": 2624, "anomalous": 12}, Threshold.from_normals(range(1, 1000), fpr=0.01, cross=True)))
    No more anomalous images than chance would give (approximate: cross-fitted, no guarantee).
    """
    probability = None if threshold is None else threshold.chance(counts["anomalous"], counts["scored"])
    if threshold is None or probability is None or not counts["scored"] or (blind and probability > _RARE):
        return ""
    said = _explained(probability)
    return f"{said[:-1]} ({APPROXIMATE})." if threshold.approximate else said


def _explained(probability: float) -> str:
    if probability > 0.5:
        return "No more anomalous images than chance would give."
    if probability > _RARE:
        can = "can" if probability > _UNUSUAL else "can hardly"
        opening, share = f"Chance alone {can} explain the anomalous images", f"about {100 * probability:.0f} of 100"
    else:
        rarity = 10 ** math.floor(-math.log10(max(probability, _RAREST)))
        opening, share = "More anomalous images than chance gives", f"at most 1 of {rarity:,}"
    return f"{opening}: with no defects, as many or more come in {share} batches."


def _false_alarms(expected: float) -> str:
    if expected < 0.5:
        return "less than one false alarm would be normal"
    return f"about {expected:,.0f} false alarm{'' if round(expected) == 1 else 's'} would be normal"
