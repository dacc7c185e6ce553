"""A histogram of scores, laid out for drawing as SVG."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nelbo.flows.numbers import images, number
from nelbo.flows.report.curves import Axis

WIDTH, HEIGHT = 720, 240
N_BINS = 60


class Scale(NamedTuple):
    """The axis of scores, from the lowest to an end that leaves room for the usual ones."""

    low: float
    high: float

    @classmethod
    def around(cls, low: float, most: float, threshold: float | None) -> "Scale":
        """A scale on which the scores around the threshold fill the plot, however far the worst images lie.

        Args:
            low: the lowest score.
            most: a score above nearly all others; it is the upper end where there is no threshold.
            threshold: None without one.
        """
        high = most if threshold is None else low + 2.5 * (threshold - low)
        return cls(low, high if high > low else low + 1)

    def bins(self, scores: NDArray[np.floating], normal: NDArray[np.floating]) -> pd.DataFrame:
        """Images of a batch (``n``) from ``left`` to ``right``, as shares (``batch``), and shares of ``normal`` ones.

        Scores beyond an end are counted in the last bin there.

        Args:
            scores: (m,) of the batch.
            normal: (n,) of the calibration; may be empty, and then the shares are NaN.
        """
        (n, edges), (n_normal, _) = (np.histogram(np.clip(one, *self), N_BINS, self) for one in (scores, normal))
        shares = {"batch": n / len(scores), "normal": n_normal / (len(normal) or np.nan)}
        return pd.DataFrame({"left": edges[:-1], "right": edges[1:], "n": n, **shares})


class Histogram(NamedTuple):
    """A histogram laid out in SVG units.

    bars: of the batch, each with its left and upper end and its description.
    outline: of the calibration scores; empty without any.
    """

    bars: list[tuple[float, float, str]]
    bar_width: float
    outline: str
    threshold: float | None
    threshold_x: float | None
    review_x: float | None
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    overflow: int


def histogram(
    scores: NDArray[np.floating],
    calibration: NDArray[np.floating],
    threshold: float | None,
    review: float | None = None,
) -> Histogram:
    """Shares of images by score. Scores far beyond the rest are counted in the last bar.

    Args:
        scores: (m,) of the batch.
        calibration: (n,) of normal images; may be empty.
        threshold: drawn where it lies, or None.
        review: lower end of the review band, or None.
    """
    known = np.concatenate([scores, calibration])
    scale = Scale.around(float(known.min()), float(np.quantile(known, 0.97)), threshold)
    bins = scale.bins(scores, calibration)
    x = Axis(*scale, 0, WIDTH)
    y = Axis(0, float(bins[["batch", "normal"]].max().max()), HEIGHT, 0)
    step = WIDTH / N_BINS
    tops = y.at(bins["batch"]).tolist()
    bars = [(i * step, top, _describe(bins.iloc[i])) for i, top in enumerate(tops) if bins["n"][i]]
    outline = f"M0,{HEIGHT} " + " ".join(f"V{top:.1f} h{step:.3f}" for top in y.at(bins["normal"]))
    return Histogram(
        bars,
        step - 1,
        outline if len(calibration) else "",
        threshold,
        None if threshold is None else float(x.at(threshold)),
        None if review is None else float(x.at(max(review, scale.low))),
        x.ticks(7),
        [(at, f"{text} %") for at, text in Axis(0, 100 * y.high, HEIGHT, 0).ticks(6)],
        int((scores > scale.high).sum()),
    )


def _describe(one: "pd.Series[Any]") -> str:
    upper = "and above" if one.name == N_BINS - 1 else f"to {number(one['right'])}"
    return f"{number(one['left'])} {upper}: {images(int(one['n']))}"
