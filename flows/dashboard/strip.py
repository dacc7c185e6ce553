"""The recent batches of a model as a strip of points, each with the band of what chance alone gives."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from nelbo.detectors import Interval
from nelbo.flows.numbers import number, percent

#: Size of the strip in SVG units.
WIDTH, HEIGHT = 360, 90
_MOST_APART = 24


class Point(NamedTuple):
    """A batch, laid out in SVG units: y grows downwards.

    row: of the batch; low, high: ends of its band, None without one.
    words: how the batch compares with its band; said: a description of the point.
    """

    row: dict[str, Any]
    x: float
    y: float
    low: float | None
    high: float | None
    words: str
    said: str


def strip(batches: Sequence[tuple[dict[str, Any], Interval | None, str]]) -> list[Point]:
    """Lay batches out, the oldest left.

    Args:
        batches: each a row with ``n_scored`` and ``n_anomalous``, the interval of false alarms, and how they compare.

    >>> row = {"batch_id": "b1", "n_scored": 100, "n_anomalous": 5}
    >>> (point,) = strip([(row, Interval(5.0, 1, 10), "within the band")])
    >>> point.x, point.y, point.low, point.high, point.said
    (360, 45.0, 81.0, 0.0, 'b1: 5 of 100 anomalous (5 %), within the band')
    """
    shares = [share for row, interval, _ in batches for share in _shares(row, interval)]
    top = max([share for share in shares if share is not None], default=0) or 1
    apart = min(_MOST_APART, WIDTH / max(1, len(batches) - 1))
    points = []
    for place, (row, interval, words) in enumerate(reversed(batches)):
        y, low, high = (None if share is None else HEIGHT * (1 - share / top) for share in _shares(row, interval))
        said = f"{row['batch_id']}: {number(row['n_anomalous'])} of {number(row['n_scored'])} anomalous"
        said += f" ({percent(row['n_anomalous'] / max(1, row['n_scored']))})" + (f", {words}" if words else "")
        points.append(Point(row, WIDTH - place * apart, y or 0.0, low, high, words, said))
    return points[::-1]


def _shares(row: dict[str, Any], interval: Interval | None) -> tuple[float, float | None, float | None]:
    n = max(1, row["n_scored"])
    band = (None, None) if interval is None else (interval.low / n, interval.high / n)
    return row["n_anomalous"] / n, *band
