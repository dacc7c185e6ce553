"""Masks in COCO's run-length encoding: worked examples, agreement with COCO's own code, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from nelbo.data.regions.run_length import decode, encode, runs_of, thinned


def mask_of(*rows: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in rows])


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        # An empty mask: six pixels outside. 6 + 48 = "6".
        (mask_of("...", "..."), "6"),
        # A full mask: none outside, then six inside.
        (mask_of("###", "###"), "06"),
        # Down the columns: 1 out, 2 in (the foot of one column and the head of the next), 3 out.
        (mask_of(".#.", "#.."), "123"),
        # 0, 1, 3, 1, 1: the last two are written as differences from those two places before, 1 - 1 = 0 and
        # 1 - 3 = -2. In five bits that is 30, the fifth says that it is negative: 30 + 48 = "N".
        (mask_of("#.#", "..."), "0130N"),
        # 40 = 8 + 1 * 32: the low five bits and a bit for "more follows" (8 + 32 + 48 = "X"), then 1 ("1").
        (np.zeros((40, 1), bool), "X1"),
        # 16 would be negative in one character, so there are two: 16 + 32 + 48 = "`", and 0.
        (np.zeros((16, 1), bool), "`0"),
    ],
)
def test_small_masks_have_known_encodings(mask: np.ndarray, text: str) -> None:
    height, width = mask.shape
    assert encode(mask, (0, 0), (width, height)) == text
    assert (decode(text, (width, height)) == mask).all()


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.random(shape) < draw(st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0]))


@given(masks(), st.tuples(*[st.integers(0, 40)] * 4), st.integers(1, 9))
def test_the_encoding_equals_cocos(mask: np.ndarray, around: tuple[int, int, int, int], step: int) -> None:
    left, right, top, bottom = around
    whole = np.pad(mask, ((top, bottom), (left, right)))
    size = whole.shape[1], whole.shape[0]
    text = encode(mask, (left, top), size)
    theirs = coco.encode(np.asfortranarray(whole, np.uint8))
    assert text == theirs["counts"].decode()
    assert (decode(text, size) == whole).all()
    assert (np.diff(runs_of(text, size), axis=1) > 0).all()
    padded = np.pad(whole, ((0, -size[1] % step), (0, -size[0] % step)))
    squares = padded.reshape(padded.shape[0] // step, step, -1, step).any(axis=(1, 3))
    assert (thinned(text, size, step) == squares).all()


@pytest.mark.parametrize("text", ["", "5", "7", "0", "é6", "X", "016", "o" * 40, "`1`1", "9O", "0oooooooooooo1", " 6"])
def test_a_bad_encoding_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        decode(text, (3, 2))


@pytest.mark.parametrize("corner", [(-1, 0), (2, 0), (0, 1)])
def test_a_window_must_lie_in_its_image(corner: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not inside an image of"):
        encode(np.ones((2, 2), bool), corner, (3, 2))
