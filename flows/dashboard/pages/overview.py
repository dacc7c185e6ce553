"""The page "Overview": is everything as usual? A point for each batch, from what its run wrote down."""

import math
from typing import Any

import pandas as pd
import streamlit as st

from nelbo.detectors import Threshold
from nelbo.flows.dashboard import charts
from nelbo.flows.dashboard.calibrations import known_calibration, warn_if_blind
from nelbo.flows.dashboard.choice import open_batch
from nelbo.flows.dashboard.frames import show_frame
from nelbo.flows.dashboard.links import choose_page
from nelbo.flows.dashboard.style import nothing, say, utc
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.numbers import images, number, percent

_PERIODS = (50, 200, 1000)
_ROWS = 10

#: Published batches with what the run that scored them last wrote down; a killed one may have written nothing.
_BATCHES = """
    SELECT model_id, batch_id, started_at_utc AS scored, n_images, n_scored, n_not_scored, n_anomalous, n_review,
           n_anomalous / nullif(n_scored, 0) AS rate, images_per_s, coalesce(drift, false) AS drift,
           if(drift, 'alarm', '') AS drift_word, drift_tests,
           drift_p_value, calibration_id
    FROM batches LEFT JOIN (
        SELECT DISTINCT ON (model_id, batch_id) * FROM runs WHERE command = 'score'
        ORDER BY model_id, batch_id, started_at_utc DESC
    ) USING (model_id, batch_id)
    ORDER BY scored DESC NULLS LAST, batch_id LIMIT ?
"""

_LAST_RUNS = """
    SELECT DISTINCT ON (command) command, started_at_utc, seconds, batch_id, model_id, code_version FROM runs
    ORDER BY command, started_at_utc DESC
"""


def draw(tables: Tables) -> None:
    """Draw the page."""
    st.title("Overview")
    period = st.segmented_control(
        "Batches on this page",
        _PERIODS,
        default=_PERIODS[1],
        format_func=lambda n: f"last {n:,}",
        required=True,
        key="period",
        bind="query-params",
    )
    batches = tables.query(_BATCHES, [period])
    if batches.empty:
        nothing(
            "No batch is scored yet in this workspace. Train a model on normal images, then score others:",
            "nelbo train --normal good/\nnelbo score new/",
        )
    else:
        counted = _with_chance(tables, batches.dropna(subset="n_scored"))
        _newest(tables, counted)
        _rates(counted)
        _list(batches)
        _drift(counted)
        left, right = st.columns(2)
        with left:
            _throughput(counted)
        with right:
            _failures(tables, counted)
    _last_runs(tables)


def _with_chance(tables: Tables, batches: pd.DataFrame) -> pd.DataFrame:
    """The same with what chance alone makes of each: ``low``, ``high``, ``expected`` as shares, ``chance`` in words.

    ``approximate``: no law promises these shares, for the calibration is of cross-fitting.
    """
    known = {name: known_calibration(tables, name) for name in batches["calibration_id"].dropna().unique()}
    thresholds = {name: calibration.threshold for name, calibration in known.items() if calibration is not None}
    scored = batches[["calibration_id", "n_scored", "n_anomalous"]].itertuples(index=False, name=None)
    rows = [_chance(thresholds.get(name), int(m), int(n_anomalous)) for name, m, n_anomalous in scored]
    chance = pd.DataFrame(rows, batches.index, ["low", "high", "expected", "chance"])
    cross = {name for name, threshold in thresholds.items() if threshold.approximate}
    return batches.join(chance).assign(approximate=batches["calibration_id"].isin(cross))


def _chance(threshold: Threshold | None, m: int, n_anomalous: int) -> tuple[float, float, float, str]:
    alarms = threshold.false_alarms(m) if threshold else None
    if alarms is None or not m:
        return math.nan, math.nan, math.nan, charts.UNPROMISED
    words = charts.WITHIN if alarms.low <= n_anomalous <= alarms.high else charts.ABOVE
    return alarms.low / m, alarms.high / m, alarms.value / m, charts.BELOW if n_anomalous < alarms.low else words


