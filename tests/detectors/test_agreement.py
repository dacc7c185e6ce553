"""Verdicts that change by chance: compared with the law of the draws, and where nothing can change."""

import numpy as np
import pytest
from scipy.stats import binom

from nelbo.detectors import Threshold, chance_changes


def test_chance_changes_follow_the_law_of_ranks() -> None:
    """The law in closed form: j of n images lie above a redrawn threshold if n - j or more draws lie below it.

    The k-th smallest of n draws is the i-th image or a lower one with probability P(Binomial(n, i / n) >= k).
    """
    n, rank = 200, 190
    at_most = binom.sf(rank - 1, n, np.arange(n + 1) / n)
    mass = np.diff(at_most)
    differences = np.zeros(n)
    for i, one in enumerate(mass):
        for j, other in enumerate(mass):
            differences[abs(i - j)] += one * other
    expected = int(np.searchsorted(np.cumsum(differences), 0.95))
    found = chance_changes(np.random.default_rng(0).standard_normal(n).argsort().argsort(), rank - 0.5, n_draws=20_000)
    assert abs(found - expected) <= 1
    assert expected > 3


@pytest.mark.parametrize("n", [20, 500])
def test_a_threshold_above_all_images_or_equal_scores_change_nothing(n: int) -> None:
    scores = np.arange(float(n))
    assert chance_changes(scores, n + 1) == chance_changes(np.ones(n), 1.0) == chance_changes(scores, -1) == 0
    threshold = Threshold.from_normals(scores, 0.05).value
    assert chance_changes(scores, threshold) > 0
    # Ranks count, not units.
    assert chance_changes(1e6 * scores - 3, 1e6 * threshold - 3) == chance_changes(scores, threshold)


def test_bad_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        chance_changes([1.0, float("nan")], 1.0)
