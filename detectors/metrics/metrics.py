"""How well scores and verdicts tell labelled anomalies from normals, with intervals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nelbo.detectors.checks import check_both_kinds, check_labels, check_pairs
from nelbo.detectors.interval import Interval, binomial_interval, share_interval
from nelbo.detectors.metrics.area import auroc

Counts = NDArray[np.int64]

#: Takes the numbers of normal and of anomalous images at each score of an anomalous image, the highest first. Normal
#: images count from that score up to the next higher one. Images below all of these scores come last.
Metric = Callable[[Counts, Counts], float]

_Number = TypeVar("_Number", int, NDArray[np.float64])


def average_precision(labels: ArrayLike, scores: ArrayLike, n_resamples: int | None = None, seed: int = 0) -> Interval:
    """Average precision (area under the precision-recall steps), with Wilson's interval, widened by a bootstrap.

    The interval is that of a share of the anomalous images, made wider where the average precision of redrawn images
    varies more than such a share. Average precision depends on the share of anomalies in the set.

    Args:
        labels: (n,) 0 normal, 1 anomalous; both must occur.
        scores: (n,) higher = more anomalous.
        n_resamples: bootstrap samples; normals and anomalies are drawn separately. None takes 1,000, and fewer for
            more than 2,000 images, where the interval is narrow and a sample slow; at least 100.
        seed: of the resampling.

    Raises:
        ValueError: a kind is missing, lengths differ, other labels, a score that is not finite.

    Source: Boyd, Eng and Page 2013, "Area under the precision-recall curve: point estimates and confidence
    intervals", section 3.1, for the share; by the bootstrap's percentiles alone, few images make it far too narrow.

    >>> average_precision([0, 1, 1], [1, 2, 3], n_resamples=10).value
    1.0
    """
    value, samples = _bootstrap(_mean_precision, labels, scores, n_resamples, seed)
    n = int(np.sum(labels))
    # A value of 0 or 1 may hide half an image.
    near = (n * value + 0.5) / (n + 1)
    return share_interval(value, n / max(1.0, float(np.var(samples)) * n / (near * (1 - near))))


def recall_at_fpr(
    labels: ArrayLike, scores: ArrayLike, fpr: float, n_resamples: int | None = None, seed: int = 0
) -> Interval:
    """The largest recall of a threshold that flags at most a share `fpr` of these normals, with an interval.

    A threshold flags what lies strictly above it, so images with equal scores are flagged together or not at all.
    It is chosen on these very images, and again in each bootstrap sample: a promised threshold does no better.

    Args:
        labels: (n,) 0 normal, 1 anomalous; both must occur.
        scores: (n,) higher = more anomalous.
        fpr: largest false-alarm rate on these normals, from 0 to 1.
        n_resamples: as in :func:`average_precision`.
        seed: of the resampling.

    Raises:
        ValueError: as :func:`average_precision`, or fpr outside [0, 1].

    >>> recall_at_fpr([0, 0, 1, 1, 1], [1, 4, 3, 4, 5], fpr=0.0, n_resamples=10).value.__round__(3)
    0.333
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr={fpr}: expected a rate from 0 to 1, for example 0.05")

    def recall(normal: Counts, anomalous: Counts) -> float:
        allowed = normal.cumsum() / normal.sum() <= fpr
        return float(anomalous[allowed].sum() / anomalous.sum())

    return percentiles(*_bootstrap(recall, labels, scores, n_resamples, seed))


