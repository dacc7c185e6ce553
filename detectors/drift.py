"""Has the process changed? Compares a batch with the calibration, apart from the verdicts on its images.

Several tests share one promise: while batch and calibration are exchangeable, a batch raises the alarm with
probability at most alpha. The promise is for each batch, on average over calibrations; batches that are compared with
the same calibration raise it together more often than independent ones would.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nelbo.detectors.checks import check_scores
from nelbo.detectors.promise import false_alarm_probability
from nelbo.detectors.smirnov import smirnov_p_value

#: Share of the capital that the martingale spreads anew over its three bets before each score.
JUMP = 0.01

#: Scores of one batch that the martingale reads at most: they bound its time, and no batch outweighs the others.
SCORES_PER_BATCH = 256

#: Names of the tests on scores; no image statistic may have one.
SCORES, FLAGGED, MARTINGALE = "scores", "flagged", "martingale"

#: A test's name, its p-value, and what was seen.
Seen: TypeAlias = tuple[str, float, str]


class DriftTest(NamedTuple):
    """One question to the batch.

    name: "scores", "flagged", "martingale", or that of an image statistic.
    p_value: in [0, 1]; P(p <= a) <= a without drift.
    adjusted_p_value: by :func:`holm`, over all tests of the batch; never below p_value.
    finding: what was seen, in a few words and numbers, whether or not it is out of the ordinary.
    """

    name: str
    p_value: float
    adjusted_p_value: float
    finding: str


class Drift(NamedTuple):
    """Whether a batch differs from the calibration.

    alarm: some test has an adjusted p-value <= alpha.
    alpha: highest probability of an alarm without drift, over all tests together.
    tests: in the order scores, flagged, martingale, image statistics; none for an empty batch.
    """

    alarm: bool
    alpha: float
    tests: tuple[DriftTest, ...]

    @property
    def fired(self) -> tuple[DriftTest, ...]:
        """The tests behind the alarm."""
        return tuple(test for test in self.tests if test.adjusted_p_value <= self.alpha)


def detect_drift(
    scores: ArrayLike,
    calibration_scores: ArrayLike,
    *,
    threshold: float | None = None,
    earlier: Sequence[ArrayLike] = (),
    statistics: Mapping[str, ArrayLike] | None = None,
    reference: Mapping[str, ArrayLike] | None = None,
    alpha: float = 0.01,
    seed: int = 0,
) -> Drift:
    """Compare a batch with the calibration.

    "scores" compares the two distributions (Kolmogorov-Smirnov); "flagged", with a threshold, the number of images
    above it with the number promised; "martingale" adds up slow change over `earlier` and this batch; each image
    statistic is compared as the scores are. Only the martingale heeds the order of the scores; it reads at most
    ``SCORES_PER_BATCH`` of each batch, chosen by `seed` and not by value.

    Args:
        scores: (m,) of the batch; higher = more anomalous. The martingale takes their order for that of time: shuffle
            them if their order depends on the scores for another reason (folders of defects).
        calibration_scores: (n,) of held-out normal images, n >= 1.
        threshold: a conformal one, or one fixed without these scores; None leaves "flagged" out.
        earlier: scores of earlier batches, oldest first. Run time grows with their number: pass recent ones only.
        statistics: of the batch, name -> (m',), for example brightness; NaN is dropped.
        reference: of calibration images, name -> (n',); names that only one of the two has are left out, as are
            those without any number on one side.
        alpha: highest probability of an alarm without drift, in (0, 1).
        seed: of the choice of scores and of the martingale's tie-breaking.

    Returns:
        Whether there is an alarm, and what each test found.

    Raises:
        ValueError: no calibration score, a score or threshold that is not finite, an infinite statistic, a statistic
            with the name of another test, alpha outside (0, 1).

    Source: Smirnov 1939 for the comparisons, see `smirnov_p_value`; Vovk et al. 2021, see
    `_log_wealth`, for the martingale; :func:`holm`. The number flagged follows Vovk 2012, "Conditional validity of
    inductive conformal predictors", section 2: with j - 1 calibration scores above the threshold it is
    beta-binomial (m, j, n + 1 - j).

    >>> normal = [i * 37 % 100 / 100 for i in range(100)]
    >>> detect_drift(normal[::2], normal).alarm
    False
    >>> detect_drift([score + 0.5 for score in normal], normal).fired[0].finding
    'scores are higher than in the calibration: median 0.995 against 0.495'
    """
    batch, calibration = check_scores(scores), check_scores(calibration_scores)
    past = [check_scores(values) for values in earlier]
    if not len(calibration):
        raise ValueError("drift needs at least one calibration score, got none. Score held-out normal images first.")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha}: expected a probability between 0 and 1, for example 0.01")
    if threshold is not None and not np.isfinite(threshold):
        raise ValueError(f"threshold={threshold}: expected a finite number, or None to leave the test out")
    measured = _measured(statistics or {}, reference or {})
    if not len(batch):
        return Drift(False, alpha, ())
    findings = [_compare(SCORES, "scores are", batch, calibration)]
    if threshold is not None:
        findings.append(_flagged(batch, calibration, threshold))
    findings.append(_slow_change([*past, batch], calibration, np.random.default_rng(seed)))
    findings += [_compare(name, f"{name} is", *pair) for name, pair in measured.items()]
    adjusted = holm([p_value for _, p_value, _ in findings]).tolist()
    tests = tuple(DriftTest(name, p, q, text) for (name, p, text), q in zip(findings, adjusted, strict=True))
    return Drift(min(adjusted) <= alpha, alpha, tests)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted for their number: rejecting those <= a errs at all with probability at most a.

    The k-th smallest of K is multiplied by K - k + 1, and is never below the adjusted value of a smaller one.

    Args:
        p_values: (K,) in [0, 1], however they depend on each other.

    Returns:
        (K,) in [0, 1], in the order given.

    Raises:
        ValueError: another shape, or a value outside [0, 1].

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values {values.tolist()}: expected a list of numbers in [0, 1]")
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return np.minimum(adjusted, 1)


def _compare(name: str, subject: str, batch: NDArray[np.float64], reference: NDArray[np.float64]) -> Seen:
    """Are both drawn from one distribution?"""
    return (name, smirnov_p_value(batch, reference), f"{subject} {_difference(batch, reference)}")


def _difference(batch: NDArray[np.float64], reference: NDArray[np.float64]) -> str:
    """How two samples differ, in words: a shift where no quartile moves against the median, else a spread."""
    new, old = (np.quantile(values, [0.25, 0.5, 0.75]) for values in (batch, reference))
    low, median, high, old_low, old_median, old_high = _numbers(*new, *old)
    sides, wider = set(np.sign(new - old).tolist()) - {0.0}, float(np.ptp(new) - np.ptp(old))
    if len(sides) == 1 and new[1] != old[1]:
        word = "higher" if new[1] > old[1] else "lower"
        median, old_median = _numbers(new[1], old[1])
        return f"{word} than in the calibration: median {median} against {old_median}"
    if wider:
        word = "more" if wider > 0 else "less"
        return f"{word} spread out than in the calibration: middle half {low} to {high} against {old_low} to {old_high}"
    return f"much as in the calibration: median {median} against {old_median}"


def _numbers(*values: float) -> list[str]:
    """Values with as many digits as tell them apart, and at least three."""
    largest, span = max(map(abs, values)), max(values) - min(values)
    digits = 3
    if 0 < span < largest:
        digits = min(15, max(3, math.floor(math.log10(largest)) - math.floor(math.log10(span)) + 2))
    return [f"{float(f'{value:.{digits}g}'):.15g}" for value in values]


def _flagged(batch: NDArray[np.float64], calibration: NDArray[np.float64], threshold: float) -> Seen:
    """Does the threshold flag as many as it flagged of the calibration, give or take the noise of both?

    A threshold that is one calibration score, and tied with none, has rank ``above + 1 = at_least``: that is the
    beta-binomial. With ties its rank lies between the two, and without any calibration score on it, it counts as
    fixed beforehand (Fisher's exact test): each tail then takes the end, and the count, that make it larger.
    """
    m, n, n_flagged = len(batch), len(calibration), int((batch > threshold).sum())
    above, at_least = int((calibration > threshold).sum()), int((calibration >= threshold).sum())
    few = false_alarm_probability(range(int((batch >= threshold).sum()) + 1), m, n, min(above + 1, at_least))
    many = false_alarm_probability(range(n_flagged, m + 1), m, n, max(above + 1, at_least))
    expected = m * (above + 1) / (n + 1)
    p_value = min(1.0, 2 * min(few, many))
    return (FLAGGED, p_value, f"{n_flagged} of {m} images flagged, {expected:.1f} expected")


def _slow_change(
    batches: list[NDArray[np.float64]], calibration: NDArray[np.float64], random: np.random.Generator
) -> Seen:
    """Is the martingale rich at any time within the last batch? By Ville's inequality 1 / wealth is then a p-value."""
    read = [_some(batch, random) for batch in batches]
    stream = np.concatenate(read)
    p_values = _online_p_values(stream, calibration, random)
    log_wealth = _log_wealth(p_values)
    # What it won earlier and has lost again says nothing about this batch.
    start = len(stream) - len(read[-1])
    peak = start + int(log_wealth[start:].argmax())
    where = f"over {len(batches)} batches up to this one" if len(batches) > 1 else "within this batch"
    if log_wealth[peak] <= 0:
        return (MARTINGALE, 1.0, f"no sign of a slow change {where}")
    tendency = "higher" if p_values[: peak + 1].mean() < 0.5 else "lower"
    odds = f"{math.exp(min(log_wealth[peak], 700)):.3g} to 1"
    finding = f"{where}, scores tended {tendency}: evidence of a change reached {odds}"
    return (MARTINGALE, math.exp(-log_wealth[peak]), finding)


def _some(batch: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """At most ``SCORES_PER_BATCH`` scores, in their order."""
    if len(batch) <= SCORES_PER_BATCH:
        return batch
    return batch[np.sort(random.choice(len(batch), SCORES_PER_BATCH, replace=False))]


def _online_p_values(
    scores: NDArray[np.float64], calibration: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.float64]:
    """Each score's rank from the top among the calibration, the scores before it and itself, as a share.

    Source: Vovk, Nouretdinov and Gammerman 2003, "Testing exchangeability on-line" (smoothed p-values).
    """
    ordered = np.sort(calibration)
    first, last = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    above, equal = len(ordered) - last, last - first
    seen: list[float] = []
    for i, score in enumerate(scores.tolist()):
        low, high = bisect_left(seen, score), bisect_right(seen, score)
        above[i] += i - high
        equal[i] += high - low
        seen.insert(high, score)
    n_known = len(ordered) + 1 + np.arange(len(scores))
    return (above + random.random(len(scores)) * (equal + 1)) / n_known


def _log_wealth(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m,) natural log of a gambler's wealth, from 0, who bets by each p-value in turn that the scores have changed.

    One third of the capital bets that p-values are low (scores rise), one third that they are high (scores fall), one
    third waits; before each bet a share ``JUMP`` of the whole is spread evenly again. A bet b multiplies its share of
    the capital by 1 + b (p - 1/2). While scores are exchangeable, the p-values are independent and uniform: the wealth
    has mean 1, and ever reaches w with probability at most 1 / w.

    Source: Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman 2021, "Retrain or not retrain: conformal test
    martingales for change-point detection", algorithm 1 (Simple Jumper, J = 0.01, bets -1, 0 and 1). Ville 1939 for
    the bound.
    """
    low = wait = high = 1 / 3
    growth = np.empty(len(p_values))
    for i, p in enumerate(p_values.tolist()):
        low = ((1 - JUMP) * low + JUMP / 3) * (1.5 - p)
        wait = (1 - JUMP) * wait + JUMP / 3
        high = ((1 - JUMP) * high + JUMP / 3) * (0.5 + p)
        growth[i] = total = low + wait + high
        low, wait, high = low / total, wait / total, high / total
    return np.cumsum(np.log(growth))


def _measured(
    statistics: Mapping[str, ArrayLike], reference: Mapping[str, ArrayLike]
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Image statistics that batch and calibration both have."""
    if taken := {SCORES, FLAGGED, MARTINGALE} & statistics.keys() & reference.keys():
        raise ValueError(f"statistics named {sorted(taken)}: the tests on scores have these names. Rename them.")
    both = {
        name: (_present(f"statistics[{name!r}]", statistics[name]), _present(f"reference[{name!r}]", reference[name]))
        for name in statistics
        if name in reference
    }
    return {name: pair for name, pair in both.items() if all(map(len, pair))}


def _present(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """A statistic without its NaNs."""
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1:
        raise ValueError(f"{name} has shape {numbers.shape}, expected one number for each image")
    if np.isinf(numbers).any():
        raise ValueError(f"{name} has {int(np.isinf(numbers).sum())} infinite values, expected finite ones or NaN")
    return numbers[~np.isnan(numbers)]