def _newest(tables: Tables, batches: pd.DataFrame) -> None:
    if batches.empty:
        return
    newest = batches.iloc[0]
    text = f"The newest batch, {newest['batch_id']}, has {number(newest['n_anomalous'])} anomalous of "
    text += f"{images(newest['n_scored'])} scored"
    blind = warn_if_blind(tables, newest["model_id"], newest["calibration_id"])
    # That there are no more than chance gives means nothing of a model that cannot see.
    if newest["chance"] == charts.ABOVE or (newest["chance"] != charts.UNPROMISED and not blind):
        low, high = (round(newest[name] * newest["n_scored"]) for name in ("low", "high"))
        likely = "95 %, approximate" if newest["approximate"] else "95 %"
        text += f": {newest['chance']}, which alone makes {low:,} to {high:,} ({likely})"
    say(f"{text}.")


def _rates(batches: pd.DataFrame) -> None:
    n_above = int((batches["chance"] == charts.ABOVE).sum())
    charts.show(
        charts.rates(batches),
        "Share of anomalous images, by batch",
        f"{n_above:,} of {len(batches):,} batches have more than chance alone would make.",
    )
    st.caption(
        "Bars: where the share of false alarms lies in 95 of 100 batches of normal images, as their calibration "
        "promises, and its mean. It counts the chance in the calibration, too."
        + (" Approximate, where that is cross-fitted." if batches["approximate"].any() else "")
    )


def _list(batches: pd.DataFrame) -> None:
    st.header("Batches")
    st.caption("The newest first; choose a row to open the batch.")
    page = choose_page(len(batches), _ROWS, "page")
    rows = batches.iloc[(page - 1) * _ROWS : page * _ROWS]
    columns: dict[str, Any] = {
        "scored": utc("scored"),
        "batch_id": "batch",
        "n_images": st.column_config.NumberColumn("images", format="localized"),
        "n_anomalous": st.column_config.NumberColumn("anomalous", format="localized"),
        "rate": st.column_config.NumberColumn("share", format="percent"),
        "n_review": st.column_config.NumberColumn("for review", format="localized"),
        "n_not_scored": st.column_config.NumberColumn("not scored", format="localized"),
        "drift_word": "drift",
        "model_id": "model",
    }
    shown = show_frame(rows, columns, key=f"batches {page}", alt="Batches, the newest first")
    if chosen := shown["selection"]["rows"]:
        open_batch((rows["model_id"].iloc[chosen[0]], rows["batch_id"].iloc[chosen[0]]))


def _drift(batches: pd.DataFrame) -> None:
    st.header("Drift alarms")
    alarms = batches[batches["drift"]]
    if alarms.empty:
        st.text(f"None in these {len(batches):,} batches.")
        return
    st.text(f"{len(alarms):,} of {len(batches):,} batches were, as a whole, unlike their calibration.")
    columns: dict[str, Any] = {
        "scored": utc("scored"),
        "batch_id": "batch",
        "drift_tests": "by the tests of",
        "drift_p_value": st.column_config.NumberColumn("p (adjusted)", format="%.2g"),
    }
    show_frame(alarms, columns, alt="Drift alarms")


def _throughput(batches: pd.DataFrame) -> None:
    st.header("Throughput")
    median = batches["images_per_s"].median()
    charts.show(charts.throughput(batches), "Images scored a second, by batch", f"The median is {number(median, 3)}.")


def _failures(tables: Tables, batches: pd.DataFrame) -> None:
    st.header("Files without a score")
    some = batches[batches["n_not_scored"] > 0]
    n_files, n_lost = batches["n_images"].sum(), some["n_not_scored"].sum()
    if some.empty:
        st.text(f"None of {number(n_files)} in these {len(batches):,} batches.")
        return
    st.text(f"{number(n_lost)} of {number(n_files)} files ({percent(n_lost / n_files)}).")
    sql = "SELECT reason, count(*) AS n FROM scores WHERE reason IS NOT NULL GROUP BY reason ORDER BY n DESC, reason"
    counts = tables.query(sql, batches=list(some[["model_id", "batch_id"]].itertuples(index=False, name=None)))
    said = ", ".join(f"{row.reason} {row.n:,}" for row in counts.itertuples())
    charts.show(charts.reasons(counts), "Files without a score, by reason", said, height=160)


def _last_runs(tables: Tables) -> None:
    runs = tables.query(_LAST_RUNS)
    if runs.empty:
        return
    st.header("Last run of each command")
    columns: dict[str, Any] = {
        "command": "command",
        "started_at_utc": utc("started"),
        "seconds": st.column_config.NumberColumn("seconds", format="%.1f"),
        "batch_id": "batch",
        "model_id": "model",
        "code_version": "nelbo",
    }
    show_frame(runs, columns, alt="Last runs")
    st.caption("A run that fails leaves no row: Prefect, or the command's own output, says why.")
