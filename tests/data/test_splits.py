import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations, permutations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nelbo.data import folds, split_by_content

ids = st.lists(st.text("abcdef", min_size=1, max_size=2), min_size=1, max_size=60)
#: Images and their groups: contents that repeat, groups that share some, images without one.
grouped = st.lists(
    st.tuples(st.text("abcdef", min_size=1, max_size=2), st.sampled_from([None, *"pqrstuvwxyz"])),
    min_size=1,
    max_size=40,
)
seeds = st.integers(0, 9)


def split_without_groups(image_ids: Sequence[str], sizes: dict[str, int], rest: str, seed: int) -> list[str]:
    """As it was done before there were groups."""
    order = sorted(set(image_ids), key=lambda image: hashlib.sha256(f"{seed}:{image}".encode()).digest())
    part_of: dict[str, str] = {}
    start = 0
    for part, size in sizes.items():
        part_of.update(dict.fromkeys(order[start : start + size], part))
        start += size
    return [part_of.get(image, rest) for image in image_ids]


def wholes(rows: Sequence[tuple[str, str | None]]) -> list[set[str]]:
    """The contents that must stay together: sets are joined until none shares a content or a name with another."""
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


@given(ids, st.integers(0, 9), st.integers(0, 9), seeds)
def test_without_groups_it_is_as_it_always_was(image_ids: list[str], n_one: int, n_other: int, seed: int) -> None:
    sizes = {"calibration": n_one, "validation": n_other}
    n = len(set(image_ids))
    assume(n_one + n_other <= n)
    before = split_without_groups(image_ids, sizes, "train", seed)
    alone = [f"group of {image}" for image in image_ids]
    for groups in (None, [None] * len(image_ids), alone):
        for within in (None, {"calibration": (n_one, n), "validation": (0, n_other)}):
            assert split_by_content(image_ids, sizes, "train", seed, groups, within) == before


def test_another_seed_is_another_split() -> None:
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
    # No group left over would have brought the first part nearer, unless it had been another part's last.
    size_of = Counter(part_of.values())
    n_groups = Counter(part_of[min(contents)] for contents in together)
    n_wanted = (n_other > 0) + (n > n_one + n_other)
    if n_groups["validation"] + n_groups["train"] > n_wanted:
        for contents in together:
            if part_of[min(contents)] != "calibration":
                assert abs(size_of["calibration"] + len(contents) - n_one) >= abs(size_of["calibration"] - n_one)
    # A part that is to have images has some wherever there are groups enough.
    if len(together) >= 3 and n_one > 0:
        assert size_of["train"] or n == n_one + n_other
    # Neither the order of the files nor the names of the groups matter.
    names = {name: f"{len(groups) - i} of them" for i, name in enumerate(dict.fromkeys(groups)) if name is not None}
    shuffled = [(image, names.get(name), part) for image, name, part in zip(image_ids, groups, parts, strict=True)]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    image_ids, groups, parts = (list(column) for column in zip(*shuffled, strict=True))
    assert split_by_content(image_ids, sizes, "train", seed, groups) == parts


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9), st.integers(1, 30), seeds, st.data())
def test_a_part_has_what_it_needs_or_nobody_can_give_it(
    counts: list[int], size: int, seed: int, data: st.DataObject
) -> None:
    n = sum(counts)
    assume(size < n)
    fewest = data.draw(st.integers(0, size))
    most = data.draw(st.integers(size, n))
    groups = [str(group) for group, count in enumerate(counts) for _ in range(count)]
    image_ids = [f"image {i}" for i in range(n)]
    # All that whole groups can give while one is left for the others.
    possible = {sum(some) for k in range(len(counts)) for some in combinations(counts, k)}
    arguments = (image_ids, {"calibration": size}, "train", seed, groups, {"calibration": (fewest, most)})
    if not any(fewest <= count <= most for count in possible):
        with pytest.raises(ValueError, match=f"calibration needs {fewest} to {most} images"):
            split_by_content(*arguments)
        return
    assert fewest <= split_by_content(*arguments).count("calibration") <= most


def test_whole_groups_by_hand() -> None:
    """Six groups of eight, 19 wanted and needed: two give 16, and the third one more than is missing."""
    image_ids = [f"{i}" for i in range(48)]
    groups = [f"part {i // 8}" for i in range(48)]
    sizes = {"calibration": 19, "validation": 8}
    for seed in range(10):
        parts = split_by_content(image_ids, sizes, "train", seed, groups)
        assert Counter(parts) == {"calibration": 16, "validation": 8, "train": 24}
        parts = split_by_content(image_ids, sizes, "train", seed, groups, {"calibration": (19, 24)})
        assert Counter(parts) == {"calibration": 24, "validation": 8, "train": 16}
    with pytest.raises(ValueError, match=r"19 to 23 images.*: 6 are left, the largest of 8 images"):
        split_by_content(image_ids, sizes, "train", 0, groups, {"calibration": (19, 23)})


@given(grouped, st.integers(1, 6), seeds, st.randoms(use_true_random=False))
def test_folds(rows: list[tuple[str, str | None]], n: int, seed: int, random: object) -> None:
    image_ids, groups = (list(column) for column in zip(*rows, strict=True))
    together = wholes(rows)
    if n > len(together):
        with pytest.raises(ValueError, match=rf"n={n}: expected 1 to {len(together)} folds"):
            folds(image_ids, groups, n, seed)
        return
    found = folds(image_ids, groups, n, seed)
    fold_of = dict(zip(image_ids, found, strict=True))
    assert all(len({fold_of[image] for image in contents}) == 1 for contents in together)
    assert set(found) == set(range(n))
    # The largest first, each where there is least: what that leads to does not depend on which of equals come first.
    expected = [0] * n
    for count in sorted(map(len, together), reverse=True):
        expected[expected.index(min(expected))] += count
    assert sorted(Counter(fold_of.values()).values()) == sorted(expected)
    shuffled = list(zip(image_ids, groups, found, strict=True))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    image_ids, groups, found = (list(column) for column in zip(*shuffled, strict=True))
    assert folds(image_ids, [name and name * 2 for name in groups], n, seed) == found


@given(ids, st.integers(1, 6), seeds)
def test_folds_without_groups(image_ids: list[str], n: int, seed: int) -> None:
    distinct = set(image_ids)
    assume(n <= len(distinct))
    found = folds(image_ids, None, n, seed)
    assert found == folds(image_ids, [None] * len(image_ids), n, seed)
    counts = Counter(dict(zip(image_ids, found, strict=True)).values())
    assert max(counts.values()) - min(counts.values()) <= 1


def test_other_seeds_are_other_folds() -> None:
    image_ids = [str(i) for i in range(30)]
    groups = [str(i // 3) for i in range(30)]
    assert len({tuple(folds(image_ids, groups, 5, seed)) for seed in range(20)}) == 20
    assert len({tuple(folds(image_ids, None, 5, seed)) for seed in range(20)}) == 20


def test_folds_by_hand() -> None:
    """Five, four, three, two and one in two folds: 5 + 2 + 1 and 4 + 3, whatever the seed."""
    sizes = {"p": 5, "q": 4, "r": 3, "s": 2, "t": 1}
    rows = [(f"{name}{i}", name) for name, count in sizes.items() for i in range(count)]
    for order in list(permutations(sizes))[::17]:
        image_ids, groups = zip(*sorted(rows, key=lambda row: order.index(row[1])), strict=True)
        for seed in range(5):
            found = dict(zip(groups, folds(image_ids, groups, 2, seed), strict=True))
            assert found == {"p": 0, "q": 1, "r": 1, "s": 0, "t": 0}
