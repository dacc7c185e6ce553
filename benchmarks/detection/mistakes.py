"""nelbo's mistakes: pictures of the defects that it misses, and of the normal images that it flags.

    python -m benchmarks.detection.mistakes --results DIR --pictures DIR [--mtd DIR] [--sets ELPV MTD]

takes the models of ``quality`` from its DIR, or trains them, and draws two sheets for each set and model: each image
beside the standardised map whose peak is its score, with the outline of the mask where there is one. A twentieth of the
normal test images lie above the threshold. A table says how many defects are missed, by kind.

The owners of these images do not let others publish them: keep the pictures to yourself.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.datasets import Dataset, kinds
from benchmarks.detection.quality import arguments, chosen, detectors, in_results, peaks_and_maps, sets
from benchmarks.detection.results import Results
from benchmarks.table import heads, row
from nelbo.flows.report.heatmap import colours
from nelbo.vae_core import Model

FPR = 0.05
_SETS = ("ELPV", "MTD")
_SEED = 0
_SIDE, _PER_ROW, _N_SHOWN, _CAPTION_PX = 256, 4, 16, 16
#: Standard deviations at the top of the colour scale.
_TOP = 12.0


class Found(NamedTuple):
    """Peaks (n,) and maps (n, h, w) of the test images, and the peak above which a normal one is a false alarm."""

    peaks: np.ndarray
    maps: np.ndarray
    threshold: float


def find(model: Model, data: Dataset) -> Found:
    """Score all test images."""
    peaks, maps = peaks_and_maps(model, data.test)
    return Found(peaks, maps, float(np.quantile(peaks[data.labels == 0], 1 - FPR)))


def missed(data: Dataset, found: Found) -> np.ndarray:
    """Rows of the defects below the threshold, the least conspicuous first."""
    rows = np.flatnonzero((data.labels == 1) & (found.peaks <= found.threshold))
    return rows[np.argsort(found.peaks[rows])]


def flagged(data: Dataset, found: Found) -> np.ndarray:
    """Rows of the normal images above the threshold, the most conspicuous first."""
    rows = np.flatnonzero((data.labels == 0) & (found.peaks > found.threshold))
    return rows[np.argsort(-found.peaks[rows])]


def sheet(data: Dataset, found: Found, rows: np.ndarray) -> Image.Image:
    """Images beside their maps, a few pairs in a row; above each its kind and its peak."""
    shown = rows[:_N_SHOWN]
    n_rows = max(1, -(-len(shown) // _PER_ROW))
    picture = Image.new("RGB", (2 * _SIDE * _PER_ROW, (_SIDE + _CAPTION_PX) * n_rows), "white")
    draw = ImageDraw.Draw(picture)
    for place, index in enumerate(shown):
        down, across = divmod(place, _PER_ROW)
        left, top = 2 * _SIDE * across, (_SIDE + _CAPTION_PX) * down
        caption = f"{data.groups[index]}, {index}: {found.peaks[index]:.1f} ({found.threshold:.1f} is the threshold)"
        draw.text((left + 4, top + 2), caption, fill="black")
        pixels = np.rint(data.test[index].repeat(3, axis=2) * 255).astype(np.uint8)
        pictures = [Image.fromarray(pixels), Image.fromarray(colours(found.maps[index] / _TOP))]
        if data.masks is not None:
            pictures = [outlined(one, data.masks[index]) for one in pictures]
        for i, one in enumerate(pictures):
            picture.paste(one.resize((_SIDE, _SIDE)), (left + i * _SIDE, top + _CAPTION_PX))
    return picture


def outlined(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    """The picture with the edge of the mask (h, w) in green."""
    edge = Image.fromarray(np.uint8(255) * mask).filter(ImageFilter.FIND_EDGES)
    return Image.composite(Image.new("RGB", picture.size, (0, 255, 0)), picture, edge)


def main() -> None:
    """Draw the sheets and print the tables."""
    parser = arguments(str(__doc__))
    parser.add_argument("--pictures", type=Path, metavar="DIR", required=True, help="where the sheets go")
    given = parser.parse_args()
    given.pictures.mkdir(parents=True, exist_ok=True)
    in_results(given, report)


def report(given: argparse.Namespace, results: Results) -> None:
    """Print and draw all sets with each backbone."""
    of_nelbo = chosen(detectors(given.smoke), given.detectors or ["nelbo, features"])
    for set_name, load in chosen(sets(given.mtd, given.smoke), given.sets or _SETS).items():
        for name, detector in of_nelbo.items():
            data = load(detector.side(set_name))
            found = find(detector.run.model(data, _SEED, results.models)[0], data)
            print(f"\n### {set_name}, {name}\n\n" + "\n".join(table(data, found)), flush=True)
            for what, rows in (("missed", missed(data, found)), ("flagged", flagged(data, found))):
                sheet(data, found, rows).save(given.pictures / f"{set_name}, {name}, {what}.png")


def table(data: Dataset, found: Found) -> list[str]:
    """Markdown: how many defects of each kind are missed."""
    lines = heads("defects", "of them missed", "share")
    for name, rows in kinds(data):
        defects = rows & (data.labels == 1)
        n_missed = int((defects & (found.peaks <= found.threshold)).sum())
        lines.append(row(name, f"{n_missed:,} of {defects.sum():,}", f"{n_missed / defects.sum():.0%}"))
    return lines


if __name__ == "__main__":
    main()