def f1(labels: ArrayLike, flagged: ArrayLike, n_draws: int = 10_000, seed: int = 0) -> Interval:
    """F1 of the flagged images, with an interval that covers about 95 % or more.

    2 hits / (2 hits + false alarms + misses). Its low end is that of a recall and a false-alarm rate that are drawn
    from the laws whose quantiles are Clopper and Pearson's low end of the one and high end of the other; its high end
    likewise. F1 depends on the share of anomalies: compare it with :func:`f1_all_anomalous`.

    Args:
        labels: (n,) 0 normal, 1 anomalous; both must occur.
        flagged: (n,) booleans, or 0 and 1.
        n_draws: rates drawn for each end.
        seed: of the draws.

    Raises:
        ValueError: a kind is missing, lengths differ, or values other than these.

    Source: van Rijsbergen 1979, "Information retrieval", chapter 7. Goutte and Gaussier 2005, "A probabilistic
    interpretation of precision, recall and F-score", for drawing the rates; the laws are Clopper and Pearson's.

    >>> print(f1([0, 0, 0, 1, 1], [True, False, False, True, False]))
    0.500 [0.015, 0.944]
    """
    marked = np.asarray(flagged)
    if not np.isin(marked, (0, 1)).all():
        raise ValueError(f"flagged has values such as {marked.ravel()[:3].tolist()}, expected booleans")
    truth, marks = check_both_kinds(labels, marked)
    n_normal, n_anomalous = (int(n) for n in np.bincount(truth))
    alarms, hits = (int(marks[truth == kind].sum()) for kind in (0, 1))
    random = np.random.default_rng(seed)

    def rates(above: float, below: float) -> NDArray[np.float64]:
        # A beta law with a parameter of 0 lies entirely at one end.
        return random.beta(above, below, n_draws) if above and below else np.full(n_draws, float(above > 0))

    def end(more_hits: int, quantile: float) -> float:
        recalls = rates(hits + more_hits, n_anomalous - hits + 1 - more_hits)
        alarmed = rates(alarms + 1 - more_hits, n_normal - alarms + more_hits)
        return float(np.quantile(_f1(n_anomalous * recalls, n_normal * alarmed, n_anomalous), quantile))

    return Interval(float(_f1(hits, alarms, n_anomalous)), end(0, 0.025), end(1, 0.975))


def f1_all_anomalous(labels: ArrayLike) -> float:
    """F1 of calling every image anomalous, the least that a detector should beat: 2 pi / (1 + pi).

    Args:
        labels: (n,) 0 normal, 1 anomalous; pi is the share of the anomalous, n >= 1.

    Raises:
        ValueError: no label, or one that is neither 0 nor 1.

    >>> f1_all_anomalous([0, 0, 0, 1]).__round__(3)
    0.4
    """
    truth = check_labels(labels)
    if not len(truth):
        raise ValueError("got no labels, expected at least one")
    share = float(truth.mean())
    return 2 * share / (1 + share)


class VerdictCounts(NamedTuple):
    """Images with each verdict."""

    normal: int
    review: int
    anomalous: int


class Confusion(NamedTuple):
    """Verdicts of the images that are normal, and of those that are anomalous.

    >>> Confusion(VerdictCounts(97, 2, 1), VerdictCounts(1, 1, 8)).normal.anomalous  # false alarms
    1
    """

    normal: VerdictCounts
    anomalous: VerdictCounts


class Evaluation(NamedTuple):
    """How a batch with known labels came out.

    n_normal, n_anomalous: images of each kind.
    false_alarms, detected: of them, how many have the verdict "anomalous"; None without verdicts.
    confusion: how many have each verdict; None without verdicts.
    auroc, average_precision: None where one of the kinds is missing.
    realised_fpr: false alarms as a share of the normals, with an exact (Clopper-Pearson) interval; None
        without normals or verdicts.
    recall: detected as a share of the anomalous, likewise.
    f1: of the verdict "anomalous"; None without verdicts, or where one of the kinds is missing.
    f1_all_anomalous: F1 of calling every image anomalous; None where one of the kinds is missing.
    recall_at_fpr: the largest recall of any threshold at the promised rate on these normals; None without a
        promised rate, or where one of the kinds is missing.
    """

    n_normal: int
    n_anomalous: int
    false_alarms: int | None
    detected: int | None
    confusion: Confusion | None
    auroc: Interval | None
    average_precision: Interval | None
    realised_fpr: Interval | None
    recall: Interval | None
    f1: Interval | None
    f1_all_anomalous: float | None
    recall_at_fpr: Interval | None


