from dataclasses import replace
from math import prod

import numpy as np
import pytest
from scipy.stats import norm

from nelbo.detectors import Finding, Gate, Judged, Threshold, gate

#: Scores above 0.5 raise an alarm.
CHOSEN = Threshold(0.5, None, "f1", 50)


def model(alarms_normal: list[int], alarms_anomalous: list[int] | None = None) -> Judged:
    """A model with the given alarms, 0 or 1, and a threshold that promises nothing."""
    return Judged([*alarms_normal, *(alarms_anomalous or [])], CHOSEN)


def the(result: Gate, rule: str) -> Finding:
    (found,) = (finding for finding in result.findings if finding.rule == rule)
    return found


def alarms(n: int, *on: int) -> list[int]:
    return [int(i in on) for i in range(n)]


# Worked examples of each rule


@pytest.mark.parametrize(("n_alarms", "passed"), [(0, True), (6, True), (7, False), (20, False)])
def test_the_promise_has_known_p_values(n_alarms: int, passed: bool) -> None:
    """The threshold is the largest of 19 scores; of 39 exchangeable ones, the n_alarms largest are among the 20 new."""
    threshold = Threshold.from_normals(range(19), fpr=0.05)
    candidate = Judged([30.0] * n_alarms + [3.0] * (20 - n_alarms), threshold)
    found = the(gate([0] * 20, candidate, candidate), "promise")
    p = prod((20 - i) / (39 - i) for i in range(n_alarms))
    assert found == Finding(
        "promise", passed, f"{n_alarms} false alarms on 20 normal images, 1.0 expected (p = {p:.3g})"
    )


def test_the_promise_of_cross_fitted_scores_is_approximate() -> None:
    """The rules are the same, but their findings say that the rate is approximate."""
    scores = norm.ppf((np.arange(200) + 0.5) / 200)
    at = {
        (cross, fpr): Judged(scores, Threshold.from_normals(norm.ppf((np.arange(199) + 0.5) / 199), fpr, cross=cross))
        for cross in (False, True)
        for fpr in (0.01, 0.1)
    }
    exact, cross = (gate([0] * 200, at[cross, 0.1], at[cross, 0.01]) for cross in (False, True))
    assert [finding.passed for finding in cross.findings] == [finding.passed for finding in exact.findings]
    promises = [the(found, "promise").text for found in (exact, cross)]
    assert promises[1] == f"{promises[0]}, approximate: cross-fitted, no guarantee"
    alarms = [the(found, "false alarms").text for found in (exact, cross)]
    aimed_at = ", within the rate aimed at (approximate: cross-fitted, no guarantee)"
    assert alarms[1] == alarms[0].removesuffix(", as promised") + aimed_at


def test_a_tie_with_the_threshold_is_no_alarm() -> None:
    threshold = Threshold.from_normals(range(19), fpr=0.05)
    tied = Judged([threshold.value] * 20, threshold)
    assert gate([0] * 20, tied, tied).passed


@pytest.mark.parametrize(
    ("only_new", "only_old", "p", "passed"),
    [(4, 0, 1 / 16, True), (5, 0, 1 / 32, False), (8, 2, 56 / 1024, True), (9, 2, 67 / 2048, False), (0, 9, 1, True)],
)
def test_mcnemars_test_has_known_p_values(only_new: int, only_old: int, p: float, passed: bool) -> None:
    new = alarms(30, *range(only_new), 29)
    old = alarms(30, *range(only_new, only_new + only_old), 29)
    counts = f"{only_new + 1} of 30 normal images, {only_old + 1} with the serving model"
    text = f"{counts}; {only_new} only with the candidate, {only_old} only with the serving model (p = {p:.3g})"
    assert the(gate([0] * 30, model(new), model(old)), "false alarms") == Finding("false alarms", passed, text)
    # The same counts as misses of anomalous images.
    missed = [[1 - alarm for alarm in found] for found in (new, old)]
    result = gate([0] * 30 + [1] * 30, *(model([0] * 30, found) for found in missed))
    assert the(result, "misses") == Finding("misses", passed, text.replace("normal", "anomalous"))


def test_auroc_is_compared_one_sided() -> None:
    labels = [0] * 20 + [1] * 10
    good = [float(i) for i in range(30)]
    bad = [*good[:20], *good[5:10], *good[25:]]
    worse = the(gate(labels, Judged(bad, None), Judged(good, None)), "auroc")
    better = the(gate(labels, Judged(good, None), Judged(bad, None)), "auroc")
    # 5 of 10 anomalous images tie with normal ones that have 5 to 9 others below them.
    area = 1 - np.mean([0.0] * 5 + [(20 - i - 0.5) / 20 for i in range(5, 10)])
    assert worse.text.startswith(f"{area:.3f} with the candidate, 1.000 with the serving model")
    assert (worse.passed, better.passed) == (False, True)


# What does not apply


def test_without_anomalous_images_the_gate_says_that_it_cannot_see_blindness() -> None:
    serving = model(alarms(30, 3), [1] * 9)
    blind = model([0] * 30, [0] * 9)
    result = gate([0] * 30 + [1] * 9, blind, serving)
    assert result.passed
    for rule in ("auroc", "misses"):
        assert the(result, rule).passed is None
        assert "9 anomalous images, and 10 are needed to see whether the candidate is blind" in str(the(result, rule))


