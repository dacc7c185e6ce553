"""The scores of a batch, and what another threshold would make of them. Nothing is written."""

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from nelbo.detectors import Interval, false_alarm_interval
from nelbo.flows.dashboard import charts
from nelbo.flows.dashboard.calibrations import known_calibration, show_promise
from nelbo.flows.dashboard.style import say
from nelbo.flows.dashboard.tables import Batch, Tables
from nelbo.flows.numbers import images, number, percent
from nelbo.flows.report.histogram import Scale
from nelbo.flows.workspace.calibrations.calibration import Calibration

_STEPS = 500


def draw_what_if(tables: Tables, batch: Batch) -> None:
    """Draw the histogram with its slider; nothing where no file has a score."""
    sql = """
        SELECT count(anomaly_score) AS n, min(anomaly_score) AS low, quantile_cont(anomaly_score, 0.97) AS most,
               any_value(threshold) AS threshold, any_value(calibration_id) AS calibration_id,
               any_value(statistic) AS statistic
        FROM scores
    """
    found = tables.query(sql, batches=[batch]).iloc[0]
    if not found["n"]:
        st.info("No file of this batch has a score; the reasons are below.")
        return
    found = found.where(found.notna(), None)
    calibration, threshold = known_calibration(tables, found["calibration_id"]), found["threshold"]
    normal = np.empty(0) if calibration is None else calibration.normal_scores
    low = min([found["low"], *normal[:1], *([] if threshold is None else [threshold])])
    scale = Scale.around(float(low), float(found["most"]), threshold)
    scored = tables.query("SELECT anomaly_score FROM scores WHERE anomaly_score IS NOT NULL", batches=[batch])
    bins = scale.bins(scored["anomaly_score"].to_numpy(), normal)
    _try(tables, batch, found, calibration, scale, bins)


@st.fragment
def _try(
    tables: Tables, batch: Batch, found: Any, calibration: Calibration | None, scale: Scale, bins: pd.DataFrame
) -> None:
    """A fragment: dragging the threshold draws nothing else anew."""
    threshold, n, (low, high) = found["threshold"], int(found["n"]), scale
    slot = st.container()
    chosen = st.slider(
        "What if the threshold were",
        low,
        high,
        high if threshold is None else threshold,
        (high - low) / _STEPS,
        format="%.4g",
        key=f"threshold of {batch}, {threshold}",
    )
    with slot:
        review = calibration.threshold.review if calibration is not None else None
        charts.show(
            charts.scores(bins, threshold, review, chosen, found["statistic"]),
            "Share of images by anomaly score",
            f"Threshold {number(threshold)}; what if it were {number(chosen)}.",
        )
    sql = (
        "SELECT count(*) FILTER (anomaly_score > ?) AS above, count(*) FILTER (anomaly_score > ?) AS beyond FROM scores"
    )
    n_above, n_beyond = (int(found) for found in tables.query(sql, [chosen, high], [batch]).iloc[0])
    above = f"{number(n_above)} of {number(n)} scored images ({percent(n_above / n)})"
    say(f"Above {number(chosen)}: {above}.{_by_chance(calibration, chosen, n)}")
    show_promise(calibration)
    beyond = f" The last bar holds {images(n_beyond)} with scores beyond the axis." if n_beyond else ""
    st.caption(
        "Nothing is written, and a threshold chosen on the batch that it judges promises nothing. One that does: "
        f"nelbo calibrate --normal DIR --fpr RATE.{beyond}"
    )


def _by_chance(calibration: Calibration | None, threshold: float, m: int) -> str:
    if calibration is None:
        return ""
    alarms = false_alarms(calibration.normal_scores, threshold, m)
    likely = "95 %, approximate" if calibration.threshold.approximate else "95 %"
    return (
        " If all were like the calibration images, "
        f"about {number(alarms.value, 3)} would be ({percent(alarms.value / m)}), "
        f"and by chance {alarms.low:,} to {alarms.high:,} ({likely})."
    )


def false_alarms(normal_scores: np.ndarray, threshold: float, m: int) -> Interval:
    """How many of m normal images a threshold calls anomalous: mean and 95 % of what chance makes of it.

    Args:
        normal_scores: (n,) of the calibration.

    >>> false_alarms(np.arange(199.0), 189.0, 100)
    Interval(value=5.0, low=1, high=11)
    """
    return false_alarm_interval(m, len(normal_scores), 1 + int((normal_scores > threshold).sum()))
