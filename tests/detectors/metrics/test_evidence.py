"""A new threshold may replace the current one with enough images, unless they show it to be worse."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from nelbo.detectors.metrics.evidence import LEVEL, blind, objective_p_value, too_few, worse
from nelbo.detectors.metrics.labelled import EQUAL_COSTS, OBJECTIVES, Counts, attained


def flags(n: int, *ranges: range) -> np.ndarray:
    """(n,) flags that are True in the ranges."""
    found = np.zeros(n, bool)
    for some in ranges:
        found[list(some)] = True
    return found


@pytest.mark.parametrize(
    ("n_choosing", "n_judging", "says"),
    [
        (2, 2, "4 anomalous images with a label, and at least 20 are needed"),
        (10, 9, "19 anomalous images with a label, and at least 20 are needed"),
        (10, 10, None),
        (9, 30, "of 39 anomalous images 9 choose and 30 judge it, and each needs at least 10"),
        (40, 0, "of 40 anomalous images 40 choose and 0 judge it, and each needs at least 10"),
    ],
)
def test_a_few_labels_are_not_enough(n_choosing: int, n_judging: int, says: str | None) -> None:
    assert too_few("anomalous", n_choosing, n_judging) == says


def test_a_threshold_that_finds_nothing_is_blind() -> None:
    labels = [0] * 20 + [1] * 10
    assert blind(labels, flags(30)) == "it finds none of 10 anomalous images that did not choose it"
    # False alarms do not count as found anomalies.
    assert blind(labels, flags(30, range(20))) is not None
    assert blind(labels, flags(30, range(29, 30))) is None
    # Nothing follows from a few images that are all missed.
    assert blind([1] * 9, flags(9)) is None
    assert blind([], []) is None


@pytest.mark.parametrize(
    ("only_new", "only_current", "p"),
    # 1/16; 1/32; (1 + 10 + 45) / 1024; (1 + 11 + 55) / 2048
    [(4, 0, None), (5, 0, 1 / 32), (8, 2, None), (9, 2, 67 / 2048), (0, 30, None)],
)
def test_worse_on_one_kind_has_known_p_values(only_new: int, only_current: int, p: float | None) -> None:
    """With 40 images, each threshold is wrong on some alone, and both are wrong on one more."""
    new, old = flags(40, range(only_new), range(39, 40)), flags(40, range(9, 9 + only_current), range(39, 40))
    normal, anomalous = worse([0] * 40, new, old), worse([1] * 40, ~new, ~old)
    if p is None:
        assert normal is None
        assert anomalous is None
        return
    assert normal == (
        f"it flags {only_new + 1} of 40 normal images, and the current one {only_current + 1}: {only_new} that only "
        f"it flags and {only_current} that only the current one does (p = {p:.3g})"
    )
    assert anomalous == normal.replace("normal", "anomalous").replace("flags", "misses")
    # An objective means nothing for images of one kind.
    assert worse([0] * 40, new, old, "f1") == normal


def test_a_much_lower_f1_is_worse() -> None:
    """Guards against a former fault: F1 fell from 0.79 to 0.11 with 31 more misses (94 %) and 2 fewer false alarms.

    Of 2^33 ways to swap the verdicts, 4 look as bad.
    """
    labels = [0] * 50 + [1] * 50
    current, new = flags(100, range(2), range(50, 84)), flags(100, range(50, 53))
    assert worse(labels, new, current, "f1") == (
        "by f1 it is worse: it misses 47 of 50 anomalous images and flags 0 of 50 normal ones, the current one 16 and "
        "2 (p = 4.66e-10)"
    )
    assert worse(labels, current, new, "f1") is None


# Of 100 normal images the current threshold flags 10, of 100 anomalous ones it finds 60. The higher one flags none and
# finds 40; the lower one flags 35 and finds 85.
LABELS = [0] * 100 + [1] * 100
CURRENT = flags(200, range(10), range(100, 160))
HIGHER, LOWER = flags(200, range(100, 140)), flags(200, range(35), range(100, 185))


@pytest.mark.parametrize(
    ("objective", "target", "costs", "higher_is_worse", "lower_is_worse"),
    [
        # F1: 120/170 = .706; 80/140 = .571; 170/220 = .773
        ("f1", None, EQUAL_COSTS, True, False),
        # Youden: .5; .4, by 10 of 30 images (p = .049); .5
        ("youden", None, EQUAL_COSTS, True, False),
        # If a miss costs as much as a false alarm: 50, 60, 50; twice as much: 90, 120, 65; half as much: 30, 30, 42.5
        ("cost", None, EQUAL_COSTS, True, False),
        ("cost", None, ((0, 1), (2, 0)), True, False),
        ("cost", None, ((0, 1), (0.5, 0)), False, True),
        # At most 5 %: only the higher one keeps it. At most 10 %: the current one keeps it, too, and finds more.
        ("recall", 0.05, EQUAL_COSTS, False, True),
        ("recall", 0.1, EQUAL_COSTS, True, True),
        # Neither reaches 80 %, but the lower one comes nearer; both reach 50 %.
        ("fpr", 0.8, EQUAL_COSTS, True, False),
        ("fpr", 0.5, EQUAL_COSTS, True, True),
        # Precision is 60/70 = .857; 1; 85/120 = .708
        ("precision", 0.9, EQUAL_COSTS, False, True),
        ("precision", 0.7, EQUAL_COSTS, True, False),
        (None, None, EQUAL_COSTS, True, True),
    ],
)
def test_a_trade_off_that_was_requested_is_not_worse(
    objective: str | None,
    target: float | None,
    costs: tuple[tuple[float, float], tuple[float, float]],
    higher_is_worse: bool,
    lower_is_worse: bool,
) -> None:
    found = [worse(LABELS, new, CURRENT, objective, target, costs) is not None for new in (HIGHER, LOWER)]
    assert found == [higher_is_worse, lower_is_worse]


def test_a_trade_off_has_a_limit() -> None:
    """A new threshold must keep half of what the current one gets right, whatever the objective."""
    for kept, is_worse in ((30, False), (29, True)):
        nearly_blind = flags(200, range(100, 100 + kept))
        assert (worse(LABELS, nearly_blind, CURRENT, "precision", 0.95) is not None) == is_worse
    for kept, is_worse in ((45, False), (44, True)):
        nearly_all = flags(200, range(100 - kept), range(100, 200))
        assert (worse(LABELS, nearly_all, CURRENT, "fpr", 1.0) is not None) == is_worse


def all_swaps(labels: np.ndarray, new: np.ndarray, old: np.ndarray, objective: str, target: float | None) -> float:
    """The p-value by its definition, over every way to swap the two verdicts where they differ."""

    def ahead(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
        counts = Counts(
            *(
                np.array([((labels == kind) & (flagged == is_)).sum() for flagged in (a, b)], float)
                for kind, is_ in ((0, 0), (0, 1), (1, 0), (1, 1))
            )
        )
        missed, value = attained(objective, target, EQUAL_COSTS, counts)
        return round(missed[1] - missed[0], 9), round(value[0] - value[1], 9)

    apart = np.flatnonzero(new != old)
    seen, as_bad = ahead(new, old), 0
    for choice in product((False, True), repeat=len(apart)):
        swapped, other = new.copy(), old.copy()
        swapped[apart], other[apart] = choice, np.logical_not(choice)
        as_bad += ahead(swapped, other) <= seen
    return as_bad / 2 ** len(apart)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_the_p_value_equals_its_definition_over_all_swaps(random: np.random.Generator, objective: str) -> None:
    target = 0.6 if OBJECTIVES[objective] else None
    for _ in range(4):
        labels = random.permutation(np.repeat([0, 1], 9))
        new = random.random(18) < np.where(labels == 1, 0.6, 0.3)
        old = np.where(random.random(18) < 0.5, new, ~new)
        expected = all_swaps(labels, new, old, objective, target)
        assert objective_p_value(labels, new, old, objective, target) == pytest.approx(expected, abs=1e-9)


def test_many_labels_are_fast() -> None:
    """20,000 images on which the two differ make 10^8 cases, nearly all of which are too improbable to count."""
    labels = np.repeat([0, 1], 20_000)
    new = flags(40_000, range(5000), range(20_000, 34_900))
    old = flags(40_000, range(5000, 10_000), range(25_000, 40_000))
    # 50 below the middle of 10,100 is one standard deviation.
    assert 0.1 < objective_p_value(labels, new, old, "f1") < 0.25


@pytest.mark.parametrize(("n_normal", "n_anomalous"), [(0, 6), (5, 5), (3, 12), (17, 8), (20, 20)])
@pytest.mark.parametrize("objective", [None, "f1"])
def test_an_equally_good_threshold_is_rarely_called_worse(
    n_normal: int, n_anomalous: int, objective: str | None
) -> None:
    """Where two equally good thresholds differ, either is as likely wrong: sums the probabilities of all cases."""
    chance = 0.0
    labels = np.repeat([0, 1], [n_normal + 10, n_anomalous + 10])
    for alarms, misses in product(range(n_normal + 1), range(n_anomalous + 1)):
        # Both are right on five of the ten other images of each kind.
        new = flags(len(labels), range(alarms), range(n_normal, n_normal + 5))
        old = flags(len(labels), range(alarms, n_normal + 5))
        first = n_normal + 10
        new[first + misses : first + n_anomalous + 5] = True
        old[[*range(first, first + misses), *range(first + n_anomalous, first + n_anomalous + 5)]] = True
        weight = binom.pmf(alarms, n_normal, 0.5) * binom.pmf(misses, n_anomalous, 0.5)
        chance += weight * (worse(labels, new, old, objective) is not None)
    assert chance <= LEVEL
    if objective is None and min(n_normal, n_anomalous) >= 8:
        assert chance > LEVEL / 4


def test_an_equally_good_trade_off_is_rarely_called_worse(random: np.random.Generator) -> None:
    """Two thresholds on the same scores differ in one direction: the higher trades false alarms for as many misses."""
    refused = 0
    for _ in range(400):
        scores = np.concatenate([random.normal(-1, 1, 60), random.normal(1, 1, 60)])
        # Their Youden index is equal: one is as far above the best threshold as the other is below.
        pair = [scores > value for value in random.permutation([-0.6, 0.6])]
        refused += worse(np.repeat([0, 1], 60), *pair, objective="youden") is not None
    assert refused <= 400 * LEVEL / 2 + 3 * np.sqrt(400 * LEVEL / 2)


judged = st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.booleans()), max_size=60)


@given(judged, st.sampled_from(sorted(OBJECTIVES)))
def test_nothing_is_worse_than_itself(drawn: list[tuple[int, bool, bool]], objective: str) -> None:
    labels, a, b = np.array(drawn, int).reshape(-1, 3).T
    target = 0.5 if OBJECTIVES[objective] else None
    assert worse(labels, a, a, objective, target) is None
    # Two thresholds are never both worse than each other by an objective.
    if len(set(labels)) == 2:
        assert sum(objective_p_value(labels, *pair, objective, target) <= LEVEL / 2 for pair in ((a, b), (b, a))) < 2


def test_bad_labels_and_verdicts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got 2 labels, and verdicts on 2 and 1 images: expected as many"):
        worse([0, 1], [True, False], [True])
    with pytest.raises(ValueError, match=r"labels \[2\]: expected 0"):
        worse([2], [True], [True])


def test_a_missed_target_is_measured() -> None:
    """Three ways to judge 10 normal and 10 anomalous images: flag nothing, one of each, or everything."""
    counts = Counts(*np.array([[10.0, 9, 0], [0, 1, 10], [10, 9, 0], [0, 1, 10]]))
    missed, value = attained("precision", 0.75, EQUAL_COSTS, counts)
    assert missed.tolist() == [1.75, 0.25, 0.25]
    assert value.tolist() == [0, 0.1, 1]
    missed, value = attained("fpr", 0.5, EQUAL_COSTS, counts)
    assert missed.tolist() == [0.5, 0.4, 0]
    assert value.tolist() == [0, -0.1, -1]
