"""Whether normal pictures show one rigid part before a plain background, and the frame that aligns such parts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nelbo.data.part.frame import Frame
from nelbo.data.part.part import USUAL, Seen, upright_mask
from nelbo.data.part.pose import Silhouette, digits, learn_pose, rings, silhouette
from nelbo.data.part.segmentation import NORMAL

#: Around the part, in shares of its length.
_MARGIN = 0.03
#: Sizes are taken to vary by at least this share; and the share of normal parts whose size counts as usual.
_LEAST_SPREAD, _MOST = 0.01, 0.95
#: How many parts must lie whole and alone, so that a frame can be learnt from them.
_LEAST_PARTS = 3
#: Images in which parts are looked for at first.
_LOOKED_AT = 128
#: Pixels of the crop in which silhouettes are compared.
_COMPARED = 64 * 64

Image = TypeVar("Image")


@dataclass(frozen=True)
class Facts:
    """What normal pictures show of their parts.

    n: pictures looked at.
    found: share of them in which something stands out; rivals: in which several things do; touches: in which it reaches
        the edge.
    area: median, a share of the picture; area_varies, length_varies: a robust standard deviation over the median.
    agree: median overlap of an upright silhouette with the mean one (intersection over union).
    contrast: median distance of the part from the background, in standard deviations of the background.
    clutter: median share of the picture that is neither the part nor plain background.
    moves, turns: standard deviations of where parts lie, in shares of the picture's longer side, and of their angle, in
        degrees.
    """

    n: int
    found: float
    rivals: float
    touches: float
    area: float = 0.0
    area_varies: float = math.inf
    length_varies: float = math.inf
    agree: float = 0.0
    contrast: float = 0.0
    clutter: float = 1.0
    moves: float = 0.0
    turns: float = 0.0

    def __str__(self) -> str:
        """In words."""
        said = (
            f"of {self.n} pictures {self.found:.0%} show a part, {self.rivals:.0%} several, and {self.touches:.0%} one "
            "that reaches the edge"
        )
        if not self.area:
            return said
        return (
            f"{said}; it takes {self.area:.0%} of the picture, its area varies by {self.area_varies:.1%} and its "
            f"length by {self.length_varies:.1%}, outlines agree to {self.agree:.0%}"
        )


#: Facts of one rigid part before a plain background, lowest and highest. Tried on all open data sets and on rendered
#: pictures, see docs/how-to/parts.md.
LIMITS = {
    "found": (0.95, 1.0),
    "rivals": (0.0, 0.1),
    "touches": (0.0, 0.2),
    "area": (0.002, 0.7),
    "area_varies": (0.0, 0.12),
    "length_varies": (0.0, 0.06),
    "agree": (0.85, 1.0),
    "contrast": (10.0, math.inf),
    "clutter": (0.0, 0.1),
}
_OF_PICTURES = ("found", "rivals", "touches")
#: Where all parts lie alike, to within this, there is nothing to align: what was found may be a mark on them.
_MOVES, _TURNS = 0.01, 1.0


def against(facts: Facts) -> list[str]:
    """Why parts are not looked for: each fact that is out of range for one rigid part before a plain background.

    >>> against(Facts(50, 1.0, 0.0, 0.37, 0.37, 0.07, 0.03, 0.95, 40.0, 0.0, 0.1, 80.0))
    ['touches is 0.37, expected 0 to 0.2']
    """
    # Where no part lies whole and alone, its facts are unknown.
    said = LIMITS if facts.area else _OF_PICTURES
    reasons = [
        f"{name} is {getattr(facts, name):.2g}, expected {LIMITS[name][0]:g} to {LIMITS[name][1]:g}"
        for name in said
        if not LIMITS[name][0] <= getattr(facts, name) <= LIMITS[name][1]
    ]
    if not reasons and facts.moves < _MOVES and facts.turns < _TURNS:
        return [f"all lie alike: moves is {facts.moves:.2g}, expected {_MOVES:g}, or turns {_TURNS:g} degrees"]
    return reasons


def learn_frame(pictures: Sequence[Seen]) -> tuple[Frame | None, Facts]:
    """The frame that aligns the parts of normal pictures, if there are enough parts; and what the pictures show."""
    parts = [seen for seen in pictures if seen.segment.found]
    n = len(pictures)
    shares = {
        "found": len(parts) / max(n, 1),
        "rivals": sum(seen.segment.n_rivals > 0 for seen in parts) / max(n, 1),
        "touches": sum(seen.segment.touches for seen in parts) / max(n, 1),
    }
    # A part that reaches over the edge, or is not alone, says nothing of a whole one.
    whole = [seen for seen in parts if not seen.segment.touches and not seen.segment.n_rivals]
    if len(whole) < _LEAST_PARTS:
        return None, Facts(n, **shares)
    outlines = [silhouette(seen.segment.mask) for seen in whole]
    longer = np.array([seen.longer for seen in whole])
    areas = np.array([one.area for one in outlines]) / longer**2
    radii = np.array([one.radius for one in outlines]) / longer
    radius = 1.05 * float(np.median(radii))
    own = [
        rings(seen.small, seen.segment, outline, radius * seen.longer)
        for seen, outline in zip(whole, outlines, strict=True)
    ]
    learnt = learn_pose(own, outlines)
    posed = list(zip(whole, outlines, learnt.degrees.tolist(), strict=True))
    left, upper, right, lower = np.median([_extent(*one) for one in posed], axis=0).tolist()
    margin = _MARGIN * max(right - left, lower - upper)
    area = float(np.median(areas))
    # Parts that reach over the edge are normal, too: where there are many, a size says less.
    off = [abs(seen.segment.mask.sum() / seen.longer**2 - area) for seen in parts]
    frame = Frame(
        area,
        max(_spread(areas), float(np.quantile(off, _MOST)) / USUAL, _LEAST_SPREAD * area),
        (left - margin, upper - margin, right + margin, lower + margin),
        radius,
        learnt.has_axis,
        "" if learnt.mean is None else digits(learnt.mean),
    )
    places = [[one.x for one in outlines], [one.y for one in outlines]]
    facts = Facts(
        n,
        **shares,
        area=float(np.median([seen.segment.mask.mean() for seen in whole])),
        area_varies=_spread(areas) / area,
        length_varies=_spread(radii) / float(np.median(radii)),
        agree=_agreement(posed, frame),
        contrast=float(np.median([seen.segment.contrast for seen in whole])),
        clutter=float(np.median([seen.segment.clutter for seen in parts])),
        moves=max(float(np.std([value / seen.longer for value, seen in zip(of, whole, strict=True)])) for of in places),
        turns=_turns(learnt.degrees) if frame.mean else 0.0,
    )
    return frame, facts


def some_of(images: Sequence[Image]) -> list[Image]:
    """The images in which parts are looked for at first, spread over all.

    >>> some_of([1, 2, 3]), len(some_of(range(1000)))
    ([1, 2, 3], 128)
    """
    places = np.linspace(0, len(images) - 1, min(len(images), _LOOKED_AT)).astype(int)
    return [images[place] for place in places]


def choose_frame(pictures: Sequence[Seen], locate: str) -> tuple[Frame | None, str]:
    """The frame by which parts are looked for, None where they are not; and what the pictures show of them.

    Args:
        locate: "auto" looks for parts where the pictures show one rigid part before a plain background; "on" always.

    Raises:
        ValueError: "on", and no part lies whole and alone before a plain background.
    """
    frame, facts = learn_frame(pictures)
    if locate == "on":
        if frame is None:
            raise ValueError(
                f"locate=on: {facts}, and fewer than {_LEAST_PARTS} lie whole and alone before a plain background. "
                "Leave it out, or name other images"
            )
        return frame, str(facts)
    reasons = against(facts)
    if frame is None or reasons:
        return None, f"not one rigid part before a plain background: {'; '.join(reasons)}"
    return frame, f"one rigid part before a plain background: {facts}"


def _spread(values: NDArray[Any]) -> float:
    return NORMAL * float(np.median(np.abs(values - np.median(values))))


def _turns(degrees: NDArray[np.float64]) -> float:
    """Standard deviation on the circle (Mardia and Jupp 2000, equation 2.3.11), in degrees."""
    length = float(np.abs(np.exp(1j * np.deg2rad(degrees)).mean()))
    return float(np.degrees(np.sqrt(-2 * np.log(np.clip(length, 1e-9, 1.0)))))


def _extent(seen: Seen, outline: Silhouette, degrees: float) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge of the upright part about its middle, in shares of the longer side."""
    rows, columns = np.nonzero(seen.segment.mask)
    x, y = (columns - outline.x) / seen.longer, (rows - outline.y) / seen.longer
    turn = np.deg2rad(degrees)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    return float(u.min()), float(v.min()), float(u.max()), float(v.max())


def _agreement(posed: Sequence[tuple[Seen, Silhouette, float]], frame: Frame) -> float:
    """Median intersection over union of an upright silhouette with the mean one."""
    size = frame.crop_size(_COMPARED)
    masks = np.stack([upright_mask(seen, (one.x, one.y), degrees, frame, size) for seen, one, degrees in posed])
    mean = masks.mean(axis=0) > 0.5
    union = (masks | mean).sum(axis=(1, 2))
    return float(np.median((masks & mean).sum(axis=(1, 2)) / np.maximum(union, 1)))
