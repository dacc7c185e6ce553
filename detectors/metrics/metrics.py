"""How well scores and verdicts tell labelled anomalies from normals, with intervals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nelbo.detectors.checks import check_both_kinds, check_labels, check_pairs
from nelbo.detectors.interval import Interval, binomial_interval
from nelbo.detectors.metrics.delong import delong_interval

#: Above this many images the AUROC of an evaluation has DeLong's interval, which takes a second for a million.
MANY = 50_000

Counts = NDArray[np.int64]

#: From the normal and the anomalous images at each distinct score, the highest first.
Metric = Callable[[Counts, Counts], float]

_Count = TypeVar("_Count", int, Counts)


def auroc(labels: ArrayLike, scores: ArrayLike, n_resamples: int | None = None, seed: int = 0) -> Interval:
    """Area under the ROC curve, with a stratified percentile bootstrap interval.

    Args:
        labels: (n,) 0 normal, 1 anomalous; both must occur.
        scores: (n,) higher = more anomalous.
        n_resamples: bootstrap samples; normals and anomalies are drawn apart. None takes 1,000, and fewer for
            more than 2,000 images, where the interval is narrow and a sample slow; at least 100.
        seed: of the resampling.

    Raises:
        ValueError: a kind is missing, lengths differ, other labels, a score that is not finite.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve": the share of pairs in the
    right order, a tie counting half.

    >>> auroc([0, 0, 1, 1], [1, 2, 3, 4], n_resamples=10).value
    1.0
    """
    return _bootstrap(_area, labels, scores, n_resamples, seed)


def average_precision(labels: ArrayLike, scores: ArrayLike, n_resamples: int | None = None, seed: int = 0) -> Interval:
    """Average precision (area under the precision-recall steps), with an interval as in :func:`auroc`.

    It depends on the share of anomalies in the set.

    >>> average_precision([0, 1, 1], [1, 2, 3], n_resamples=10).value
    1.0
    """
    return _bootstrap(_mean_precision, labels, scores, n_resamples, seed)


def recall_at_fpr(
    labels: ArrayLike, scores: ArrayLike, fpr: float, n_resamples: int | None = None, seed: int = 0
) -> Interval:
    """The largest recall of a threshold that flags at most a share `fpr` of these normals, with an interval.

    A threshold flags what lies strictly above it, so images with equal scores are flagged together or not at all.
    It is chosen on these very images, and again in each bootstrap sample: a promised threshold does no better.

    Args:
        labels: (n,) 0 normal, 1 anomalous; both must occur.
        scores: (n,) higher = more anomalous.
        fpr: largest false-positive rate on these normals, from 0 to 1.
        n_resamples: as in :func:`auroc`.
        seed: of the resampling.

    Raises:
        ValueError: as :func:`auroc`, or fpr outside [0, 1].

    >>> recall_at_fpr([0, 0, 1, 1, 1], [1, 4, 3, 4, 5], fpr=0.0, n_resamples=10).value.__round__(3)
    0.333
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr={fpr}: expected a rate from 0 to 1, for example 0.05")

    def recall(normal: Counts, anomalous: Counts) -> float:
        allowed = normal.cumsum() / normal.sum() <= fpr
        return float(anomalous[allowed].sum() / anomalous.sum())

    return _bootstrap(recall, labels, scores, n_resamples, seed)


def f1(labels: ArrayLike, flagged: ArrayLike, n_resamples: int = 10_000, seed: int = 0) -> Interval:
    """F1 of the flagged images, with a stratified percentile bootstrap interval.

    2 hits / (2 hits + false alarms + misses). Redrawing the images of each kind makes hits and false alarms
    binomial, which is what is drawn. F1 depends on the share of anomalies: compare it with :func:`f1_all_anomalous`.

    Args:
        labels: (n,) 0 normal, 1 anomalous; both must occur.
        flagged: (n,) booleans, or 0 and 1.
        n_resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: a kind is missing, lengths differ, or values other than these.

    Source: van Rijsbergen 1979, "Information retrieval", chapter 7.

    >>> f1([0, 0, 0, 1, 1], [True, False, False, True, False]).value
    0.5
    """
    marked = np.asarray(flagged)
    if not np.isin(marked, (0, 1)).all():
        raise ValueError(f"flagged has values such as {marked.ravel()[:3].tolist()}, expected booleans")
    truth, marks = check_both_kinds(labels, marked)
    n_normal, n_anomalous = (int(n) for n in np.bincount(truth))
    alarms, hits = (int(marks[truth == kind].sum()) for kind in (0, 1))
    random = np.random.default_rng(seed)
    samples = _f1(
        random.binomial(n_anomalous, hits / n_anomalous, n_resamples),
        random.binomial(n_normal, alarms / n_normal, n_resamples),
        n_anomalous,
    )
    return percentiles(float(_f1(hits, alarms, n_anomalous)), samples)


def f1_all_anomalous(labels: ArrayLike) -> float:
    """F1 of calling every image anomalous, the least that a detector should beat: 2 pi / (1 + pi).

    Args:
        labels: (n,) 0 normal, 1 anomalous; pi is the share of the anomalous, n >= 1.

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
        fpr: the promised false-positive rate; None where none was promised.

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
        _auroc_of_any_size(truth, values) if both else None,
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


def _bootstrap(metric: Metric, labels: ArrayLike, scores: ArrayLike, n_resamples: int | None, seed: int) -> Interval:
    truth, values = check_both_kinds(labels, scores)
    distinct, level = np.unique(-values, return_inverse=True)
    normal, anomalous = (level[truth == kind] for kind in (0, 1))

    def measure(normal: Counts, anomalous: Counts) -> float:
        return metric(*(np.bincount(levels, minlength=len(distinct)) for levels in (normal, anomalous)))

    random = np.random.default_rng(seed)
    samples = [
        measure(random.choice(normal, len(normal)), random.choice(anomalous, len(anomalous)))
        for _ in range(resamples_for(len(truth)) if n_resamples is None else n_resamples)
    ]
    return percentiles(measure(normal, anomalous), samples)


def _area(normal: Counts, anomalous: Counts) -> float:
    n_normal = normal.sum()
    normals_below = n_normal - normal.cumsum() + normal / 2
    return float((anomalous * normals_below).sum() / n_normal / anomalous.sum())


def _mean_precision(normal: Counts, anomalous: Counts) -> float:
    hits = anomalous.cumsum()
    flagged = np.maximum(hits + normal.cumsum(), 1)
    return float((anomalous * (hits / flagged)).sum() / anomalous.sum())


def _f1(hits: _Count, alarms: _Count, n_anomalous: int) -> NDArray[np.float64]:
    return np.asarray(2 * hits / (hits + alarms + n_anomalous))


def _auroc_of_any_size(truth: NDArray[np.int64], values: NDArray[np.float64]) -> Interval:
    has_variance = np.bincount(truth).min() > 1
    return delong_interval(truth, values) if len(truth) > MANY and has_variance else auroc(truth, values)


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
