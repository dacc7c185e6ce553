"""What a model sees of simulated defects: compared with another computation of AUROC, and by coverage."""

import numpy as np
import pytest

from nelbo.detectors import Interval, Sensitivity, sensitivity


def drawn(random: np.random.Generator, m: int, each: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    clean = random.standard_normal(m)
    images = np.repeat(np.arange(m), each)
    # A painted image scores higher than without the defect.
    return clean, clean[images] + shift * random.random(len(images)), images


def test_the_area_is_over_pairs_of_different_images(random: np.random.Generator) -> None:
    clean, painted, images = drawn(random, 20, 3, 1.0)
    clean, painted = clean.round(1), painted.round(1)
    found = sensitivity(clean, painted, images)
    pairs = [
        (after > before) + (after == before) / 2
        for after, image in zip(painted, images, strict=True)
        for row, before in enumerate(clean)
        if row != image
    ]
    assert found.auroc.value == pytest.approx(np.mean(pairs))
    assert found.auroc.low < found.auroc.value < found.auroc.high


def test_the_interval_covers_the_area_of_many_images(random: np.random.Generator) -> None:
    """Painted versions of one image correlate: treated as independent, they would give too narrow an interval."""
    truth = sensitivity(*drawn(random, 3000, 4, 1.0), n_resamples=10).auroc.value
    covered = []
    for seed in range(200):
        found = sensitivity(*drawn(random, 40, 10, 1.0), n_resamples=300, seed=seed)
        covered.append(found.auroc.low <= truth <= found.auroc.high)
    assert np.mean(covered) > 0.88


def test_the_share_found_is_the_share_flagged() -> None:
    found = sensitivity([0, 0], [1, 1, 1, 1], [0, 0, 1, 1], [True, False, False, False])
    assert found.found is not None
    assert found.found.value == 0.25
    assert sensitivity([0, 0], [1], [1]).found is None


def test_a_model_no_better_than_chance_is_blind() -> None:
    def one(low: float, share: float) -> Sensitivity:
        return Sensitivity(100, Interval(0.8, low, 0.9), Interval(share, share, share))

    assert not one(0.56, 0.2).is_blind(0.05)
    assert one(0.55, 0.2).is_blind(0.05)
    assert one(0.7, 0.05).is_blind(0.05)
    assert not one(0.7, 0.05).is_blind(None)


@pytest.mark.parametrize(("clean", "images"), [([0, 1], [0, 2]), ([0, 1], [-1, 0]), ([0, 1], [0]), ([0], [0, 0])])
def test_numbers_of_missing_images_are_refused(clean: list[int], images: list[int]) -> None:
    with pytest.raises(ValueError, match="images"):
        sensitivity(clean, [1, 2], images)
