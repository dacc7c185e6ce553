"""Figures of a benchmark of quality, kept in a CSV file with a row for each, and their tables."""

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import norm

from benchmarks.table import heads, row
from nelbo.detectors.interval import Interval

#: The measures of maps; every other statistic has scores, and these an AUROC.
PIXEL_AUROC, AUPRO = "pixel AUROC", "AUPRO"
_LEAST = 1e-4
_WIDTH = float(norm.ppf(0.975))
#: Columns that identify an outcome.
_KEY = ("set", "detector", "side", "seed")
_TEXT = ("set", "detector", "date", "statistic", "of")


class Outcome(NamedTuple):
    """The outcome of one detector on one set.

    figures: by statistic (AUROC of its scores, or a measure of maps) and by images: all test images, or a kind.
    fit_s, images_per_s: training, and scoring.
    """

    figures: dict[tuple[str, str], Interval]
    fit_s: float
    images_per_s: float


class Results:
    """A folder with all outcomes so far in one file, and the trained models beside it."""

    def __init__(self, folder: Path, name: str = "quality.csv") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.models = folder / name, folder / "models"

    def of(self, find: Callable[[Path], Outcome], *key: str | int) -> pd.DataFrame:
        """The figures of a set, detector, side and seed: read from the file, or computed and kept now."""
        found = self._kept(key)
        if found.empty:
            outcome = find(self.models)
            facts = dict(zip(_KEY, key, strict=True)) | {"date": date.today().isoformat()}
            facts |= {"training_s": outcome.fit_s, "images_per_s": outcome.images_per_s}
            rows = [
                facts | {"statistic": statistic, "of": of} | interval._asdict()
                for (statistic, of), interval in outcome.figures.items()
            ]
            pd.DataFrame(rows).to_csv(
                self.path, mode="a", header=not self.path.exists(), index=False, float_format="%.4f"
            )
            found = self._kept(key)
        return found

    def _kept(self, key: Sequence[str | int]) -> pd.DataFrame:
        if not self.path.exists():
            return pd.DataFrame()
        kept = read_figures(self.path)
        return kept[(kept[list(_KEY)] == list(key)).all(axis=1)]


def read_figures(path: Path) -> pd.DataFrame:
    """The figures of a CSV file, in its order."""
    return pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False)


def over_seeds(intervals: Sequence[Interval]) -> Interval:
    """The mean over seeds, with the uncertainty of the test images and of the seeds.

    On the logit scale the variance is the mean of those due to the test images, plus the variance over the seeds
    divided by their number.

    >>> one = Interval(0.8, 0.75, 0.85)
    >>> print(over_seeds([one]))
    0.800 [0.744, 0.846]
    >>> wider = over_seeds([one, Interval(0.7, 0.65, 0.75)])
    >>> wider.high - wider.low > 0.1
    True
    """
    # 0 and 1 have no finite logit.
    middles, low, high = logit(np.clip(np.array(intervals).T, _LEAST, 1 - _LEAST))
    widths = (high - low) / (2 * _WIDTH)
    between = middles.var(ddof=1) / len(middles) if len(middles) > 1 else 0.0
    half = _WIDTH * float(np.sqrt(np.mean(widths**2) + between))
    middle = float(np.mean(middles))
    return Interval(*(float(expit(middle + way * half)) for way in (0, -1, 1)))


def joined(figures: pd.DataFrame) -> Interval:
    """One figure, joined over all seeds."""
    return over_seeds([Interval(*row) for row in figures[list(Interval._fields)].itertuples(index=False)])


def tables(name: str, figures: pd.DataFrame) -> list[str]:
    """Markdown tables of one set: AUROC over all and by kind, a row for each detector and statistic; and maps, if any.

    The number of seeds is in brackets; times are those of the fastest seed.
    """
    of_pixels = figures["statistic"].isin([PIXEL_AUROC, AUPRO])
    of_images, of = figures[~of_pixels], list(figures["of"].unique())
    lines = [f"\n### {name}\n", *heads("detector (seeds)", *of, "training, s", "scoring, images/s")]
    for (detector, statistic), found in of_images.groupby(["detector", "statistic"], sort=False):
        cells = [str(joined(found[found["of"] == one])) for one in of]
        times = f"{found['training_s'].min():,.0f}", f"{found['images_per_s'].max():,.0f}"
        lines.append(row(_seeded(detector, statistic, found["seed"].nunique()), *cells, *times))
    if of_pixels.any():
        lines += [f"\n### {name}, by pixel\n", *_pixel_table(figures[of_pixels])]
    return lines


def _pixel_table(figures: pd.DataFrame) -> list[str]:
    """A row for each detector whose maps were compared with masks, a column for each measure."""
    measures = list(dict.fromkeys(zip(figures["statistic"], figures["of"], strict=True)))
    lines = heads("detector", *(title(*measure) for measure in measures))
    for detector, found in figures.groupby("detector", sort=False):
        columns = (found[(found["statistic"] == statistic) & (found["of"] == of)] for statistic, of in measures)
        lines.append(row(str(detector), *(str(joined(one)) for one in columns)))
    return lines


def classes_table(figures: pd.DataFrame) -> list[str]:
    """A Markdown table of sets in each of which another class is normal: AUROC of each, and their mean.

    The least number of seeds of a class is in brackets; a detector without figures of all classes is left out.
    """
    classes = sorted(figures["set"].unique())
    lines = heads("detector (seeds)", "mean", *(name.split()[-1] for name in classes))
    for (detector, statistic), found in figures.groupby(["detector", "statistic"], sort=False):
        seeds = found.groupby("set")["seed"].nunique()
        if len(seeds) < len(classes):
            continue
        values = [joined(found[found["set"] == name]) for name in classes]
        mean = np.mean([interval.value for interval in values])
        half = np.sqrt(sum(((interval.high - interval.low) / 2) ** 2 for interval in values)) / len(values)
        mean_cell = str(Interval(mean, mean - half, mean + half))
        values_cells = (f"{interval.value:.3f}" for interval in values)
        lines.append(row(_seeded(detector, statistic, seeds.min()), mean_cell, *values_cells))
    return lines


def _seeded(detector: str, statistic: str, n_seeds: int) -> str:
    """The name of a row under "detector (seeds)"."""
    return f"{title(detector, statistic)} ({n_seeds})"


def title(name: str, further: str) -> str:
    """The name of a row or column.

    >>> title("size", ""), title("nelbo", "peak"), title("AUPRO", "all")
    ('size', 'nelbo, peak', 'AUPRO')
    """
    return name if further in ("", "all") else f"{name}, {further}"
