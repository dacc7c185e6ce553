"""Thresholds from scores of held-out images. Scores have the anomalous side up; ``score > threshold`` flags."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nelbo.detectors.checks import check_labels, check_scores
from nelbo.detectors.interval import Interval
from nelbo.detectors.metrics.labelled import EQUAL_COSTS, labelled_threshold
from nelbo.detectors.promise import (
    check_rates,
    check_size,
    false_alarm_interval,
    false_alarm_probability,
    n_above,
    rate_law,
)

#: What the rate is promised to, where images come in groups: an image of a fresh group, or all images of it together.
PromisedTo = Literal["image", "group"]

#: Said of each rate that cross-fitted scores aim at.
APPROXIMATE = "approximate: cross-fitted, no guarantee"


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what calibration on held-out scores promises for it.

    value: scores strictly above it are anomalous.
    fpr: promised false-alarm rate on fresh normal images, or with `cross` the rate aimed at; None where there is
        neither.
    objective: "conformal"; "trimmed" (conformal on a contaminated set, so without a promise); or one of
        `nelbo.detectors.metrics.labelled.OBJECTIVES`.
    n_calibration: normal images behind it, without those trimmed.
    confidence: share of calibration sets for which the promise holds; None if it holds on average over them.
    target: of an objective that has one; for "trimmed", the requested rate.
    contamination: share of the calibration images, the highest scores, taken for anomalous.
    review: scores above it, up to `value`, are for review; None if there is no such band.
    review_fpr: share of normal images above `review`, as promised as `fpr` is.
    review_recall: share of the labelled anomalies above `review`.
    cross: whether the scores come from cross-fitting: every normal image was scored by a model that had not seen it,
        and the final model is of all. No law promises that its scores are like those: all rates are approximate.
    per: what the rate is promised for where images come in groups: "image", one image of a fresh group, or "group", all
        its images together; None without groups.

    >>> print(Threshold.from_normals(range(1, 100), fpr=0.05).describe())
    false-alarm rate promised: 5 %, between 1.7 and 10.0 % with 99 images
    """

    value: float
    fpr: float | None
    objective: str
    n_calibration: int
    confidence: float | None = None
    target: float | None = None
    contamination: float = 0.0
    review: float | None = None
    review_fpr: float | None = None
    review_recall: float | None = None
    cross: bool = False
    per: PromisedTo | None = None

    @classmethod
    def from_normals(
        cls,
        scores: ArrayLike,
        fpr: float,
        *,
        confidence: float | None = None,
        contamination: float = 0.0,
        review_fpr: float | None = None,
        cross: bool = False,
        per: PromisedTo | None = None,
    ) -> "Threshold":
        """The conformal threshold of normal images.

        Args:
            scores: (n,) of images that the model did not train on; higher = more anomalous.
            fpr: promised false-alarm rate.
            confidence: None promises it on average over calibration sets; 0.95 for 95 of 100 of them.
            contamination: share of the images that are in fact anomalous; the highest scores are trimmed, and
                nothing is promised.
            review_fpr: rate of the review band's lower end, above `fpr`; None for no band.
            cross: each score is from a model that had not seen the image, and none from the final model. The threshold
                is the same, but its rate is only aimed at.
            per: the scores are of one image of each group, drawn by `one_of_each`: "image" if at random, "group" if
                the highest; None without groups.

        Raises:
            CalibrationError: too few images.
            ValueError: rates out of range or order, `confidence` with `contamination` or `cross`, scores that are not
                finite.

        >>> print(Threshold.from_normals(range(1, 100), fpr=0.05, cross=True).describe())
        false-alarm rate aimed at: 5 %, about 1.7 to 10.0 % with 99 images (approximate: cross-fitted, no guarantee)
        >>> print(Threshold.from_normals(range(1, 100), fpr=0.05, per="group").describe())
        false-alarm rate promised: 5 % of groups, between 1.7 and 10.0 % with 99 groups
        """
        check_rates(fpr, confidence)
        if review_fpr is not None and not fpr < review_fpr < 1:
            raise ValueError(f"review_fpr={review_fpr}: expected a rate above fpr={fpr} and below 1")
        if contamination and confidence is not None:
            raise ValueError(
                f"confidence={confidence} does not go with contamination={contamination}: a trimmed set promises "
                "nothing. Leave one of the two out"
            )
        if cross and confidence is not None:
            raise ValueError(
                f"confidence={confidence} with cross-fitted scores: expected None, because their rate is approximate. "
                "Calibrate on held-out images, or leave the confidence out"
            )
        kept = trim(scores, contamination)
        promised = not contamination
        return cls(
            value=conformal_threshold(kept, fpr, confidence),
            fpr=fpr if promised else None,
            objective="conformal" if promised else "trimmed",
            n_calibration=len(kept),
            confidence=confidence,
            target=None if promised else fpr,
            contamination=contamination,
            review=None if review_fpr is None else conformal_threshold(kept, review_fpr, confidence),
            review_fpr=review_fpr,
            cross=cross,
            per=per,
        )

    @classmethod
    def from_labels(
        cls,
        labels: ArrayLike,
        scores: ArrayLike,
        objective: str,
        *,
        target: float | None = None,
        costs: Sequence[Sequence[float]] = EQUAL_COSTS,
        review_recall: float | None = None,
    ) -> "Threshold":
        """The threshold that is best on labelled images; see `labelled_threshold`. It promises no rate.

        Args:
            labels: (n,) 0 normal, 1 anomalous.
            scores: (n,) higher = more anomalous.
            objective, target, costs: as in `labelled_threshold`.
            review_recall: the review band goes down to the score above which this share of the anomalies lies;
                there is no band if the threshold itself is as low.

        Raises:
            ValueError: an unknown objective, a target that does not fit it, or images of one label only.
        """
        value = labelled_threshold(labels, scores, objective, target, costs)
        review = None if review_recall is None else labelled_threshold(labels, scores, "fpr", review_recall)
        return cls(
            value=value,
            fpr=None,
            objective=objective,
            n_calibration=int((check_labels(labels) == 0).sum()),
            target=target,
            review=review if review is not None and review < value else None,
            review_recall=review_recall,
        )

    @property
    def asked_fpr(self) -> float | None:
        """The false-alarm rate that was requested, promised or only aimed at; None for a threshold from labels.

        >>> Threshold.from_normals(range(100), fpr=0.05, contamination=0.1).asked_fpr
        0.05
        """
        return self.target if self.objective == "trimmed" else self.fpr

    @property
    def approximate(self) -> bool:
        """Whether there is a rate that rests on experience only."""
        return self.cross and self.fpr is not None

    @property
    def supported(self) -> Interval | None:
        """Mean and 95 % interval of the false-alarm rate in the long run; None without a promise.

        With `cross`, the law of held-out images stands in for one that nobody knows, here and below.
        """
        if self.fpr is None:
            return None
        return rate_law(n_above(self.n_calibration, self.fpr, self.confidence), self.n_calibration)

    @property
    def supported_review(self) -> Interval | None:
        """The same for the share of normal images sent to people: above `review` and not above `value`."""
        if self.fpr is None or self.review_fpr is None:
            return None
        n = self.n_calibration
        between = n_above(n, self.review_fpr, self.confidence) - n_above(n, self.fpr, self.confidence)
        return rate_law(between, n) if between else Interval(0.0, 0.0, 0.0)

    def false_alarms(self, m: int) -> Interval | None:
        """How many of `m` normal images are called anomalous: the mean, and the central 95 % of its chance variation.

        None without a promise.

        >>> Threshold.from_normals(range(199), fpr=0.05).false_alarms(100)
        Interval(value=5.0, low=1, high=11)
        """
        if self.fpr is None:
            return None
        rank = n_above(self.n_calibration, self.fpr, self.confidence)
        return false_alarm_interval(m, self.n_calibration, rank)

    def chance(self, n_anomalous: int, n_images: int) -> float | None:
        """Probability that `n_anomalous` or more of `n_images` normal images are above `value`; None without a promise.

        The noise of the calibration counts, too: with few images behind it, the threshold may lie low by chance.

        Args:
            n_anomalous: images above `value`.
            n_images: all of the batch.

        >>> round(Threshold.from_normals(range(1, 100), fpr=0.05).chance(12, 100), 3)
        0.034
        """
        if self.fpr is None:
            return None
        rank = n_above(self.n_calibration, self.fpr, self.confidence)
        return false_alarm_probability(range(n_anomalous, n_images + 1), n_images, self.n_calibration, rank)

    def describe(self, review: Interval | None = None) -> str:
        """The promise in words, with what this calibration set really supports.

        Args:
            review: share of normal images sent to people, as counted somewhere; a promised rate does not need it.

        >>> Threshold(2.0, None, "f1", 50, review=1.0).describe(Interval(0.1, 0.03, 0.22)).split("; ")[1]
        'for review 10 % of normal images, between 3.0 and 22.0 %'
        """
        share = self.supported_review if review is None else review
        of = " of groups" if self.per == "group" else ""
        behind = f"with {self.n_calibration:,} {'groups' if self.per else 'images'}"
        if self.approximate and self.supported is not None:
            rate = f"{_percent(self.fpr)}{of}, {_about(self.supported)} {behind}"
        elif self.supported is not None:
            surely = "" if self.confidence is None else f" with confidence {_percent(self.confidence)}"
            rate = f"{_percent(self.fpr)}{of}{surely}, {_between(self.supported)} {behind}"
        elif self.objective == "trimmed":
            highest = _percent(self.contamination)
            rate = f"none, because the highest {highest} of the calibration images were taken for anomalous"
        else:
            rate = f"none, because the threshold was chosen from labels ({self.objective})"
        text = f"false-alarm rate {'aimed at' if self.approximate else 'promised'}: {rate}"
        if share is not None:
            another = "another " if self.supported is not None else ""
            span = _about(share) if self.approximate else _between(share)
            text = f"{text}; for review {another}{_percent(share.value)} of normal images, {span}"
        return f"{text} ({APPROXIMATE})" if self.approximate else text

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them; without groups there is no `per`, as in versions that did not know it."""
        return {name: value for name, value in asdict(self).items() if name != "per" or value is not None}


def conformal_threshold(scores: ArrayLike, fpr: float, confidence: float | None = None) -> float:
    """The order statistic of calibration scores that a fresh normal image exceeds with probability <= fpr.

    With n scores it is the k-th smallest, k = ceil((n + 1)(1 - fpr)). The promise needs only that calibration
    and fresh normal images are exchangeable, and holds on average over calibration sets; with `confidence`
    it holds for that share of them, and k is larger.

    Args:
        scores: (n,) of normal images that the model did not train on; higher = more anomalous.
        fpr: promised false-alarm rate, in (0, 1).
        confidence: in (0, 1), or None.

    Raises:
        CalibrationError: n is too small for `fpr`.
        ValueError: fpr outside (0, 1), or a score that is NaN or infinite.

    Source: Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World", section 2.2; Laxhammar
    and Falkman 2010 for anomaly detection; Vovk 2012, proposition 2a, for the confidence.

    >>> conformal_threshold(range(1, 100), 0.05), conformal_threshold(range(1, 100), 0.05, confidence=0.95)
    (95.0, 98.0)
    """
    values = check_scores(scores)
    n = len(values)
    check_size(n, fpr, confidence)
    k = n - n_above(n, fpr, confidence)
    return float(np.partition(values, k)[k])


def trim(scores: ArrayLike, contamination: float) -> NDArray[np.float64]:
    """The scores without the highest share `contamination` of them, rounded up; sorted.

    Args:
        scores: (n,) higher = more anomalous.
        contamination: a share, from 0 to below 1.

    Raises:
        ValueError: a share out of range, or a score that is not finite.

    >>> trim([3.0, 1.0, 2.0, 9.0], 0.25).tolist()
    [1.0, 2.0, 3.0]
    """
    if not 0 <= contamination < 1:
        raise ValueError(f"contamination={contamination}: expected a share from 0 to below 1, for example 0.02")
    ordered = np.sort(check_scores(scores))
    n_trimmed = math.ceil(round(contamination * len(ordered), 9))
    return ordered[: len(ordered) - n_trimmed]


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0):.3g} %"


def _about(interval: Interval) -> str:
    return f"about {100 * interval.low:.1f} to {100 * interval.high:.1f} %"


def _between(interval: Interval) -> str:
    return f"between {100 * interval.low:.1f} and {100 * interval.high:.1f} %"
