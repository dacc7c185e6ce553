"""Masks in COCO's format: compressed run lengths, as its readers (pycocotools and others) take them.

A mask is read column by column, as the lengths of its runs: outside, inside, outside, and so on. From the fourth on, a
length is written as its difference from the one two places before, because neighbouring columns are alike. Each
character holds five bits, the lowest first, and a bit that says whether more follow.

Source: pycocotools, ``rleToString``; Lin et al. 2014, "Microsoft COCO".
"""

import numpy as np
from numpy.typing import NDArray

#: What is added to six bits to make them a printable character, and the most characters of one number.
_FIRST, _LONGEST = 48, 13

Mask = NDArray[np.bool_]
Size = tuple[int, int]


def encode(window: Mask, corner: tuple[int, int], size: Size) -> str:
    """The text of a mask of a whole image that is empty outside of a window.

    Args:
        window: (h, w) of the mask.
        corner: column and row of its top left pixel in the image.
        size: width and height of the image.

    Raises:
        ValueError: the window does not lie in the image.

    >>> encode(np.array([[True, True], [True, False]]), (1, 0), (4, 3))
    '321O4'
    """
    (left, top), (width, height), (rows, columns) = corner, size, window.shape
    if min(corner) < 0 or left + columns > width or top + rows > height:
        raise ValueError(f"a window of {columns} x {rows} pixels at {corner} is not inside an image of {size}")
    starts, ends = _runs(window)
    first = (left + starts[0]) * height + top + starts[1]
    end = (left + ends[0]) * height + top + ends[1]
    # A run that ends at the foot of a column goes on at the head of the next one.
    breaks = first[1:] != end[:-1]
    first, end = first[np.append(True, breaks)[: len(first)]], end[np.append(breaks, True)[: len(end)]]
    counts = np.diff(np.column_stack([first, end]).ravel(), prepend=0).tolist()
    if not counts or end[-1] < width * height:
        counts.append(width * height - (int(end[-1]) if counts else 0))
    return _text(counts)


def _runs(window: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(2, n) column and row of the first pixel of each run down a column; and of the pixel after its last."""
    steps = np.diff(np.pad(window.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    return np.stack(np.nonzero(steps == 1)), np.stack(np.nonzero(steps == -1))


def _text(counts: list[int]) -> str:
    found = bytearray()
    for place, count in enumerate(counts):
        left = count - counts[place - 2] if place > 2 else count
        is_more = True
        while is_more:
            bits, left = left & 31, left >> 5
            # The fifth bit is the sign of what is not written any more.
            is_more = left != (-1 if bits & 16 else 0)
            found.append(_FIRST + bits + 32 * is_more)
    return found.decode("ascii")


def runs_of(text: str, size: Size) -> NDArray[np.int64]:
    """(n, 2) start and end of each run of a mask, counting pixels column by column.

    Args:
        size: width and height of the image.

    Raises:
        ValueError: it is not a mask of an image of this size.

    >>> runs_of("321O4", (4, 3)).tolist()
    [[3, 5], [6, 7]]
    """
    counts = np.array(_counts(text, 2 * size[0] * size[1] + 1), np.int64)
    ends = counts.cumsum()
    if (counts < 0).any() or (ends[-1] if len(ends) else 0) != size[0] * size[1]:
        raise ValueError(f"run lengths are not those of an image of {size[0]} x {size[1]} pixels")
    inside = ends[: len(ends) // 2 * 2].reshape(-1, 2)
    return inside[inside[:, 0] < inside[:, 1]]


def _counts(text: str, most: int) -> list[int]:
    """The run lengths that a text holds, each checked to be a number."""
    counts: list[int] = []
    number = place = 0
    for character in text:
        bits = ord(character) - _FIRST
        if not 0 <= bits < 64 or place >= _LONGEST:
            raise ValueError(f"run lengths hold {character!r} at character {text.index(character)}")
        number |= (bits & 31) << 5 * place
        place += 1
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << 5 * place
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        if abs(counts[-1]) >= most:
            raise ValueError("run lengths are longer than the image")
        number = place = 0
    if place:
        raise ValueError("run lengths end within a number")
    return counts


def decode(text: str, size: Size) -> Mask:
    """(h, w) the mask of an image.

    Args:
        size: its width and height.

    Raises:
        ValueError: it is not a mask of an image of this size.

    >>> decode("321O4", (4, 3)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    """
    flat = np.zeros(size[0] * size[1], bool)
    for start, end in runs_of(text, size).tolist():
        flat[start:end] = True
    return flat.reshape(size).T


def thinned(text: str, size: Size, step: int) -> Mask:
    """The mask of an image in squares of `step` pixels a side: a square is inside if any of its pixels is.

    The mask in the image's own pixels is never in memory.

    Raises:
        ValueError: it is not a mask of an image of this size.

    >>> thinned("321O4", (4, 3), 2).astype(int).tolist()
    [[1, 1], [0, 0]]
    """
    width, height = size
    small = np.zeros((-(-width // step), -(-height // step)), bool)
    for start, end in runs_of(text, size).tolist():
        first, last = start // height, (end - 1) // height
        if first == last:
            small[first // step, start % height // step : (end - 1) % height // step + 1] = True
            continue
        small[first // step, start % height // step :] = True
        small[last // step, : (end - 1) % height // step + 1] = True
        if last - first > 1:
            small[(first + 1) // step : (last - 1) // step + 1] = True
    return small.T