def evaluate(
    labels: ArrayLike, scores: ArrayLike, verdicts: ArrayLike | None = None, fpr: float | None = None
) -> Evaluation:
    """Compare verdicts and scores with labels.

    Args:
        labels: (n,) 0 normal, 1 anomalous.
        scores: (n,) higher = more anomalous.
        verdicts: (n,) words "normal", "review" or "anomalous"; None where there are none. Only "anomalous" counts
            as an alarm or a detection.
        fpr: the promised false-alarm rate; None where none was promised.

    Returns:
        Counts, rates and measures; None for those that the images do not allow.

    Raises:
        ValueError: lengths that differ, another word or label, a score that is not finite.

    >>> evaluate([0, 0, 1, 1], [1, 2, 3, 4], ["normal", "anomalous", "review", "anomalous"]).false_alarms
    1
    """
    truth, values = check_pairs(labels, scores)
    n_normal, n_anomalous = (int(n) for n in np.bincount(truth, minlength=2))
    both = bool(n_normal and n_anomalous)
    words = None if verdicts is None else _check_verdicts(verdicts, len(truth))
    confusion = None if words is None else Confusion(*(_count(words[truth == kind]) for kind in (0, 1)))
    false_alarms, detected = (None, None) if confusion is None else (kind.anomalous for kind in confusion)
    return Evaluation(
        n_normal,
        n_anomalous,
        false_alarms,
        detected,
        confusion,
        auroc(truth, values) if both else None,
        average_precision(truth, values) if both else None,
        _rate(false_alarms, n_normal),
        _rate(detected, n_anomalous),
        f1(truth, words == "anomalous") if both and words is not None else None,
        f1_all_anomalous(truth) if both else None,
        recall_at_fpr(truth, values, fpr) if both and fpr is not None else None,
    )


def resamples_for(n: int) -> int:
    """Bootstrap samples for n images.

    >>> resamples_for(500), resamples_for(20_000)
    (1000, 100)
    """
    return min(1000, max(100, 2_000_000 // n))


def percentiles(value: float, samples: Sequence[float] | NDArray[np.float64]) -> Interval:
    """A value with the middle 95 % of its bootstrap samples.

    >>> percentiles(0.5, [0.0, 1.0])
    Interval(value=0.5, low=0.025, high=0.975)
    """
    if not len(samples):
        raise ValueError("got no bootstrap samples, expected n_resamples of at least 1, better 1,000")
    low, high = np.quantile(samples, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _bootstrap(
    metric: Metric, labels: ArrayLike, scores: ArrayLike, n_resamples: int | None, seed: int
) -> tuple[float, list[float]]:
    """A value, and the values of bootstrap samples."""
    truth, values = check_both_kinds(labels, scores)
    distinct = np.unique(-values[truth == 1])
    # Most of a million images are normal, and their order between two anomalous ones does not matter.
    normal, anomalous = (np.searchsorted(distinct, -values[truth == kind]) for kind in (0, 1))

    def measure(normal: Counts, anomalous: Counts) -> float:
        return metric(*(np.bincount(levels, minlength=len(distinct) + 1) for levels in (normal, anomalous)))

    random = np.random.default_rng(seed)
    samples = [
        measure(random.choice(normal, len(normal)), random.choice(anomalous, len(anomalous)))
        for _ in range(resamples_for(len(truth)) if n_resamples is None else n_resamples)
    ]
    if not samples:
        raise ValueError("got no bootstrap samples, expected n_resamples of at least 1, better 1,000")
    return measure(normal, anomalous), samples


def _mean_precision(normal: Counts, anomalous: Counts) -> float:
    hits = anomalous.cumsum()
    flagged = np.maximum(hits + normal.cumsum(), 1)
    return float((anomalous * (hits / flagged)).sum() / anomalous.sum())


def _f1(hits: _Number, alarms: _Number, n_anomalous: int) -> NDArray[np.float64]:
    return np.asarray(2 * hits / (hits + alarms + n_anomalous))


def _check_verdicts(verdicts: ArrayLike, n: int) -> NDArray[np.object_]:
    words = np.asarray(verdicts, object)
    if words.shape != (n,):
        raise ValueError(f"got verdicts of shape {words.shape} for {n} scores, expected one verdict for each score")
    unknown = sorted(map(repr, set(words) - set(VerdictCounts._fields)))
    if unknown:
        raise ValueError(
            f"got verdicts {', '.join(unknown[:5])}, expected the words {', '.join(VerdictCounts._fields)}. "
            "Leave out images that were not scored"
        )
    return words


def _count(words: NDArray[np.object_]) -> VerdictCounts:
    return VerdictCounts(*(int((words == word).sum()) for word in VerdictCounts._fields))


def _rate(k: int | None, n: int) -> Interval | None:
    return binomial_interval(k, n) if n and k is not None else None
