"""The sentences at the top of a report."""

import pytest

from nelbo.detectors import Threshold
from nelbo.flows.report.headline import chance, headline, known

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
def test_expected_false_alarms_are_whole_numbers(scored: int, expected: str) -> None:
    found = headline(counts(scored, 2), Threshold.from_normals(NORMAL, fpr=0.05))
    assert found == f"2 of {scored:,} images anomalous; at the promised 5 % {expected}."


def test_both_sentences_on_cross_fitted_scores_are_approximate() -> None:
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


def test_the_headline_says_if_nothing_could_be_scored() -> None:
    threshold = Threshold.from_normals(NORMAL, fpr=0.05)
    assert headline(counts(0, 0), threshold) == "0 of 1 images could be scored."
    assert chance(counts(0, 0), threshold) == ""


def test_the_more_are_flagged_the_less_chance_explains() -> None:
    threshold = Threshold.from_normals(NORMAL, fpr=0.05)
    said = [chance(counts(100, n), threshold) for n in range(101)]
    # If nothing is flagged, there is nothing to explain.
    assert said.pop(0) == ""
    openings = [sentence.split(":")[0] for sentence in said]
    assert list(dict.fromkeys(openings)) == [
        "The count is no more than chance gives",
        "The count can be chance",
        "The count can hardly be chance",
        "The count is more than chance gives",
    ]
    assert openings.count("The count is more than chance gives") > 80
    for n, sentence in enumerate(said, start=1):
        probability = threshold.chance(n, 100)
        assert probability is not None
        if sentence.startswith("The count is more"):
            rarity = int(sentence.split(": of ")[1].split()[0].replace(",", ""))
            assert probability <= 1 / rarity
            assert rarity == 10**6 or probability > 0.1 / rarity


def test_at_one_per_cent_one_batch_of_a_hundred_has_as_many() -> None:
    threshold = Threshold.from_normals(range(1, 1000), fpr=0.01)
    n = next(n for n in range(1000) if threshold.chance(n, 2624) < 0.0149)
    assert "of 100 such batches without defects about 1 has as many, or more." in chance(counts(2624, n), threshold)


GOLDEN = [
    (0, ""),
    (2, "The count is no more than chance gives: most such batches without defects have as many, or more."),
    (9, "The count can be chance: of 100 such batches without defects about 7 have as many, or more."),
    (11, "The count can hardly be chance: of 100 such batches without defects about 2 have as many, or more."),
    (13, "The count is more than chance gives: of 100 such batches without defects at most 1 has as many, or more."),
    (
        60,
        (
            "The count is more than chance gives: "
            "of 1,000,000 such batches without defects at most 1 has as many, or more."
        ),
    ),
]


@pytest.mark.parametrize(("n_anomalous", "expected"), GOLDEN)
def test_chance_speaks_of_the_count_alone(n_anomalous: int, expected: str) -> None:
    threshold = Threshold.from_normals(NORMAL, fpr=0.05)
    assert chance(counts(100, n_anomalous), threshold) == expected
    blind = chance(counts(100, n_anomalous), threshold, blind=True)
    assert blind == (expected if n_anomalous >= 13 else "")
    # Known defects are never explained by chance.
    defects = chance(counts(100, n_anomalous), threshold, defects=True)
    if 0 < n_anomalous <= 9:
        assert defects == f"The count alone would not tell: {expected.split(': ')[1]}"
    else:
        assert defects == expected


@pytest.mark.parametrize(
    ("labels", "flagged", "expected"),
    [
        ([-1, -1], [1, 0], ""),
        (
            [1] * 60 + [0] * 100,
            [1] * 41 + [0] * 119,
            "60 of 160 labelled images are anomalous: 41 of these were flagged, and none of 100 normal ones.",
        ),
        (
            [1, 1, 0],
            [1, 1, 0],
            "2 of 3 labelled images are anomalous: all of these were flagged, and none of 1 normal ones.",
        ),
        (
            [1, 1, 0, 0],
            [0, 0, 1, 1],
            "2 of 4 labelled images are anomalous: none of these were flagged, and all of 2 normal ones.",
        ),
        ([1, 1, 1, -1], [1, 0, 0, 1], "3 of 3 labelled images are anomalous: 1 of these was flagged."),
        ([0, 0, 0], [0, 0, 0], "None of 3 labelled images is anomalous; none were flagged."),
        ([0, 0, 0], [1, 0, 0], "None of 3 labelled images is anomalous; 1 was flagged."),
    ],
)
def test_the_headline_counts_labelled_images(labels: list[int], flagged: list[int], expected: str) -> None:
    assert known(labels, flagged) == expected
