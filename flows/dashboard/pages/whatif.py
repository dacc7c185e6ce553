"""The scores of a batch, and what another threshold would make of them. Nothing is written."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import streamlit as st

from nelbo.detectors import Interval, false_alarm_interval
from nelbo.flows.dashboard import charts
from nelbo.flows.dashboard.calibrations import known_calibration, show_promise
from nelbo.flows.dashboard.style import say
from nelbo.flows.dashboard.tables import Batch, Tables
from nelbo.flows.numbers import images, number, percent
from nelbo.flows.workspace.calibrations.calibration import Calibration

_BINS = 60
_STEPS = 500


class Scale(NamedTuple):
    """The axis of scores: from the lowest to where the worst would leave no room for the others."""

    low: float
    high: float

    def bins(self, scores: np.ndarray) -> np.ndarray:
        """Share of the scores in each bin; those beyond an end are counted in the last one there."""
        counts, _ = np.histogram(np.clip(scores, self.low, self.high), self.edges)
        return counts / max(1, len(scores))

    @property
    def edges(self) -> np.ndarray:
        """Of the bins."""
        return np.linspace(self.low, self.high, _BINS + 1)


class Scored(NamedTuple):
    """What there is to say of a batch, whatever threshold is tried.

    n: images with a score.
    threshold: that decided; None without one.
    calibration: None where there is none, or it is gone.
    bins: see `nelbo.flows.dashboard.charts.scores`.
    """

    n: int
    threshold: float | None
    statistic: str
    calibration: Calibration | None
    scale: Scale
    bins: pd.DataFrame


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
    calibration = None if pd.isna(found["calibration_id"]) else known_calibration(tables, found["calibration_id"])
    threshold = None if pd.isna(found["threshold"]) else float(found["threshold"])
    lowest = [found["low"], threshold, calibration.normal_scores[0] if calibration is not None else None]
    low = min(float(score) for score in lowest if score is not None)
    # Where normal ends and anomalous begins fills the plot, however far the worst images lie.
    high = float(found["most"]) if threshold is None else low + 2.5 * (threshold - low)
    scale = Scale(low, high if high > low else low + 1)
    bins = _bins(tables, batch, calibration, scale)
    _try(tables, batch, Scored(int(found["n"]), threshold, found["statistic"], calibration, scale, bins))


@st.fragment
def _try(tables: Tables, batch: Batch, scored: Scored) -> None:
    """A fragment: dragging the threshold draws nothing else anew."""
    low, high = scored.scale
    slot = st.container()
    chosen = st.slider(
        "What if the threshold were",
        low,
        high,
        high if scored.threshold is None else scored.threshold,
        (high - low) / _STEPS,
        format="%.4g",
        key=f"threshold of {batch}, {scored.threshold}",
    )
    with slot:
        review = scored.calibration.threshold.review if scored.calibration is not None else None
        charts.show(
            charts.scores(scored.bins, scored.threshold, review, chosen, scored.statistic),
            "Share of images by anomaly score",
            f"Threshold {number(scored.threshold)}; what if it were {number(chosen)}.",
        )
    sql = (
        "SELECT count(*) FILTER (anomaly_score > ?) AS above, count(*) FILTER (anomaly_score > ?) AS beyond FROM scores"
    )
    n_above, n_beyond = (int(n) for n in tables.query(sql, [chosen, high], [batch]).iloc[0])
    above = f"{number(n_above)} of {number(scored.n)} scored images ({percent(n_above / scored.n)})"
    say(f"Above {number(chosen)}: {above}.{_by_chance(scored.calibration, chosen, scored.n)}")
    show_promise(scored.calibration)
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


def _bins(tables: Tables, batch: Batch, calibration: Calibration | None, scale: Scale) -> pd.DataFrame:
    """``left``, ``right``, share of the ``batch`` and of the ``normal`` images; DuckDB counts the batch."""
    sql = """
        SELECT least(greatest(floor((anomaly_score - ?) / ?), 0), ?)::INT AS bin, count(*) AS n FROM scores
        WHERE anomaly_score IS NOT NULL GROUP BY bin
    """
    width = (scale.high - scale.low) / _BINS
    found = tables.query(sql, [scale.low, width, _BINS - 1], [batch]).set_index("bin")["n"]
    n = found.reindex(range(_BINS), fill_value=0).to_numpy()
    bins = pd.DataFrame({"left": scale.edges[:-1], "right": scale.edges[1:], "n": n, "batch": n / max(1, n.sum())})
    bins["normal"] = scale.bins(calibration.normal_scores) if calibration is not None else np.nan
    return bins
