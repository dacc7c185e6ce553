import numpy as np
import pytest

from nelbo.detectors import mcnemar_test


def test_mcnemars_test_on_a_small_example() -> None:
    # 50 images: 5 flagged by both, 9 by a alone, 2 by b alone.
    a = np.repeat([True, True, False, False], [5, 9, 2, 34])
    b = np.repeat([True, False, True, False], [5, 9, 2, 34])
    found = mcnemar_test(a, b)
    assert (found.a.value, found.b.value) == (0.28, 0.14)
    # 2 (1 + 11 + 55) / 2^11
    assert found.p_value == pytest.approx(134 / 2048)
    assert found.difference.value == pytest.approx(0.14)
    # 7 / 52 -+ 1.96 sqrt((13 / 52 - (7 / 52)^2) / 52)
    assert found.difference[1:] == pytest.approx((0.13462 - 0.13088, 0.13462 + 0.13088), abs=2e-5)


@pytest.mark.parametrize(("n", "only_a", "only_b"), [(60, 0.08, 0.03), (60, 0.2, 0.2), (300, 0.02, 0.005)])
def test_interval_covers_the_true_difference(random: np.random.Generator, n: int, only_a: float, only_b: float) -> None:
    # Images that both or neither flag make no difference.
    drawn = random.multinomial(n, [only_a, only_b, 1 - only_a - only_b], size=20_000)
    covered = 0
    for (a, b, neither), times in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        difference = mcnemar_test(*np.repeat([[1, 0, 0], [0, 1, 0]], [a, b, neither], axis=1).astype(bool)).difference
        covered += times * (difference.low <= only_a - only_b <= difference.high)
    assert 0.945 <= covered / len(drawn) <= 0.99


@pytest.mark.parametrize(("a", "b"), [([], []), ([True], [True, False]), ([1], [0]), ([[True]], [[True]])])
def test_bad_pairs_of_flags_are_refused(a: list[object], b: list[object]) -> None:
    with pytest.raises(ValueError, match=r"^got .* expected "):
        mcnemar_test(a, b)
