"""How well scores tell labelled anomalies from normals, with intervals."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from detectors.checks import check_labels, check_scores
from detectors.interval import Interval, binomial_interval

Metric = Callable[[NDArray[np.int64], NDArray[np.float64]], float]


def auroc(labels: ArrayLike, scores: ArrayLike, n_resamples: int | None = None, seed: int = 0) -> Interval:
    """Area under the ROC curve, with a stratified percentile bootstrap interval.

    Args:
        labels: (n,) 0 normal, 1 anomalous; both must occur.
        scores: (n,) higher = more anomalous.
        n_resamples: bootstrap samples; normals and anomalies are drawn apart. None takes 1,000, and fewer for
            more than 2,000 images, where the interval is narrow and a sample slow; at least 100.
        seed: of the resampling.

    >>> auroc([0, 0, 1, 1], [1, 2, 3, 4], n_resamples=10).value
    1.0
    """
    return _bootstrap(roc_auc_score, labels, scores, n_resamples, seed)


def average_precision(labels: ArrayLike, scores: ArrayLike, n_resamples: int | None = None, seed: int = 0) -> Interval:
    """Average precision (area under the precision-recall steps), with an interval as in :func:`auroc`.

    It depends on the share of anomalies in the set.

    >>> average_precision([0, 1, 1], [1, 2, 3], n_resamples=10).value
    1.0
    """
    return _bootstrap(average_precision_score, labels, scores, n_resamples, seed)


class Evaluation(NamedTuple):
    """How a batch with known labels came out.

    n_normal, n_anomalous: images of each kind.
    false_alarms, detected: of them, how many have the verdict "anomalous"; None without verdicts.
    auroc, average_precision: None where one of the kinds is missing.
    realised_fpr: false alarms as a share of the normals, with an exact (Clopper-Pearson) interval; None
        without normals or verdicts.
    """

    n_normal: int
    n_anomalous: int
    false_alarms: int | None
    detected: int | None
    auroc: Interval | None
    average_precision: Interval | None
    realised_fpr: Interval | None


def evaluate(labels: ArrayLike, scores: ArrayLike, flagged: ArrayLike | None) -> Evaluation:
    """Compare verdicts and scores with labels.

    Args:
        labels: (n,) 0 normal, 1 anomalous.
        scores: (n,) higher = more anomalous.
        flagged: (n,) booleans, the verdicts; None where there are none.

    >>> evaluate([0, 0, 1, 1], [1, 2, 3, 4], [False, True, True, True]).false_alarms
    1
    """
    truth = check_labels(labels)
    normal, anomalous = truth == 0, truth == 1
    n_normal, n_anomalous = int(normal.sum()), int(anomalous.sum())
    marked = None if flagged is None else np.asarray(flagged, bool)
    false_alarms = None if marked is None else int((marked & normal).sum())
    both = bool(n_normal and n_anomalous)
    return Evaluation(
        n_normal,
        n_anomalous,
        false_alarms,
        None if marked is None else int((marked & anomalous).sum()),
        auroc(truth, scores) if both else None,
        average_precision(truth, scores) if both else None,
        binomial_interval(false_alarms, n_normal) if n_normal and false_alarms is not None else None,
    )


def resamples_for(n: int) -> int:
    """Bootstrap samples for n images.

    >>> resamples_for(500), resamples_for(20_000)
    (1000, 100)
    """
    return min(1000, max(100, 2_000_000 // n))


def _bootstrap(metric: Metric, labels: ArrayLike, scores: ArrayLike, n_resamples: int | None, seed: int) -> Interval:
    truth, values = check_labels(labels), check_scores(scores)
    groups = [np.flatnonzero(truth == kind) for kind in (0, 1)]
    if not all(len(group) for group in groups):
        raise ValueError(f"got {len(groups[0])} normal and {len(groups[1])} anomalous images, expected both kinds")
    random = np.random.default_rng(seed)
    samples = []
    for _ in range(n_resamples or resamples_for(len(truth))):
        drawn = np.concatenate([random.choice(group, len(group)) for group in groups])
        samples.append(metric(truth[drawn], values[drawn]))
    low, high = np.quantile(samples, [0.025, 0.975])
    return Interval(float(metric(truth, values)), float(low), float(high))
