"""In what a batch differs from the normal images of its calibration, by name and in plain words."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

#: Words for images whose number is lower, and higher, than usual.
_SAID = {
    "brightness": ("the images are darker than", "the images are brighter than"),
    "contrast": ("the images have less contrast than", "the images have more contrast than"),
    "sharpness": ("the images are less sharp than", "the images are sharper than"),
    "size": ("the files have fewer pixels than", "the files have more pixels than"),
    "part_area": ("the parts are smaller in the picture than in", "the parts are larger in the picture than in"),
    "part_x": ("the parts lie farther left than in", "the parts lie farther right than in"),
    "part_y": ("the parts lie farther up than in", "the parts lie farther down than in"),
    "part_degrees": ("the parts are turned another way than in", "the parts are turned another way than in"),
}
#: What may have changed other than the parts.
_MAY_BE = {
    "brightness": "the light",
    "contrast": "the light",
    "sharpness": "the focus",
    "size": "the size of the files",
    **dict.fromkeys(("part_area", "part_x", "part_y", "part_degrees"), "the camera's place"),
}
#: Numbers that are proportional to the light: an image twice as bright has twice the contrast and sharpness.
_OF_LIGHT = ("contrast", "sharpness")
#: Quantiles between which nine of ten normal images lie.
_USUAL = (0.05, 0.95)
#: Relative uncertainty of the light of two sets of images.
_ABOUT = 0.1

Look = Mapping[str, np.ndarray]


class Difference(NamedTuple):
    """A number in which the images of a batch are unlike the normal ones, and how."""

    name: str
    sentence: str


def differences(names: Collection[str], batch: Look, reference: Look) -> list[Difference]:
    """Sentences on the numbers in which a batch differs, the largest difference first.

    Contrast and sharpness are left out where the difference in brightness explains theirs.

    Args:
        names: of the numbers that differ beyond chance.
        batch: name -> (m,) numbers of its images, NaN where unknown; for "size" also ``width_px``, ``height_px``.
        reference: the same for n normal images.

    >>> normal = np.linspace(0.42, 0.5, 101)
    >>> differences(["brightness"], {"brightness": 0.7 * normal}, {"brightness": normal})[0].sentence
    'the images are darker than the normal ones (brightness 0.322, usually 0.424 to 0.496)'
    """
    light = _shift(batch["brightness"], reference["brightness"]) if "brightness" in names else 1.0
    named = [name for name in names if not (name in _OF_LIGHT and _explained(light, batch[name], reference[name]))]
    farthest = sorted(named, key=lambda name: -_off(batch[name], reference[name]))
    return [Difference(name, _sentence(name, batch, reference)) for name in farthest]


def warning(differs: Sequence[Mapping[str, str]]) -> str | None:
    """The warning to show before any verdict; None where nothing differs.

    Args:
        differs: differences, as `Difference._asdict` returns them.

    >>> print(warning([{"name": "brightness", "sentence": "the images are darker than the normal ones"}]))
    The images are darker than the normal ones. What is flagged may be the light and not the parts.
    """
    if not differs:
        return None
    said = "; ".join(one["sentence"] for one in differs)
    causes = list(dict.fromkeys(_MAY_BE[one["name"]] for one in differs))
    return f"{said[0].upper()}{said[1:]}. What is flagged may be {' or '.join(causes)} and not the parts."


def _sentence(name: str, batch: Look, reference: Look) -> str:
    new, old = (np.nanquantile(values[name], [0.25, 0.5, 0.75]) for values in (batch, reference))
    low, high = np.nanquantile(reference[name], _USUAL)
    shown = f"{name} {new[1]:.3g}, usually {low:.3g} to {high:.3g}"
    if name == "size":
        shown = f"most {_most(batch)}, usually {_most(reference)}"
    moved = set(np.sign(new - old).tolist()) - {0.0}
    if len(moved) != 1 or new[1] == old[1]:
        word = "more" if np.ptp(new) > np.ptp(old) else "less"
        spread = f"half of them {new[0]:.3g} to {new[2]:.3g}, usually {old[0]:.3g} to {old[2]:.3g}"
        return f"the images vary {word} in {name} than the normal ones ({spread})"
    return f"{_SAID[name][int(new[1] > old[1])]} the normal ones ({shown})"


def _most(look: Look) -> str:
    """The commonest size of files."""
    sizes = Counter(zip(look["width_px"].tolist(), look["height_px"].tolist(), strict=True))
    (width, height), _ = sizes.most_common(1)[0]
    return f"{width:.0f} x {height:.0f}"


def _shift(batch: np.ndarray, reference: np.ndarray) -> float:
    """The median of a batch, divided by that of normal images."""
    usual = float(np.nanmedian(reference))
    return float(np.nanmedian(batch)) / usual if usual else 1.0


def _explained(light: float, batch: np.ndarray, reference: np.ndarray) -> bool:
    """Whether in the usual light the median of a batch would lie about where normal images do."""
    low, high = np.nanquantile(reference, _USUAL) * (1 - _ABOUT, 1 + _ABOUT)
    return light != 1 and bool(low <= float(np.nanmedian(batch)) / max(light, 1e-6) <= high)


def _off(batch: np.ndarray, reference: np.ndarray) -> float:
    """Distance of the medians, in interquartile ranges of the normal images."""
    low, middle, high = np.nanquantile(reference, [0.25, 0.5, 0.75])
    return abs(float(np.nanmedian(batch)) - middle) / max(float(high - low), 1e-9)
