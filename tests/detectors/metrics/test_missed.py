"""The number of missed defects: compared with known intervals, at its limits, and by its coverage."""

import numpy as np
import pytest
from scipy.stats import poisson

from nelbo.detectors import missed_defects
from nelbo.detectors.metrics.missed import missed_limits


@pytest.mark.parametrize("found", [[0, 0, 0], [1, 0, 0], [2, 1, 4]])
def test_for_batches_of_equal_weight_it_is_the_exact_interval_of_a_poisson_count(found: list[int]) -> None:
    """Garwood's interval: its ends are the means for which a count as high, or as low, has a probability of 2.5 %."""
    estimate, low, high = missed_defects([10_000] * 3, [10] * 3, found)
    n = sum(found)
    assert estimate == 1000 * n
    assert poisson.cdf(n, high / 1000) == pytest.approx(0.025)
    assert low == 0 if n == 0 else poisson.sf(n - 1, low / 1000) == pytest.approx(0.025)


def test_if_all_images_were_decided_on_the_number_is_known() -> None:
    assert missed_defects([20, 7], [20, 7], [3, 0]) == (3, 3, 3)
    # With other batches, the known number is added to value and both ends.
    assert missed_defects([20, 1000], [20, 10], [3, 1]) == pytest.approx(
        3 + np.array(missed_defects([1000], [10], [1]))
    )


def test_the_number_missed_lies_between_those_found_and_those_possible() -> None:
    assert missed_defects([12], [10], [0]).high == 2
    assert missed_defects([12, 30], [10, 10], [9, 10]).high == 9 + 2 + 30
    assert missed_defects([12], [11], [1]).low == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (([], [], []), "of \\[0, 0, 0\\] batches, expected as many of each, 1 or more"),
        (([10, 20], [5], [0, 0]), "of \\[2, 1, 2\\] batches"),
        (([10], [0], [0]), "n_decided >= 1"),
        (([10], [11], [0]), "n_decided <= n_unflagged"),
        (([10], [5], [6]), "n_found <= n_decided"),
        (([10], [5], [-1]), "0 <= n_found"),
    ],
)
def test_inconsistent_numbers_are_refused(given: tuple[list[int], ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        missed_defects(*given)


def covered(
    random: np.random.Generator, sizes: np.ndarray, drawn: np.ndarray, miss_rate: float, n: int
) -> tuple[float, float]:
    """How often the interval holds the truth, and the ratio of the mean estimate to the truth (the mean if that is 0).

    In each batch 5 % of the images have a defect, a share of which is missed, and 5 % of the others are flagged.
    """
    defects = random.binomial(sizes, 0.05)
    missed = random.binomial(defects, miss_rate)
    unflagged = sizes - defects + missed - random.binomial(sizes - defects, 0.05)
    decided = np.minimum(drawn, unflagged)
    found = random.hypergeometric(missed, unflagged - missed, decided, (n, len(sizes)))
    value, low, high = missed_limits(unflagged, decided, found)
    truth = missed.sum()
    return float(((low <= truth) & (truth <= high)).mean()), float(value.mean() / max(truth, 1))


@pytest.mark.parametrize("miss_rate", [0, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("k", [5, 10, 30])
@pytest.mark.parametrize("sizes", [[500] * 20, [50, 100, 200, 500, 1000, 2000] * 4, [20, 30, 40] * 10, [300] * 3])
def test_the_interval_holds_as_often_as_stated(
    random: np.random.Generator, sizes: list[int], k: int, miss_rate: float
) -> None:
    """As in docs/how-to/audit.md, also with samples of different sizes."""
    drawn = np.resize([k, 2 * k, k], len(sizes))
    coverage, ratio = covered(random, np.array(sizes), drawn, miss_rate, 2000)
    assert coverage >= 0.95
    # The estimate is unbiased, as far as 2,000 repetitions can show.
    assert abs(ratio - (miss_rate > 0)) < 0.25
