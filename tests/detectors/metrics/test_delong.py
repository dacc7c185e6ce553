import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from nelbo.detectors import auroc, delong_test

rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=30).filter(
    lambda drawn: 2 <= sum(label for label, *_ in drawn) <= len(drawn) - 2
)


def components(labels: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """DeLong's components by their definition, over all pairs: (n_normal,) and (n_anomalous,)."""
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    ordered = (anomalous[:, None] > normal) + 0.5 * (anomalous[:, None] == normal)
    return [ordered.mean(axis=0), ordered.mean(axis=1)]


def variance(labels: np.ndarray, *models: np.ndarray, weights: tuple[float, ...]) -> float:
    """The variance of a weighted sum of areas: L S L', with the covariance matrix S."""
    parts = zip(*(components(labels, scores) for scores in models), strict=True)
    covariance = sum(np.atleast_2d(np.cov(part)) / len(part[0]) for part in parts)
    return float(np.array(weights) @ covariance @ np.array(weights))


def two_models(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and the scores of two equally good models that largely agree."""
    labels = np.repeat([0, 1], n)
    common = random.normal(size=2 * n)
    a, b = (labels + np.sqrt(0.6) * common + np.sqrt(0.4) * random.normal(size=2 * n) for _ in range(2))
    return labels, a, b


@given(rows)
def test_the_paired_test_equals_its_definition_over_all_pairs(drawn: list[tuple[int, int, int]]) -> None:
    labels, a, b = np.array(drawn).T
    error = math.sqrt(max(0.0, variance(labels, a, b, weights=(1.0, -1.0))))
    found = delong_test(labels, a, b)
    assert (found.a, found.b) == (auroc(labels, a), auroc(labels, b))
    assert found.difference.value == pytest.approx(found.a.value - found.b.value)
    if error > 1e-6:
        assert found.p_value == pytest.approx(2 * norm.sf(abs(found.difference.value) / error))
        ends = found.difference.value + np.array([-1, 1]) * norm.ppf(0.975) * error
        assert found.difference[1:] == pytest.approx(np.clip(ends, -1, 1))


def test_without_variance_the_difference_is_the_value() -> None:
    opposite = delong_test([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1])
    assert (opposite.p_value, tuple(opposite.difference)) == (0.0, (1.0, 1.0, 1.0))
    same = delong_test([0, 0, 1, 1], [1, 3, 2, 4], [10, 30, 20, 40])
    assert (same.p_value, tuple(same.difference)) == (1.0, (0.0, 0.0, 0.0))


def test_the_paired_test_rejects_at_its_nominal_rate() -> None:
    random = np.random.default_rng(2)
    found = [delong_test(*two_models(random, 60)) for _ in range(1000)]
    p = np.array([one.p_value for one in found])
    assert 0.035 < np.mean(p <= 0.05) < 0.065
    assert 0.45 < np.mean(p <= 0.5) < 0.55
    assert 0.935 < np.mean([low <= 0 <= high for _, low, high in (one.difference for one in found)]) < 0.965


def test_pairing_finds_what_two_intervals_hide() -> None:
    labels, a, _ = two_models(np.random.default_rng(3), 200)
    found = delong_test(labels, a, a + np.random.default_rng(4).normal(size=400) / 2)
    assert found.a.low < found.b.high
    assert found.p_value < 0.05


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="2 normal and 1 anomalous images, expected at least 2 of each"):
        delong_test([0, 0, 1], [1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match=r"labels of shape \(4,\) and scores of shape \(3,\)"):
        delong_test([0, 0, 1, 1], [1, 2, 3, 4], [1, 2, 3])
