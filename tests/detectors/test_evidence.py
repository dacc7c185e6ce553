"""When a new threshold may replace the current one: enough images, and none that show it to be worse."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from detectors.evidence import LEVEL, blind, too_few, worse
from detectors.labelled import EQUAL_COSTS, OBJECTIVES, Counts, attained


def flags(n: int, *ranges: range) -> np.ndarray:
    """(n,) True in the ranges."""
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
    # False alarms are no finds.
    assert blind(labels, flags(30, range(20))) is not None
    assert blind(labels, flags(30, range(29, 30))) is None
    # Of a few that are all missed nothing follows.
    assert blind([1] * 9, flags(9)) is None
    assert blind([], []) is None


@pytest.mark.parametrize(
    ("only_new", "only_current", "p"),
    # 1/16; 1/32; (1 + 10 + 45) / 1024; (1 + 11 + 55) / 2048
    [(4, 0, None), (5, 0, 1 / 32), (8, 2, None), (9, 2, 67 / 2048), (0, 30, None)],
)
def test_worse_by_hand(only_new: int, only_current: int, p: float | None) -> None:
    """40 images; each of the two is wrong on those that tell them apart, and on one more."""
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
    # The other kind is none of its business.
    assert worse([0] * 40, new, old, kinds=("anomalous",)) is None


def test_much_worse_by_f1_is_worse() -> None:
    """The fault: F1 from .79 to .11, misses from a third to 94 %."""
    labels = [0] * 50 + [1] * 50
    current, new = flags(100, range(2), range(50, 84)), flags(100, range(50, 53))
    said = worse(labels, new, current, "f1")
    assert said is not None
    assert said.startswith("it misses 47 of 50 anomalous images, and the current one 16: 31 that only it misses")
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
        # Youden: .5; .4; .5, and as good is not worse
        ("youden", None, EQUAL_COSTS, True, False),
        # A miss costs as much, and half as much, as a false alarm: 50, 60, 50; 30, 30, 42.5
        ("cost", None, EQUAL_COSTS, True, False),
        ("cost", None, ((0, 1), (0.5, 0)), False, True),
        # A rate of at most 5 %: only the higher one has it. At most 10 %: the current one has it, and finds more.
        ("recall", 0.05, EQUAL_COSTS, False, True),
        ("recall", 0.1, EQUAL_COSTS, True, True),
        # Neither has 80 %, the lower one comes nearer; both have 50 %.
        ("fpr", 0.8, EQUAL_COSTS, True, False),
        ("fpr", 0.5, EQUAL_COSTS, True, True),
        # Precision is 60/70 = .857; 1; 85/120 = .708
        ("precision", 0.9, EQUAL_COSTS, False, True),
        ("precision", 0.7, EQUAL_COSTS, True, False),
        (None, None, EQUAL_COSTS, True, True),
    ],
)
def test_a_trade_that_was_asked_for_is_not_worse(
    objective: str | None,
    target: float | None,
    costs: tuple[tuple[float, float], tuple[float, float]],
    higher_is_worse: bool,
    lower_is_worse: bool,
) -> None:
    found = [worse(LABELS, new, CURRENT, objective, target, costs) is not None for new in (HIGHER, LOWER)]
    assert found == [higher_is_worse, lower_is_worse]


def test_a_trade_has_an_end() -> None:
    """Half of what the current threshold gets right has to stay, whatever was asked."""
    for kept, is_worse in ((30, False), (29, True)):
        nearly_blind = flags(200, range(100, 100 + kept))
        assert (worse(LABELS, nearly_blind, CURRENT, "precision", 0.95) is not None) == is_worse
        nearly_all = flags(200, range(10 + 90 - kept * 3 // 2), range(100, 200))
        assert (worse(LABELS, nearly_all, CURRENT, "fpr", 1.0) is not None) == is_worse


@pytest.mark.parametrize(("n_normal", "n_anomalous"), [(0, 6), (5, 5), (3, 12), (17, 8), (20, 20)])
@pytest.mark.parametrize("objective", [None, "f1"])
def test_an_equally_good_threshold_is_seldom_said_to_be_worse(
    n_normal: int, n_anomalous: int, objective: str | None
) -> None:
    """Each image that tells two equally good ones apart is as likely wrong by either: all cases, and their chances."""
    chance = 0.0
    labels = np.repeat([0, 1], [n_normal + 10, n_anomalous + 10])
    for alarms, misses in product(range(n_normal + 1), range(n_anomalous + 1)):
        # Of the ten others of a kind both get five right.
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


judged = st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.booleans()), max_size=60)


@given(judged, st.sampled_from(sorted(OBJECTIVES)))
def test_never_both_worse(drawn: list[tuple[int, bool, bool]], objective: str) -> None:
    """By an objective one of two is at least as good; and none is worse than itself."""
    labels, a, b = np.array(drawn, int).reshape(-1, 3).T
    target = 0.5 if OBJECTIVES[objective] else None
    assert worse(labels, a, a, objective, target) is None
    said = [worse(labels, *pair, kinds=("anomalous",)) for pair in ((a, b), (b, a))]
    assert None in said


def test_what_is_no_pair_of_verdicts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 2 labels, and verdicts on 2 and 1 images: expected as many"):
        worse([0, 1], [True, False], [True])
    with pytest.raises(ValueError, match=r"labels \[2\]: expected 0"):
        worse([2], [True], [True])


def test_a_target_is_reached_or_missed_by_so_much() -> None:
    """Three ways to judge 10 normal and 10 anomalous images: nothing flagged, one of each, everything."""
    counts = Counts(*np.array([[10.0, 9, 0], [0, 1, 10], [10, 9, 0], [0, 1, 10]]))
    missed, value = attained("precision", 0.75, EQUAL_COSTS, counts)
    assert missed.tolist() == [np.inf, 0.25, 0.25]
    assert value.tolist() == [0, 0.1, 1]
    missed, value = attained("fpr", 0.5, EQUAL_COSTS, counts)
    assert missed.tolist() == [0.5, 0.4, 0]
    assert value.tolist() == [0, -0.1, -1]
