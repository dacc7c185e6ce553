"""Disjoint parts of a set of images, by content: the same bytes are always in the same part."""

import hashlib
from collections.abc import Mapping, Sequence


def split_by_content(image_ids: Sequence[str], sizes: Mapping[str, int], rest: str, seed: int) -> list[str]:
    """The part of each image.

    Distinct images are ordered by a hash of seed and content, so the split does not depend on the order or
    the names of the files, and a duplicate follows its original.

    Args:
        image_ids: content hash of each image; repeats are duplicates.
        sizes: part -> number of *distinct* images in it.
        rest: the part of all others.
        seed: another seed, another split.

    Returns:
        One part for each element of `image_ids`.

    Raises:
        ValueError: the sizes add up to more than there are distinct images.

    >>> split_by_content(["a", "b", "a", "c"], {"calibration": 1}, rest="train", seed=0)
    ['calibration', 'train', 'calibration', 'train']
    """
    order = sorted(set(image_ids), key=lambda image: hashlib.sha256(f"{seed}:{image}".encode()).digest())
    if sum(sizes.values()) > len(order):
        raise ValueError(f"parts {dict(sizes)} need more than the {len(order)} distinct images there are")
    part_of: dict[str, str] = {}
    start = 0
    for part, size in sizes.items():
        part_of.update(dict.fromkeys(order[start : start + size], part))
        start += size
    return [part_of.get(image, rest) for image in image_ids]
