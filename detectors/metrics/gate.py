"""May a new model replace the one that serves? Rules on images that neither has seen.

A gate stops a model that held-out images show to be worse. Normal images show false alarms. Whether the new model has
become blind, that is calls everything normal, only anomalous images or simulated defects can show.
"""

from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nelbo.detectors.checks import check_pairs
from nelbo.detectors.metrics.delong import delong_test
from nelbo.detectors.metrics.mcnemar import mcnemar_excess
from nelbo.detectors.threshold import APPROXIMATE, Threshold
from nelbo.detectors.verdict import verdicts

#: Normal images without which no gate decides anything.
MIN_NORMAL = 20

#: Anomalous images from which on AUROC and misses are compared.
MIN_ANOMALOUS = 10

#: How often a candidate that keeps its promise is said to break it.
PROMISE_LEVEL = 0.01

#: How often an equal candidate is said to be worse, in each comparison with the serving model.
LEVEL = 0.05


class Judged(NamedTuple):
    """How a model judges the held-out images.

    scores: (n,) higher = more anomalous; the two models' units may differ.
    threshold: from its calibration, which did not use these images; None where it has none.
    """

    scores: ArrayLike
    threshold: Threshold | None


class Finding(NamedTuple):
    """One rule's outcome.

    rule: "promise", "false alarms", "auroc", "misses" or "sensitivity".
    passed: None where the rule does not apply.
    text: what was seen, with numbers; or why the rule does not apply.
    """

    rule: str
    passed: bool | None
    text: str

    def __str__(self) -> str:
        word = {True: "passed", False: "failed", None: "not applied"}[self.passed]
        return f"{self.rule} {word}: {self.text}"


