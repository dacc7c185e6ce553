"""Findings, in plain words, on normal images that would spoil training: looked for before and after training."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import CachedPixels, cut_off, is_float, may_have_colour
from nelbo.flows.numbers import images, number, percent
from nelbo.flows.workspace.layout import some
from nelbo.vae_core import LearningCurve

#: Most file names that a finding shows.
_SHOWN = 3
#: Sides may differ by this share: manual cropping does that, and it matters hardly more than where the part lies.
_SAME_SIZE = 0.05
#: Shares of an image's pixels, and of the images, above which clipped values are reported: twice as many images as
#: have such a share by chance, see `nelbo.data.cut_off`.
_CUT_OFF, _CUT_OFF_IMAGES = 0.05, 0.1
#: Most images that are checked for clipped values.
_LOOKED_AT = 2000
#: Interquartile ranges below the lower quartile: "far out" (Tukey 1977), where 1 in 800,000 normal deviates lies.
_FAR_OUT = 3.0
#: How many images that may not be normal are shown to people.
N_STRANGE = 10
#: Gain of twice as many images, divided by the spread of normal images, above which more images help. With solar
#: cells 200 images lie above it, 400 at it and 800 below; the share of real defects found rose up to 200 images and
#: hardly beyond (docs/how-to/data.md).
_STILL_IMPROVING = 0.25
#: Tiles are proposed if the shorter side has more pixels than this; size of the tiles.
_LARGE, _TILE = 1024, 256


@dataclass(frozen=True)
class Finding:
    """Something about normal images that people should know before they trust a model of them.

    name: the kind of finding.
    sentence: for people, with the remedy; it holds file names, which are untrusted text.
    n: number of images that it is about.
    files: the first, or worst, of them.
    """

    name: str
    sentence: str
    n: int
    files: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        named = {"files": list(self.files)} if self.files else {}
        return {"name": self.name, "sentence": self.sentence, "n": self.n, **named}


#: How near-duplicates are treated: as groups; as independent images, because there are too few groups; or as file names
#: or options say.
AlikeAre = Literal["together", "too few", "apart"]


class _Tally:
    """How many images have each value, and the first of them."""

    def __init__(self) -> None:
        self.counts: Counter[Any] = Counter()
        self.first: dict[Any, list[str]] = {}

    def add(self, values: Sequence[Hashable], paths: Sequence[str]) -> None:
        self.counts.update(values)
        for value, path in zip(values, paths, strict=True):
            first = self.first.setdefault(value, [])
            if len(first) < _SHOWN:
                first.append(path)

    def files(self, values: Iterable[Hashable]) -> tuple[str, ...]:
        """The first files of some values."""
        return tuple(path for value in values for path in self.first[value])[:_SHOWN]


def unusable(tables: Iterable[pa.Table]) -> list[Finding]:
    """A finding on the files in a manifest's rows that cannot be used.

    >>> table = pa.table({"relative_path": ["a.png", "b.png"], "reason": [None, "truncated"]})
    >>> unusable([table])[0].sentence
    '1 of 2 files cannot be used (1 truncated; first: b.png). The manifest says why: mend them, or leave them out.'
    """
    tally, n = _Tally(), 0
    for table in tables:
        bad = table.filter(pc.is_valid(table["reason"]))
        tally.add(bad["reason"].to_pylist(), bad["relative_path"].to_pylist())
        n += table.num_rows
    if not tally.counts:
        return []
    n_bad = sum(tally.counts.values())
    files = tally.files(tally.counts)
    why = ", ".join(f"{number(count)} {reason}" for reason, count in tally.counts.most_common())
    said = f"{number(n_bad)} of {number(n)} files cannot be used ({why}; first: {files[0]})"
    return [Finding("unusable", f"{said}. The manifest says why: mend them, or leave them out.", n_bad, files)]


def of_alike(numbers: Sequence[int], paths: Sequence[str], parts: Sequence[str], alike_are: AlikeAre) -> list[Finding]:
    """Findings on near-duplicates: ``alike``; and ``leaks``, on pairs that lie in different parts of a split.

    Args:
        numbers: (n,) number of each image's group, see `data.near_duplicates`.
        paths, parts: (n,) of each image.

    >>> [finding.name for finding in of_alike([0, 0, 1], ["a", "b", "c"], ["train", "validation", "train"], "apart")]
    ['alike', 'leaks']
    """
    sizes, first = Counter(numbers), dict(zip(reversed(numbers), reversed(range(len(numbers))), strict=True))
    alike = [row for row, number in enumerate(numbers) if sizes[number] > 1]
    if not alike:
        return []
    pair = tuple(paths[row] for row in alike if numbers[row] == numbers[alike[0]])[:2]
    text = (
        f"{number(len(alike))} of {images(len(numbers))} look like others among them (first: {', '.join(pair)}): views "
        f"of one part, or copies. They make {number(len(sizes))} groups"
    )
    text += {
        "together": ", each kept on one side of every split; the promise counts groups. If they are independent, say "
        "so with group_alike=false.",
        "too few": ", too few to hold some out, so they count as independent images: on parts other than these, expect "
        "more false alarms than promised. Add images of other parts.",
        "apart": ", but they stay in the groups that their names, or group_alike=false, give.",
    }[alike_are]
    found = [Finding("alike", text, len(alike), pair)]
    leaks = [row for row in alike if parts[first[numbers[row]]] != parts[row]]
    if leaks:
        pair = (paths[first[numbers[leaks[0]]]], paths[leaks[0]])
        text = (
            f"{images(len(leaks))} {'looks' if len(leaks) == 1 else 'look'} like others in another part (first: "
            f"{', '.join(pair)}). A promise made on copies of training images promises too much: leave them out, or "
            "name their groups (--group-by)."
        )
        found.append(Finding("leaks", text, len(leaks), pair))
    return found


def of_files(tables: Iterable[pa.Table], *, whole: bool = True, coloured: bool = True) -> list[Finding]:
    """Findings on images of several sizes, or stored in several ways: ``sizes`` and ``modes``; without unusable files.

    Args:
        tables: rows of a manifest.
        whole: whether whole images are resized to one size, rather than parts that are found in them.
        coloured: whether images that are stored in colour may have any.
    """
    sizes, modes = _Tally(), _Tally()
    for table in tables:
        usable = table.filter(pc.is_null(table["reason"]))
        paths = usable["relative_path"].to_pylist()
        sides = (usable[name].to_pylist() for name in ("width_px", "height_px"))
        sizes.add(list(zip(*sides, strict=True)), paths)
        modes.add([_stored(mode, coloured) for mode in usable["mode"].to_pylist()], paths)
    return (_of_sizes(sizes) if whole else []) + _of_modes(modes)


def _of_sizes(sizes: _Tally) -> list[Finding]:
    if not sizes.counts:
        return []
    n, [(usual, _)] = sum(sizes.counts.values()), sizes.counts.most_common(1)
    others = [size for size in sizes.counts if not _alike(size, usual)]
    n_others = sum(sizes.counts[size] for size in others)
    if not n_others:
        return []
    files = sizes.files(others)
    if 2 * n_others < n:
        said = (
            f"{number(n_others)} of {images(n)} are of another size ({_by(others[0])} pixels; most are {_by(usual)}; "
            f"first: {files[0]})"
        )
    else:
        low, high = (size(sizes.counts, key=lambda sides: sides[0] * sides[1]) for size in (min, max))
        said = f"{images(n)} are of {number(len(sizes.counts))} sizes, from {_by(low)} to {_by(high)} pixels"
    spoils = "All are resized to one size, so some look larger or stretched: crop them alike, train separate models"
    return [Finding("sizes", f"{said}. {spoils}, or leave them out.", n_others, files)]


def _alike(size: Any, usual: Any) -> bool:
    return all(abs(side / other - 1) <= _SAME_SIZE for side, other in zip(size, usual, strict=True))


def _by(size: Any) -> str:
    return " x ".join(map(str, size))


def _of_modes(modes: _Tally) -> list[Finding]:
    if len(modes.counts) < 2:
        return []
    (usual, _), *others = modes.counts.most_common()
    n, n_others = sum(modes.counts.values()), sum(count for _, count in others)
    files = modes.files(mode for mode, _ in others)
    kinds = ", ".join(f"{number(count)} {mode}" for mode, count in others)
    said = f"{number(n_others)} of {images(n)} are stored in another way ({kinds}; most {usual}; first: {files[0]})"
    remedy = "They may come from another camera: store all alike, train separate models, or leave them out."
    return [Finding("modes", f"{said}. {remedy}", n_others, files)]


def _stored(mode: str, coloured: bool) -> str:
    """How an image is stored, in words.

    >>> [_stored(mode, True) for mode in ("L", "RGB", "I;16", "RGB;u16", "F")]
    ['in grey', 'in colour', 'in grey with 16 bits', 'in colour with 16 bits', 'in grey in floats']
    """
    base, _, samples = mode.partition(";")
    deep = " in floats" if is_float(mode) else " with 16 bits" if base == "I" or samples[1:] in ("16", "32") else ""
    return ("in colour" if coloured and may_have_colour(mode) else "in grey") + deep


def of_resolution(table: pa.Table) -> list[Finding]:
    """A finding on images so much larger than a model's input that small defects vanish: ``tile``, with tiles' cost.

    Args:
        table: rows of a manifest, one for each content.

    >>> table = pa.table({"width_px": [4096] * 2, "height_px": [3000] * 2, "reason": pa.nulls(2)})
    >>> of_resolution(table)[0].sentence.partition(": ")[0]
    'Images are about 4,096 x 3,000 pixels and are seen at 256'
    """
    usable = table.filter(pc.is_null(table["reason"]))
    if not usable.num_rows:
        return []
    width, height = (int(np.median(usable[name].to_numpy())) for name in ("width_px", "height_px"))
    if min(width, height) <= _LARGE:
        return []
    step = _TILE - _TILE // 8
    n_tiles = math.prod(1 + math.ceil((side - _TILE) / step) for side in (width, height))
    said = (
        f"Images are about {number(width)} x {number(height)} pixels and are seen at {_TILE}: defects of a few pixels "
        f"are gone. tile={_TILE} sees them at their own resolution, in {number(n_tiles)} tiles an image, each of which "
        "takes the time of an image now."
    )
    return [Finding("tile", said, usable.num_rows)]


def of_pixels(pixels: CachedPixels, table: pa.Table) -> list[Finding]:
    """Findings on clipped values and on blur: ``cut_off`` and ``blur``.

    Args:
        pixels: (n, h, w, c) as the model takes them.
        table: their n rows of a manifest, with ``QUALITY``.
    """
    paths = table["relative_path"].to_pylist()
    return _of_cut_off(pixels, paths) + _of_blur(table["sharpness"].to_numpy(), table["contrast"].to_numpy(), paths)


def _of_cut_off(pixels: CachedPixels, paths: Sequence[str]) -> list[Finding]:
    rows = np.unique(np.linspace(0, len(pixels) - 1, _LOOKED_AT).astype(int))
    # One at a time: together they may not fit in memory.
    shares = np.array([cut_off(pixels[[row]])[0] for row in rows])
    worst = np.argsort(-shares, kind="stable")[: int((shares > _CUT_OFF).sum())]
    if not len(worst) or len(worst) < _CUT_OFF_IMAGES * len(rows):
        return []
    files = tuple(paths[row] for row in rows[worst[:_SHOWN]])
    said = (
        f"In {number(len(worst))} of {images(len(rows))} more than {percent(_CUT_OFF)} of the pixels are cut off at "
        f"black or white (worst: {files[0]})"
    )
    spoils = "No model can see what happens there: expose so that the whole part lies between, or use more bits."
    return [Finding("cut_off", f"{said}. {spoils}", len(worst), files)]


def _of_blur(sharpness: np.ndarray, contrast: np.ndarray, paths: Sequence[str]) -> list[Finding]:
    """Images far less sharp than the rest, by sharpness over contrast, because darker images are less sharp, too."""
    detail = np.log(np.maximum(sharpness, 1e-6) / np.maximum(contrast, 1e-6))
    low, high = np.quantile(detail, [0.25, 0.75])
    order = np.argsort(detail, kind="stable")
    blurred = order[: int((detail < low - _FAR_OUT * (high - low)).sum())]
    if not len(blurred):
        return []
    files = tuple(paths[row] for row in blurred[:_SHOWN])
    verb = "is" if len(blurred) == 1 else "are"
    said = f"{images(len(blurred))} of {number(len(paths))} {verb} far less sharp than the rest (worst: {files[0]})"
    remedy = "If normal images are not like that, leave them out."
    return [Finding("blur", f"{said}. {remedy}", len(blurred), files)]


def of_kinds(kinds: np.ndarray | None, n_variants: int, paths: Sequence[str]) -> list[Finding]:
    """A finding on several kinds of images that seem mixed: ``kinds``.

    Args:
        kinds: (n,) number of each image's kind, 0 for the commonest; None if kinds were not looked for.
        n_variants: number of models, each of one kind or of several.
        paths: (n,) of the images.
    """
    counts = [] if kinds is None else np.bincount(kinds).tolist()
    if kinds is None or len(counts) < 2:
        return []
    sizes = f"{', '.join(map(number, counts[:-1]))} and {number(counts[-1])}"
    rarest = [paths[row] for row in np.flatnonzero(kinds == len(counts) - 1)[:_SHOWN]]
    said = f"{number(len(counts))} kinds of images seem mixed: {sizes} (of the rarest: {some(rarest)})"
    each = len(counts) == n_variants
    done = "Each has a model of its own" if each else "Not all of them have a model of their own"
    remedy = "name the variants (--variant-by), train separate models, or leave out what does not belong"
    return [Finding("kinds", f"{said}. {done}: {remedy}.", sum(counts[1:]), tuple(rarest))]


def of_curve(curve: LearningCurve | None) -> list[Finding]:
    """A finding on too few images, if twice as many would still help much: ``too_few``."""
    if curve is None or not improving(curve):
        return []
    *fewer, most = map(number, curve.n_images)
    said = (
        f"A model of {most} of these images knows the others much better than one of {' or '.join(fewer)}. Twice as "
        f"many would likely bring another {number(curve.next_gain, 2)} nats a feature, where normal images differ by "
        f"{number(curve.spread, 2)}. Add normal images."
    )
    return [Finding("too_few", said, curve.n_images[-1])]


def improving(curve: LearningCurve) -> bool:
    """Whether the gain of twice as many images is not negligible beside the spread of normal images."""
    return _share(curve) > _STILL_IMPROVING


def _share(curve: LearningCurve) -> float:
    return curve.next_gain / max(curve.spread, 1e-9)


def describe_curve(curve: LearningCurve) -> dict[str, Any]:
    """A learning curve as a model keeps it, and its card shows it."""
    return {
        "n_images": list(curve.n_images),
        "nats": [round(value, 4) for value in curve.nats],
        "next_gain": round(curve.next_gain, 4),
        "spread": round(curve.spread, 4),
        "improving": improving(curve),
    }


def strangest(scores: np.ndarray, paths: Sequence[str]) -> tuple[np.ndarray, Finding]:
    """Rows of the images that a model which has not seen them finds strangest, and a finding that asks about them.

    >>> strangest(np.array([1.0, 3.0, 2.0]), ["a", "b", "c"])[0].tolist()
    [1, 2, 0]
    """
    rows = np.argsort(-scores, kind="stable")[:N_STRANGE]
    files = tuple(paths[row] for row in rows)
    shown = some(list(files), _SHOWN)
    said = f"Are these really normal? The {number(len(rows))} strangest of {images(len(scores))}: {shown}."
    return rows, Finding("strange", said, len(rows), files)
