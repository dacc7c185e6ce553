"""Why an image was flagged, in words and numbers."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nelbo.data.area.area import WHOLE, Area
from nelbo.data.part.frame import STATUSES
from nelbo.flows.inference.why.evidence import TOLD, Evidence, Off, looked_into
from nelbo.flows.inference.why.looks import Looks
from nelbo.flows.inference.why.spots import Spot
from nelbo.flows.numbers import number
from nelbo.flows.workspace.calibrations.calibration import Calibration

#: Words for an image below, and above, what is usual.
_WORDS = {
    "brightness": ("darker", "brighter"),
    "red_green": ("of greener colour", "of redder colour"),
    "yellow_blue": ("of bluer colour", "of yellower colour"),
    "detail": ("of smoother texture", "of rougher texture"),
    "sharpness": ("less sharp", "sharper or noisier"),
}
_NAMES = {"brightness": "brightness", "red_green": "colour", "yellow_blue": "colour", "detail": "texture"}
#: What in taking the picture, rather than in the part, can cause a value below, and above, what is usual.
_CAUSES = {
    "brightness": ("exposure or lamp",) * 2,
    "red_green": ("lamp or white balance",) * 2,
    "yellow_blue": ("lamp or white balance",) * 2,
    "sharpness": ("focus or motion", "focus or noise"),
}
#: A size or variant is told if it is at least so many deviations beyond what is usual.
_LEAST_BEYOND = 1.0

Plane = NDArray[np.floating[Any]]


def explain(
    rows: pa.Table,
    pixels: Plane,
    units: Plane | None,
    calibration: Calibration,
    looks: Mapping[str | None, Looks],
    area: Area | None = None,
) -> pa.Array:
    """(n,) why each of some flagged images was flagged.

    Args:
        rows: of these images, with the columns ``MEASURED`` and ``part``.
        pixels: (n, h, w, c) in [0, 1], as the model takes them.
        units: (n, gh, gw) maps of how unusual each place is, 0 is usual; None where there are none.
        calibration: that flagged them.
        looks: of each variant's training images, as far as they are known.
        area: of each image that `pixels` and `looks` show; maps cover the whole image.
    """
    box = WHOLE if area is None else area.box
    scores = calibration.statistic.scores(rows)
    whys = []
    for i, row in enumerate(rows.to_pylist()):
        variant = row["variant"]
        seen = looked_into(pixels[i], None if units is None else units[i], looks.get(variant), box)
        whys.append(sentence(_evidence(row, seen, scores[i], calibration.against(variant))))
    return pa.array(whys, pa.string())


def _evidence(row: Mapping[str, Any], seen: Mapping[str, Any], score: float, against: Plane) -> Evidence:
    return Evidence(
        peak_z=row["peak_z"],
        mean_z=row["mean_z"],
        size_z=row["size_z"] or 0.0,
        variant_z=row["variant_z"] or 0.0,
        part=row["part"],
        **seen,
        n_at_least=int((against >= score).sum()),
        n_normal=len(against),
    )


def sentence(found: Evidence) -> str:
    """The text of the column ``why``.

    >>> import textwrap
    >>> spot = Spot(np.eye(2), x=0.71, y=0.18, width=0.12, height=0.2, n_others=0)
    >>> found = Evidence(8.31, 2.1, 0.0, 0.0, None, spot, 0.1, {"brightness": -4.2, "detail": 1.0}, (), 1, 240)
    >>> print(textwrap.fill(sentence(found), 100))
    One spot at the top right (71 % from the left, 18 % from the top, 12 x 20 % in size) stands out
    (peak 8.3, mean 2.1 deviations): there it is darker (by 4.2 deviations) than training images. 1 of
    240 normal images scores as high.
    """
    return " ".join([*_beyond(found), _where(found), *_of_picture(found), _rare(found)])


def _beyond(found: Evidence) -> Iterator[str]:
    """Reasons that have no place in the image: the part's size, the variant."""
    if found.size_z >= _LEAST_BEYOND:
        what = STATUSES.get(found.part or "", "a part")
        yield f"Found was {what}, by {_digits(found.size_z)} deviations beyond the usual sizes."
    if found.variant_z >= _LEAST_BEYOND:
        yield f"It is of no known variant, by {_digits(found.variant_z)} deviations beyond what is usual."