class Gate(NamedTuple):
    """Whether no rule failed, and what each found."""

    passed: bool
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The rules that keep the candidate out."""
        return tuple(finding for finding in self.findings if finding.passed is False)

    def further(self, finding: Finding) -> "Gate":
        """This gate with one more `finding`, the outcome of a rule that uses other images."""
        return Gate(self.passed and finding.passed is not False, (*self.findings, finding))


def gate(labels: ArrayLike, candidate: Judged, serving: Judged) -> Gate:
    """Judge a candidate against the serving model on the same held-out images.

    "promise" fails if the candidate has more false alarms than its own promise explains. With the j-th largest of its n
    calibration scores as threshold, their number among m fresh normal images is beta-binomial (m, j, n + 1 - j); the
    rule fails below a tail of ``PROMISE_LEVEL``. Thresholds from labels and trimmed ones promise nothing.

    "false alarms" fails if, of the normal images that only one of the two flags, significantly more are the
    candidate's, by McNemar's exact test, one-sided at ``LEVEL``. Two calibration sets make two thresholds even of one
    model, and the test would see that: it stops no candidate whose own promise explains its alarms, at the same level.

    "auroc" fails if the candidate's is lower, by DeLong's paired test, one-sided at ``LEVEL``.

    "misses" is McNemar's test again, on the anomalous images that only one of the two misses. Here the luck of
    calibration counts: a threshold that came out higher misses more.

    The last two need ``MIN_ANOMALOUS`` anomalous images: with fewer **nobody sees whether the candidate has become
    blind**, and one that calls everything normal passes. A candidate without a threshold fails; for a serving model
    without one only AUROC is compared.

    By chance each rule stops an equally good candidate at most as often as its level says; for "misses" this needs
    equal thresholds, and a threshold from another calibration set is stopped more often (10 to 20 % in simulations with
    100 to 200 calibration images, 6 % with 1,000).

    Args:
        labels: (n,) 0 normal, 1 anomalous; at least ``MIN_NORMAL`` normal ones.
        candidate: the new model.
        serving: the one that it would replace, on the same images in the same order.

    Returns:
        Whether the candidate passes, and what each rule found.

    Raises:
        ValueError: too few normal images, lengths that differ, other labels, a score that is not finite.

    Source: Vovk 2012, "Conditional validity of inductive conformal predictors", section 2, and Angelopoulos and Bates
    2023, "Conformal prediction: a gentle introduction", section 3.2, for the beta law; McNemar 1947, "Note on the
    sampling error of the difference between correlated proportions or percentages", in its exact form;
    :func:`detectors.delong_test`.

    >>> threshold = Threshold.from_normals(range(99), fpr=0.05)
    >>> labels = [0] * 30 + [1] * 12
    >>> serving = Judged([10] * 29 + [95] + [99] * 11 + [20], threshold)
    >>> gate(labels, serving, serving).passed
    True
    >>> blind = Judged([10] * 42, threshold)
    >>> gate(labels[:30], Judged(blind.scores[:30], threshold), Judged(serving.scores[:30], threshold)).passed
    True
    >>> for finding in gate(labels, blind, serving).failed:  # doctest: +NORMALIZE_WHITESPACE
    ...     print(finding)
    auroc failed: 0.500 with the candidate, 0.997 with the serving model (p = 0)
    misses failed: 12 of 12 anomalous images, 1 with the serving model; 11 only with the candidate, 0 only with the
    serving model (p = 0.000488)
    """
    truth, new = check_pairs(labels, candidate.scores)
    _, old = check_pairs(labels, serving.scores)
    n_normal = int((truth == 0).sum())
    if n_normal < MIN_NORMAL:
        raise ValueError(f"got {n_normal} normal images, expected at least {MIN_NORMAL}. Add held-out normal images")
    candidate, serving = Judged(new, candidate.threshold), Judged(old, serving.threshold)
    findings = (
        _promise(truth, candidate),
        _false_alarms(truth, candidate, serving),
        _auroc(truth, candidate, serving),
        _misses(truth, candidate, serving),
    )
    return Gate(all(finding.passed is not False for finding in findings), findings)


def _promise(truth: NDArray[np.int64], candidate: Judged) -> Finding:
    threshold = candidate.threshold
    if threshold is None:
        return Finding("promise", False, "the candidate is not calibrated: without a threshold it has no verdicts")
    if threshold.supported is None:
        return Finding("promise", None, threshold.describe())
    alarms = _alarms(candidate)[truth == 0]
    expected, p = len(alarms) * threshold.supported.value, _tail(alarms, threshold)
    text = f"{alarms.sum()} false alarms on {len(alarms)} normal images, {expected:.1f} expected (p = {p:.3g})"
    return Finding("promise", p >= PROMISE_LEVEL, f"{text}, {APPROXIMATE}" if threshold.approximate else text)


def _false_alarms(truth: NDArray[np.int64], candidate: Judged, serving: Judged) -> Finding:
    if uncalibrated := _uncalibrated(candidate, serving):
        return Finding("false alarms", None, uncalibrated)
    new, old = (_alarms(model)[truth == 0] for model in (candidate, serving))
    fewer, text = _mcnemar("normal", new, old)
    threshold = cast(Threshold, candidate.threshold)
    explained = _tail(new, threshold) >= LEVEL
    if explained and not fewer:
        text += f", within the rate aimed at ({APPROXIMATE})" if threshold.approximate else ", as promised"
    return Finding("false alarms", fewer or explained, text)


def _tail(alarms: NDArray[np.bool_], threshold: Threshold) -> float:
    """Probability of as many false alarms, by what the threshold promises; 0 where it promises nothing."""
    chance = threshold.chance(int(alarms.sum()), len(alarms))
    return 0.0 if chance is None else chance


def _auroc(truth: NDArray[np.int64], candidate: Judged, serving: Judged) -> Finding:
    if too_few := _too_few(truth):
        return Finding("auroc", None, too_few)
    test = delong_test(truth, candidate.scores, serving.scores)
    p = test.p_value / 2 if test.difference.value < 0 else 1 - test.p_value / 2
    text = f"{test.a.value:.3f} with the candidate, {test.b.value:.3f} with the serving model (p = {p:.3g})"
    return Finding("auroc", p >= LEVEL, text)


def _misses(truth: NDArray[np.int64], candidate: Judged, serving: Judged) -> Finding:
    if reason := _too_few(truth) or _uncalibrated(candidate, serving):
        return Finding("misses", None, reason)
    new, old = (~_alarms(model)[truth == 1] for model in (candidate, serving))
    return Finding("misses", *_mcnemar("anomalous", new, old))


def _mcnemar(kind: str, new: NDArray[np.bool_], old: NDArray[np.bool_]) -> tuple[bool, str]:
    """Whether something befalls the candidate no more often than the serving model, and what was seen."""
    found = mcnemar_excess(new, old)
    counts = f"{found.a} of {len(new)} {kind} images, {found.b} with the serving model"
    apart = f"{found.only_a} only with the candidate, {found.only_b} only with the serving model"
    return found.p_value >= LEVEL, f"{counts}; {apart} (p = {found.p_value:.3g})"


def _alarms(model: Judged) -> NDArray[np.bool_]:
    """(n,) of a calibrated model; a score that ties with the threshold is normal."""
    return verdicts(model.scores, cast(Threshold, model.threshold).value) == "anomalous"


def _too_few(truth: NDArray[np.int64]) -> str | None:
    """Why anomalous images are not compared; None if there are enough."""
    n_anomalous = int((truth == 1).sum())
    if n_anomalous >= MIN_ANOMALOUS:
        return None
    return f"{n_anomalous} anomalous images, and {MIN_ANOMALOUS} are needed to see whether the candidate is blind"


def _uncalibrated(candidate: Judged, serving: Judged) -> str | None:
    """Why verdicts are not compared; None if they can be."""
    if candidate.threshold is None:
        return "the candidate is not calibrated"
    return "the serving model is not calibrated" if serving.threshold is None else None