def test_ten_anomalous_images_find_a_blind_candidate() -> None:
    serving = model(alarms(30, 3), [1] * 10)
    blind = model([0] * 30, [0] * 10)
    result = gate([0] * 30 + [1] * 10, blind, serving)
    assert [finding.rule for finding in result.failed] == ["auroc", "misses"]


def test_a_threshold_from_labels_promises_nothing() -> None:
    found = the(gate([0] * 20, model([1] * 20), model([1] * 20)), "promise")
    assert found.passed is None
    assert "chosen from labels (f1)" in str(found)


def test_rules_without_a_threshold_fail_or_do_not_apply() -> None:
    labels = [0] * 20 + [1] * 10
    with_it = model([0] * 20, [1] * 10)
    without = Judged(with_it.scores, None)
    result = gate(labels, without, with_it)
    assert [(finding.rule, finding.passed) for finding in result.findings] == [
        ("promise", False),
        ("false alarms", None),
        ("auroc", True),
        ("misses", None),
    ]
    assert not result.passed
    result = gate(labels, with_it, without)
    assert [finding.passed for finding in result.findings] == [None, None, True, None]
    assert result.passed


def test_a_candidate_that_keeps_its_promise_is_not_held_to_a_stricter_one() -> None:
    scores = norm.ppf((np.arange(200) + 0.5) / 200)
    strict, loose = (Threshold.from_normals(norm.ppf((np.arange(199) + 0.5) / 199), fpr) for fpr in (0.01, 0.1))
    result = gate([0] * 200, Judged(scores, loose), Judged(scores, strict))
    assert result.passed
    assert str(the(result, "false alarms")).endswith("as promised")
    # Without a promise, the same alarms are judged by their number alone.
    unpromised = replace(loose, fpr=None, objective="f1")
    assert not gate([0] * 200, Judged(scores, unpromised), Judged(scores, strict)).passed


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="got 19 normal images, expected at least 20"):
        gate([0] * 19 + [1] * 30, model([0] * 19, [1] * 30), model([0] * 19, [1] * 30))
    with pytest.raises(ValueError, match=r"labels of shape \(20,\) and scores of shape \(21,\)"):
        gate([0] * 20, model([0] * 20), model([0] * 21))
    with pytest.raises(ValueError, match="expected 0"):
        gate([-1] * 20, model([0] * 20), model([0] * 20))
    with pytest.raises(ValueError, match="1 of 20 scores are NaN"):
        gate([0] * 20, Judged([np.nan] + [0.0] * 19, CHOSEN), model([0] * 20))


# Simulations


def failures(
    random: np.random.Generator, n: int, *, n_calibration: int | None, n_normal: int, n_anomalous: int, sight: float = 2
) -> dict[str, float]:
    """The share of draws in which each rule stops a candidate whose scores correlate with the serving model's.

    n_calibration: images in each model's own calibration; None gives both models their true thresholds.
    sight: standard deviations by which anomalies score above normals with the candidate; the serving model has 2.
    """
    labels = np.repeat([0, 1], [n_normal, n_anomalous])
    counts = dict.fromkeys(("promise", "false alarms", "auroc", "misses", "any"), 0)
    for _ in range(n):
        common = random.normal(size=len(labels))
        judged = []
        for height in (sight, 2):
            scores = height * labels + np.sqrt(0.8) * common + np.sqrt(0.2) * random.normal(size=len(labels))
            if n_calibration is None:
                threshold = Threshold(float(norm.isf(0.05)), 0.05, "conformal", 10**6)
            else:
                threshold = Threshold.from_normals(random.normal(size=n_calibration), 0.05)
            judged.append(Judged(scores, threshold))
        result = gate(labels, *judged)
        for finding in result.failed:
            counts[finding.rule] += 1
        counts["any"] += not result.passed
    return {rule: count / n for rule, count in counts.items()}


def test_an_equal_candidate_is_stopped_no_more_often_than_stated(random: np.random.Generator) -> None:
    rates = failures(random, 600, n_calibration=None, n_normal=300, n_anomalous=60)
    # The levels plus three standard errors of 600 draws.
    assert rates["promise"] <= 0.01 + 0.013
    for rule in ("false alarms", "auroc", "misses"):
        assert rates[rule] <= 0.05 + 0.027, rule


def test_the_luck_of_calibration_stops_no_candidate(random: np.random.Generator) -> None:
    """McNemar's test alone would stop 3 of 10 equal candidates here, because their thresholds differ by chance."""
    rates = failures(random, 600, n_calibration=99, n_normal=500, n_anomalous=0)
    assert rates["promise"] <= 0.01 + 0.013
    assert rates["false alarms"] <= 0.05 + 0.027
    assert rates["any"] <= 0.05 + 0.027


def test_a_blind_candidate_does_not_pass(random: np.random.Generator) -> None:
    assert failures(random, 50, n_calibration=99, n_normal=100, n_anomalous=30, sight=0)["any"] == 1
    assert failures(random, 200, n_calibration=99, n_normal=100, n_anomalous=0, sight=0)["any"] < 0.1
