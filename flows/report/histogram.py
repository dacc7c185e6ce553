"""A histogram of scores, laid out for drawing as SVG."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.flows.numbers import images, number
from nelbo.flows.report.curves import Axis

WIDTH, HEIGHT = 720, 240
_BINS = 48


class Bar(NamedTuple):
    """A rectangle in SVG units and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    text: str


class Histogram(NamedTuple):
    """Bars of the batch, outline of the calibration scores, places of threshold and review band, ticks on both axes."""

    bars: list[Bar]
    outline: str
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
    low = float(known.min())
    # Where normal ends and anomalous begins fills the plot, however far the worst images lie.
    high = float(np.quantile(known, 0.97)) if threshold is None else low + 2.5 * (threshold - low)
    high = high if high > low else low + 1
    edges = np.linspace(low, high, _BINS + 1)

    def shares(values: NDArray[np.floating]) -> NDArray[np.floating]:
        counts, _ = np.histogram(np.clip(values, low, high), edges)
        return counts / max(1, len(values))

    batch, normal = shares(scores), shares(calibration)
    x = Axis(low, high, 0, WIDTH)
    y = Axis(0, float(max(batch.max(), normal.max(), 1e-9)), HEIGHT, 0)
    step = WIDTH / _BINS
    bars = [
        Bar(i * step, top, step - 1, HEIGHT - top, _describe(edges, i, share, len(scores)))
        for i, (share, top) in enumerate(zip(batch, y.at(batch).tolist(), strict=True))
        if share
    ]
    outline = f"M0,{HEIGHT} " + " ".join(f"V{top:.1f} h{step:.3f}" for top in y.at(normal))
    return Histogram(
        bars,
        outline if len(calibration) else "",
        None if threshold is None else float(x.at(threshold)),
        None if review is None else float(x.at(max(review, low))),
        x.ticks(7),
        [(at, f"{text} %") for at, text in Axis(0, 100 * y.high, HEIGHT, 0).ticks(6)],
        int((scores > high).sum()),
    )


def _describe(edges: NDArray[np.floating], i: int, share: float, n: int) -> str:
    upper = "and above" if i == _BINS - 1 else f"to {number(edges[i + 1])}"
    return f"{number(edges[i])} {upper}: {images(round(share * n))}"