def _where(found: Evidence) -> str:
    """One spot, several, or the whole image; where, and how it looks there."""
    spot, strength = found.spot, ""
    if found.peak_z is not None and found.mean_z is not None:
        strength = f" (peak {_digits(found.peak_z)}, mean {_digits(found.mean_z)} deviations)"
    if found.is_whole:
        text = f"The whole image stands out{strength}"
        text += f", most of all at the {_words(spot)}" if spot else ""
    elif spot is None:
        text = f"A part of the image stands out{strength}"
    elif spot.n_others:
        text = f"{spot.n_others + 1} spots stand out{strength}, the most unusual one {_place(spot)}"
    else:
        text = f"One spot {_place(spot)} stands out{strength}"
    looks = _looks(found)
    return f"{text}: {looks}." if looks else f"{text}."


def _words(spot: Spot) -> str:
    rows, columns = ("top", "", "bottom"), ("left", "", "right")
    return f"{rows[min(2, int(3 * spot.y))]} {columns[min(2, int(3 * spot.x))]}".strip() or "centre"


def _place(spot: Spot) -> str:
    x, y, width, height = (f"{100 * share:.0f}" for share in (spot.x, spot.y, spot.width, spot.height))
    return f"at the {_words(spot)} ({x} % from the left, {y} % from the top, {width} x {height} % in size)"


def _looks(found: Evidence) -> str:
    """How the image looks there, or as a whole; empty where nothing is known of training images."""
    if found.is_whole and found.whole:
        return f"it is {_compared(found.whole)}"
    if not found.there:
        return ""
    told = {name: value for name, value in found.there.items() if abs(value) >= TOLD}
    if not told:
        usual = _listed(dict.fromkeys(_NAMES[name] for name in found.there))
        return f"{usual} there are those of training images (within {TOLD:g} deviations), the structure is not"
    most = sorted(told.items(), key=lambda item: -abs(item[1]))
    said = [f"{_WORDS[name][value > 0]} (by {_digits(abs(value))} deviations)" for name, value in most]
    return f"there it is {_listed(said)} than training images"


def _compared(whole: Iterable[Off]) -> str:
    said = []
    for off in whole:
        value, low, high = map(_digits, off[1:])
        said.append(f"{_WORDS[off.name][off.value > off.high]} ({value}; usual {low} to {high})")
    return f"{_listed(said)} than training images"


def _of_picture(found: Evidence) -> Iterator[str]:
    """What is unusual about the picture as a whole, and whether that may be the cause."""
    causes = dict.fromkeys(_CAUSES[off.name][off.value > off.high] for off in found.whole if off.name in _CAUSES)
    if found.whole and not found.is_whole:
        yield f"The picture as a whole is {_compared(found.whole)}."
    if causes and (found.is_whole or not any(abs(value) >= TOLD for value in found.there.values())):
        yield f"So the cause may be the picture ({'; '.join(causes)}) and not the part."


def _rare(found: Evidence) -> str:
    if not found.n_at_least:
        return f"None of {number(found.n_normal)} normal images scores as high."
    verb = "scores" if found.n_at_least == 1 else "score"
    return f"{number(found.n_at_least)} of {number(found.n_normal)} normal images {verb} as high."


def _digits(value: float) -> str:
    """Two significant digits; three from ten on.

    >>> _digits(8.31), _digits(0.0472), _digits(23.45), _digits(1234.5)
    ('8.3', '0.047', '23.4', '1,234')
    """
    return number(value, 2) if abs(value) < 10 else number(value, 3)


def _listed(words: Iterable[str]) -> str:
    """The words joined by commas, with "and" before the last."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
