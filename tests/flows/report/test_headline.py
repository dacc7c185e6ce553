"""The two sentences of a report."""

import pytest

from nelbo.detectors import Threshold
from nelbo.flows.report.headline import chance, headline

NORMAL = range(1, 1000)


def counts(scored: int, anomalous: int, review: int = 0) -> dict[str, int]:
    return {"images": scored + 1, "scored": scored, "anomalous": anomalous, "review": review}


@pytest.mark.parametrize(
    ("scored", "expected"),
    [
        (9, "less than one false alarm would be normal"),
        (20, "about 1 false alarm would be normal"),
        (1000, "about 50 false alarms would be normal"),
    ],
)
def test_false_alarms_are_counted_as_people_count(scored: int, expected: str) -> None:
    found = headline(counts(scored, 2), Threshold.from_normals(NORMAL, fpr=0.05))
    assert found == f"2 of {scored:,} images anomalous; at the promised 5 % {expected}."


def test_of_cross_fitted_scores_both_sentences_are_approximate() -> None:
    threshold = Threshold.from_normals(NORMAL, fpr=0.05, cross=True)
    assert headline(counts(1000, 2), threshold) == (
        "2 of 1,000 images anomalous; at an aim of 5 % (approximate) about 50 false alarms would be normal."
    )
    for n_anomalous in (2, 60, 65, 200):
        said = chance(counts(1000, n_anomalous), threshold)
        exact = chance(counts(1000, n_anomalous), Threshold.from_normals(NORMAL, fpr=0.05))
        assert said == exact.removesuffix(".") + " (approximate: cross-fitted, no guarantee)."
    assert chance(counts(0, 0), threshold) == ""


def test_without_a_promise_there_is_nothing_to_compare_with() -> None:
    chosen = Threshold.from_labels([0, 0, 1, 1], [1, 2, 3, 4], "f1")
    trimmed = Threshold.from_normals(NORMAL, fpr=0.05, contamination=0.02)
    for threshold in (chosen, trimmed):
        assert headline(counts(9, 3), threshold) == "3 of 9 images anomalous; no promised rate of false alarms."
        assert chance(counts(9, 3), threshold) == ""
    assert chance(counts(9, 3), None) == ""


def test_nothing_could_be_scored() -> None:
    threshold = Threshold.from_normals(NORMAL, fpr=0.05)
    assert headline(counts(0, 0), threshold) == "0 of 1 images could be scored."
    assert chance(counts(0, 0), threshold) == ""


def test_the_more_are_flagged_the_less_it_is_chance() -> None:
    threshold = Threshold.from_normals(NORMAL, fpr=0.05)
    said = [chance(counts(100, n), threshold) for n in range(101)]
    openings = [sentence.split(":")[0] for sentence in said]
    assert list(dict.fromkeys(openings)) == [
        "No more anomalous images than chance would give.",
        "Chance alone can explain the anomalous images",
        "Chance alone can hardly explain the anomalous images",
        "More anomalous images than chance gives",
    ]
    assert openings.count("More anomalous images than chance gives") > 80
    for n, sentence in enumerate(said):
        probability = threshold.chance(n, 100)
        assert probability is not None
        if sentence.startswith("More"):
            rarity = int(sentence.split(" 1 of ")[1].split()[0].replace(",", ""))
            assert probability <= 1 / rarity
            assert rarity == 10**6 or probability > 0.1 / rarity
