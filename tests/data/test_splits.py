import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nelbo.data import split_by_content

ids = st.lists(st.text("abcdef", min_size=1, max_size=2), min_size=1, max_size=60)
#: Images and their groups: repeated contents, groups that share contents, and images without a group.
grouped = st.lists(
    st.tuples(st.text("abcdef", min_size=1, max_size=2), st.sampled_from([None, *"pqrstuvwxyz"])),
    min_size=1,
    max_size=40,
)
seeds = st.integers(0, 9)


def split_without_groups(image_ids: Sequence[str], sizes: dict[str, int], rest: str, seed: int) -> list[str]:
    """The split of versions without groups."""
    order = sorted(set(image_ids), key=lambda image: hashlib.sha256(f"{seed}:{image}".encode()).digest())
    part_of: dict[str, str] = {}
    start = 0
    for part, size in sizes.items():
        part_of.update(dict.fromkeys(order[start : start + size], part))
        start += size
    return [part_of.get(image, rest) for image in image_ids]


def wholes(rows: Sequence[tuple[str, str | None]]) -> list[set[str]]:
    """The contents that must stay together: sets are merged until no two share a content or a name."""
    found = [({image}, {name} - {None}) for image, name in rows]
    for _ in rows:
        for one, other in combinations(found, 2):
            if one is not other and (one[0] & other[0] or one[1] & other[1]):
                found.remove(other)
                one[0].update(other[0])
                one[1].update(other[1])
                break
    return [contents for contents, _ in found]


@given(ids, st.integers(0, 5), st.integers(0, 5), seeds)
def test_parts_have_their_sizes_and_keep_duplicates_together(
    image_ids: list[str], n_calibration: int, n_validation: int, seed: int
) -> None:
    sizes = {"calibration": n_calibration, "validation": n_validation}
    if n_calibration + n_validation > len(set(image_ids)):
        with pytest.raises(ValueError, match="need more"):
            split_by_content(image_ids, sizes, "train", seed)
        return
    parts = split_by_content(image_ids, sizes, "train", seed)
    parts_of = defaultdict(set)
    for image, part in zip(image_ids, parts, strict=True):
        parts_of[image].add(part)
    # A duplicate is always in the part of its original, and sizes count distinct contents.
    assert all(len(found) == 1 for found in parts_of.values())
    for part, size in sizes.items():
        assert sum(found == {part} for found in parts_of.values()) == size
    # Neither order nor names matter.
    backwards = split_by_content(image_ids[::-1], sizes, "train", seed)[::-1]
    assert parts == backwards


@given(ids, st.integers(0, 9), st.integers(0, 9), seeds)
def test_a_split_without_groups_is_as_in_earlier_versions(
    image_ids: list[str], n_one: int, n_other: int, seed: int
) -> None:
    sizes = {"calibration": n_one, "validation": n_other}
    n = len(set(image_ids))
    assume(n_one + n_other <= n)
    before = split_without_groups(image_ids, sizes, "train", seed)
    alone = [f"group of {image}" for image in image_ids]
    for groups in (None, [None] * len(image_ids), alone):
        for within in (None, {"calibration": (n_one, n), "validation": (0, n_other)}):
            assert split_by_content(image_ids, sizes, "train", seed, groups, within) == before


def test_another_seed_gives_another_split() -> None:
    image_ids = [str(i) for i in range(100)]
    splits = {tuple(split_by_content(image_ids, {"calibration": 50}, "train", seed)) for seed in range(20)}
    assert len(splits) == 20
    groups = [str(i // 5) for i in range(100)]
    splits = {tuple(split_by_content(image_ids, {"calibration": 50}, "train", seed, groups)) for seed in range(20)}
    assert len(splits) == 20


@given(grouped, st.integers(0, 12), st.integers(0, 12), seeds, st.randoms(use_true_random=False))
def test_no_group_is_on_two_sides(
    rows: list[tuple[str, str | None]], n_one: int, n_other: int, seed: int, random: object
) -> None:
    n = len({image for image, _ in rows})
    assume(n_one + n_other <= n)
    sizes = {"calibration": n_one, "validation": n_other}
    image_ids, groups = (list(column) for column in zip(*rows, strict=True))
    parts = split_by_content(image_ids, sizes, "train", seed, groups)
    part_of = dict(zip(image_ids, parts, strict=True))
    together = wholes(rows)
    assert all(len({part_of[image] for image in contents}) == 1 for contents in together)
    # No other group would bring the first part nearer to its size, unless another part would lose its last group.
    size_of = Counter(part_of.values())
    n_groups = Counter(part_of[min(contents)] for contents in together)
    n_wanted = (n_other > 0) + (n > n_one + n_other)
    if n_groups["validation"] + n_groups["train"] > n_wanted:
        for contents in together:
            if part_of[min(contents)] != "calibration":
                assert abs(size_of["calibration"] + len(contents) - n_one) >= abs(size_of["calibration"] - n_one)
    # Each requested part has images if there are enough groups.
    if len(together) >= 3 and n_one > 0:
        assert size_of["train"] or n == n_one + n_other
    # Neither the order of the files nor the names of the groups matter.
    names = {name: f"{len(groups) - i} of them" for i, name in enumerate(dict.fromkeys(groups)) if name is not None}
    shuffled = [(image, names.get(name), part) for image, name, part in zip(image_ids, groups, parts, strict=True)]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    image_ids, groups, parts = (list(column) for column in zip(*shuffled, strict=True))
    assert split_by_content(image_ids, sizes, "train", seed, groups) == parts


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9), st.integers(1, 30), seeds, st.data())
def test_a_part_has_the_groups_it_needs_if_that_is_possible(
    counts: list[int], size: int, seed: int, data: st.DataObject
) -> None:
    n = sum(counts)
    assume(size < n)
    fewest = data.draw(st.integers(1, len(counts)))
    most = data.draw(st.integers(size, n))
    groups = [str(group) for group, count in enumerate(counts) for _ in range(count)]
    image_ids = [f"image {i}" for i in range(n)]
    # At least one group must be left for the other parts.
    possible = any(sum(some) <= most for some in combinations(counts, fewest)) and fewest < len(counts)
    arguments = (image_ids, {"calibration": size}, "train", seed, groups, {"calibration": (fewest, most)})
    if not possible:
        with pytest.raises(ValueError, match=f"calibration needs {fewest} groups of {most} images at most"):
            split_by_content(*arguments)
        return
    parts = split_by_content(*arguments)
    assert parts.count("calibration") <= most
    assert len({group for group, part in zip(groups, parts, strict=True) if part == "calibration"}) >= fewest


def test_a_small_example_takes_whole_groups() -> None:
    """Six groups of eight images and two of one: for 19 images, two groups of eight come nearest."""
    image_ids = [f"{i}" for i in range(50)]
    groups = [f"part {i // 8}" for i in range(48)] + ["small", "smaller"]
    for seed in range(10):
        parts = split_by_content(image_ids[:48], {"calibration": 19, "validation": 8}, "train", seed, groups[:48])
        assert Counter(parts) == {"calibration": 16, "validation": 8, "train": 24}
        # Five groups are needed, and these are the smallest five.
        parts = split_by_content(image_ids, {"calibration": 8}, "train", seed, groups, {"calibration": (5, 26)})
        assert Counter(parts) == {"calibration": 26, "train": 24}
    with pytest.raises(ValueError, match=r"5 groups of 25 images at most.*: 8 are left, the largest of 8 images"):
        split_by_content(image_ids, {"calibration": 8}, "train", 0, groups, {"calibration": (5, 25)})
