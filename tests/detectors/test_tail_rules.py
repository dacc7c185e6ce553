import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import cauchy
from sklearn.metrics import roc_auc_score

from nelbo.detectors import CalibrationError, p_values
from nelbo.detectors.tail_rules import RULES, Tail, TailRule

values = st.lists(st.integers(-3, 3).map(float) | st.floats(-1e3, 1e3), min_size=21, max_size=60)


@given(values, values)
@example([0.0] * 11 + [-1.0] * 10 + [-2.225073858507e-311], [0.0] * 20 + [-2.2250738585e-313])
@example([0.0] * 11 + [1.0] * 9 + [2.2250738585e-313], [0.0] * 20 + [-1.0])
@example([0.0] * 10 + [1.0] * 10 + [2.2250738585e-313], [0.0] * 20 + [-1.0, 5.0])
def test_a_tail_never_rises_and_is_a_probability(reference: list[float], scores: list[float]) -> None:
    log_p = Tail(reference).log_p(np.sort(scores))
    assert (log_p <= 0).all()
    assert (np.diff(log_p) <= 1e-12).all()


def test_a_tail_agrees_with_ranks_inside_the_reference(random: np.random.Generator) -> None:
    reference = random.normal(size=199)
    inner = np.sort(reference)[30:-30]
    at_least = [(reference >= score).sum() for score in inner]
    np.testing.assert_allclose(np.exp(Tail(reference).log_p(inner)), np.array(at_least) / 200)


def test_a_tail_recovers_an_exponential_law(random: np.random.Generator) -> None:
    """Also beyond all 5,000 reference scores, where ranks give no information."""
    tail = Tail(random.exponential(size=5000))
    np.testing.assert_allclose(tail.log_p([5.0, 10.0, 20.0, 200.0]), [-5, -10, -20, -200], rtol=0.1)


def test_extreme_scores_do_not_tie(random: np.random.Generator) -> None:
    reference = random.normal(size=100)
    beyond = np.array([10.0, 10.000001, 1e3, 1e6, 1e9])
    assert (np.diff(Tail(reference).log_p(beyond)) < 0).all()
    for rule in RULES:
        joint = TailRule({"nelbo": reference, "rate": reference}, ["nelbo", "rate_two_sided"], rule)
        scores = joint.scores({"nelbo": beyond, "rate": np.zeros(5)})
        assert np.isfinite(scores).all()
        assert (np.diff(scores) > 0).all()


def test_a_statistic_without_spread_has_finite_p_values() -> None:
    log_p = Tail([3.0] * 50).log_p([2.0, 3.0, 3.1])
    assert log_p[1] == pytest.approx(np.log(50 / 51))
    assert log_p[0] == 0
    assert log_p[2] < -1e6


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_keeps_the_order_of_a_single_statistic(rule: str, random: np.random.Generator) -> None:
    labels = np.repeat([0, 1], 300)
    scores = random.normal(size=600) + 2 * labels
    joint = TailRule({"nelbo": random.normal(size=80)}, ["nelbo"], rule).scores({"nelbo": scores})
    assert roc_auc_score(labels, joint) == roc_auc_score(labels, scores)


@pytest.mark.parametrize("rule", RULES)
def test_continuous_tails_lose_nothing_to_ranks(rule: str, random: np.random.Generator) -> None:
    """By rank a normal image beyond all 60 reference scores ties with every defect; by tail it does not."""
    labels = np.repeat([0, 1], 500)
    measures = {"nelbo": random.normal(size=1000) + 5 * labels, "rate": random.normal(size=1000)}
    reference = {name: random.normal(size=60) for name in ("nelbo", "rate")}
    joint = TailRule(reference, list(reference), rule).scores(measures)
    ranks = np.stack([np.log(p_values(measures[name], reference[name])) for name in reference])
    by_rank = {"fisher": -ranks.sum(axis=0), "minimum": -ranks.min(axis=0)}
    by_rank["cauchy"] = np.mean(1 / np.tan(np.pi * np.exp(ranks)), axis=0)
    assert roc_auc_score(labels, joint) > roc_auc_score(labels, by_rank[rule])


def test_two_sided_statistics_flag_unusually_low_values(random: np.random.Generator) -> None:
    reference = {"nelbo": random.normal(size=200)}
    one, two = (TailRule(reference, [name], "fisher") for name in ("nelbo", "nelbo_two_sided"))
    low, middle, high = {"nelbo": [-9.0]}, {"nelbo": [0.0]}, {"nelbo": [9.0]}
    assert one.scores(low) < one.scores(middle) < one.scores(high)
    assert two.scores(middle) < two.scores(low)
    assert two.scores(middle) < two.scores(high)


def test_rules_have_known_values() -> None:
    """At the median p is 1/2, two-sided 1; at the third quartile p is 1/4."""
    reference = {"a": np.arange(1.0, 100), "b": np.arange(1.0, 100)}
    measures = {"a": [75.0], "b": [50.0]}
    found = {rule: TailRule(reference, ["a", "b"], rule).scores(measures)[0] for rule in RULES}
    assert found["fisher"] == pytest.approx(np.log(4) + np.log(2))
    assert found["minimum"] == pytest.approx(np.log(4))
    # Cauchy: tan(pi / 4) = 1 and tan(0) = 0, so the mean is 1/2.
    assert found["cauchy"] == pytest.approx(-np.log(cauchy.sf(0.5)))


def test_the_cauchy_rule_works_beyond_the_range_of_floats() -> None:
    joint = TailRule({"a": np.arange(100.0), "b": np.arange(100.0)}, ["a", "b"], "cauchy")
    scores = joint.scores({"a": np.linspace(99, 2000, 4000), "b": np.full(4000, 50.0)})
    assert (np.diff(scores) > 0).all()
    # With one extreme tail of two, the score is its log p, and log 2 for two tests.
    assert scores[-1] == pytest.approx(-(Tail(np.arange(100.0)).log_p([2000.0])[0] + np.log(2)))


def test_bad_arguments_are_refused() -> None:
    reference = {"nelbo": np.arange(30.0), "rate": np.arange(30.0)}
    with pytest.raises(KeyError, match="sum"):
        TailRule(reference, ["nelbo"], "sum")
    with pytest.raises(KeyError, match="nelbos"):
        TailRule(reference, ["nelbos"], "fisher")
    with pytest.raises(CalibrationError, match="at least 21 normal images, got 20"):
        Tail(np.arange(20.0))
