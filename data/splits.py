"""Disjoint parts of a set of images, by content: the same bytes, and images of one group, are always in one part."""

import hashlib
from collections.abc import Mapping, Sequence

from nelbo.data.groups import members

Group = list[str]


def split_by_content(
    image_ids: Sequence[str],
    sizes: Mapping[str, int],
    rest: str,
    seed: int,
    groups: Sequence[str | None] | None = None,
    within: Mapping[str, tuple[int, int]] | None = None,
) -> list[str]:
    """The part of each image.

    Distinct images are ordered by a hash of seed and content, so the split does not depend on the order or
    the names of the files, and a duplicate follows its original. Groups stay whole, and are ordered by a hash of seed
    and contents: each part takes every group that brings it nearer to its size, and leaves one for each other part.

    Args:
        image_ids: content hash of each image; repeats are duplicates.
        sizes: part -> number of *distinct* images in it; with groups, as near as whole groups come to it.
        rest: the part of all others.
        seed: another seed gives another split.
        groups: name of each image's group; None is an image alone. Groups that share a content are one.
        within: part -> the fewest groups, and the most images, that will do; an image alone is a group.

    Returns:
        One part for each element of `image_ids`.

    Raises:
        ValueError: the sizes add up to more than there are distinct images, or no groups fit `within`.

    >>> split_by_content(["a", "b", "a", "c"], {"calibration": 1}, rest="train", seed=0)
    ['calibration', 'train', 'calibration', 'train']
    >>> split_by_content(["a", "b", "c", "d"], {"calibration": 1}, "train", seed=0, groups=["p", "q", "q", "q"])
    ['calibration', 'train', 'train', 'train']
    """
    left = _ordered(image_ids, groups, seed)
    n = sum(map(len, left))
    if sum(sizes.values()) > n:
        raise ValueError(f"parts {dict(sizes)} need more than the {n} distinct images there are")
    # Each part that is to have images needs a group at least.
    waiting = [*(size > 0 for size in sizes.values()), n > sum(sizes.values())]
    part_of: dict[str, str] = {}
    for number, (part, size) in enumerate(sizes.items(), start=1):
        fewest, most = (within or {}).get(part, (0, n))
        taken = _take(left, size, fewest, most, len(left) - sum(waiting[number:])) if size else []
        if taken is None:
            raise ValueError(
                f"{part} needs {fewest} groups of {most} images at most, and there are not as many: {len(left)} are "
                f"left, the largest of {max(map(len, left), default=0)} images"
            )
        for index in taken:
            part_of.update(dict.fromkeys(left[index], part))
        left = [group for index, group in enumerate(left) if index not in set(taken)]
    return [part_of.get(image, rest) for image in image_ids]


def folds(image_ids: Sequence[str], groups: Sequence[str | None] | None, n: int, seed: int) -> list[int]:
    """The fold of each image, 0 to n - 1; the folds have as nearly the same number of distinct images as groups allow.

    The largest groups come first, each into the smallest fold so far; a hash of seed and contents orders groups of one
    size, so that neither the order nor the names of the files matter.

    Args:
        image_ids: content hash of each image; repeats are duplicates.
        groups: name of each image's group; None is an image alone. Groups that share a content are one.
        n: number of folds.
        seed: another seed gives other folds.

    Raises:
        ValueError: n is not positive, or there are fewer groups.

    >>> folds(["a", "b", "c", "d"], ["p", "p", None, None], n=2, seed=0)
    [0, 0, 1, 1]
    """
    ordered = _ordered(image_ids, groups, seed)
    if not 1 <= n <= len(ordered):
        raise ValueError(f"n={n}: expected 1 to {len(ordered)} folds, as there are that many groups of images")
    counts = [0] * n
    fold_of: dict[str, int] = {}
    for group in sorted(ordered, key=len, reverse=True):
        fold = counts.index(min(counts))
        counts[fold] += len(group)
        fold_of.update(dict.fromkeys(group, fold))
    return [fold_of[image] for image in image_ids]


def _ordered(image_ids: Sequence[str], groups: Sequence[str | None] | None, seed: int) -> list[Group]:
    def key(group: Group) -> bytes:
        return hashlib.sha256(f"{seed}:{','.join(group)}".encode()).digest()

    return sorted(members(image_ids, groups), key=key)


def _take(groups: Sequence[Group], size: int, fewest: int, most: int, n_groups: int) -> list[int] | None:
    """Numbers of the groups that a part takes, n_groups at most; None where no choice meets its needs."""
    taken: list[int] = []
    count = 0
    for index, group in enumerate(groups):
        nearer = abs(count + len(group) - size) < abs(count - size)
        if nearer and count + len(group) <= most and len(taken) < n_groups:
            taken.append(index)
            count += len(group)
    if len(taken) >= fewest:
        return taken
    smallest = sorted(range(len(groups)), key=lambda index: len(groups[index]))[:fewest]
    enough = len(smallest) == fewest <= n_groups and sum(len(groups[index]) for index in smallest) <= most
    return smallest if enough else None
