from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import split_by_content

ids = st.lists(st.text("abcdef", min_size=1, max_size=2), min_size=1, max_size=60)


@given(ids, st.integers(0, 5), st.integers(0, 5), st.integers(0, 9))
def test_parts(image_ids: list[str], n_calibration: int, n_validation: int, seed: int) -> None:
    sizes = {"calibration": n_calibration, "validation": n_validation}
    if n_calibration + n_validation > len(set(image_ids)):
        with pytest.raises(ValueError, match="need more"):
            split_by_content(image_ids, sizes, "train", seed)
        return
    parts = split_by_content(image_ids, sizes, "train", seed)
    parts_of = defaultdict(set)
    for image, part in zip(image_ids, parts, strict=True):
        parts_of[image].add(part)
    # A duplicate is always where its original is, and sizes count contents.
    assert all(len(found) == 1 for found in parts_of.values())
    for part, size in sizes.items():
        assert sum(found == {part} for found in parts_of.values()) == size
    # Neither order nor names matter.
    backwards = split_by_content(image_ids[::-1], sizes, "train", seed)[::-1]
    assert parts == backwards


def test_another_seed_is_another_split() -> None:
    image_ids = [str(i) for i in range(100)]
    splits = {tuple(split_by_content(image_ids, {"calibration": 50}, "train", seed)) for seed in range(20)}
    assert len(splits) == 20
