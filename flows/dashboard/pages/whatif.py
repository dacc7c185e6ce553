"""The scores of a batch, and what another threshold would flag. Nothing is written."""

from typing import NamedTuple

import numpy as np
from fastapi import APIRouter, Query, Response

from nelbo.detectors import Interval, false_alarm_interval
from nelbo.flows.dashboard.calibrations import known
from nelbo.flows.dashboard.rendering import page
from nelbo.flows.dashboard.routing import Asked, drawn
from nelbo.flows.dashboard.tables import Batch, Tables
from nelbo.flows.report.histogram import HEIGHT, WIDTH, Histogram, Scale, histogram
from nelbo.flows.workspace.calibrations.calibration import Calibration

router = APIRouter()

_STEPS = 500


class WhatIf(NamedTuple):
    """A threshold that is tried on a batch.

    n, n_above: number of images with a score, and of those above the tried threshold.
    by_chance: how many of `n` normal images would be above it; None without a calibration.
    at: where the tried threshold is drawn, in the histogram's units.
    """

    histogram: Histogram
    plot: tuple[int, int]
    statistic: str
    calibration: Calibration | None
    threshold: float | None
    tried: float
    scale: Scale
    step: float
    n: int
    n_above: int
    by_chance: Interval | None
    at: float


@router.get("/batch/what-if")
@drawn
def tried(tables: Asked, model: str, batch: str, threshold: float = Query(allow_inf_nan=False)) -> Response:
    """Draw the histogram with a threshold that the visitor tries."""
    rows, found = tables.records("SELECT calibration_id FROM scores LIMIT 1", [], [(model, batch)]), None
    if rows:
        judged = known(tables.workspace, model, rows[0]["calibration_id"])
        found = what_if(tables, (model, batch), judged.calibration, threshold)
    return page("whatif.html.j2", "", what_if=found, batch=(model, batch))


def what_if(
    tables: Tables, batch: Batch, calibration: Calibration | None, threshold: float | None = None
) -> WhatIf | None:
    """Try a threshold on a batch, by default its own; None where no file has a score."""
    sql = "SELECT anomaly_score, threshold, statistic FROM scores WHERE anomaly_score IS NOT NULL"
    found = tables.query(sql, [], [batch])
    if found.empty:
        return None
    scores, statistic = found["anomaly_score"].to_numpy(), str(found["statistic"].iloc[0])
    own = None if found["threshold"].isna().all() else float(found["threshold"].dropna().iloc[0])
    normal = np.empty(0) if calibration is None else calibration.normal_scores
    review = None if calibration is None else calibration.threshold.review
    shown = histogram(scores, normal, own, review)
    known_scores = np.concatenate([scores, normal])
    scale = Scale.around(float(known_scores.min()), float(np.quantile(known_scores, 0.97)), own)
    tried = threshold if threshold is not None else own if own is not None else scale.high
    tried = float(np.clip(tried, *scale))
    return WhatIf(
        shown,
        (WIDTH, HEIGHT),
        statistic,
        calibration,
        own,
        tried,
        scale,
        (scale.high - scale.low) / _STEPS,
        len(scores),
        int((scores > tried).sum()),
        None if calibration is None else false_alarms(normal, tried, len(scores)),
        WIDTH * (tried - scale.low) / (scale.high - scale.low),
    )


def false_alarms(normal_scores: np.ndarray, threshold: float, m: int) -> Interval:
    """How many of m normal images a threshold calls anomalous: the mean and the 95 % range of chance.

    Args:
        normal_scores: (n,) of the calibration.

    >>> false_alarms(np.arange(199.0), 189.0, 100)
    Interval(value=5.0, low=1, high=11)
    """
    return false_alarm_interval(m, len(normal_scores), 1 + int((normal_scores > threshold).sum()))
