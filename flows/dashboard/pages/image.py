"""The page "Image": one scored image, where it is unusual, and what it is compared with."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from nelbo.data.part.frame import STATUSES
from nelbo.flows.dashboard import charts
from nelbo.flows.dashboard.calibrations import known_calibration, show_promise, warn_if_blind
from nelbo.flows.dashboard.links import link, show_rows
from nelbo.flows.dashboard.literal import literal
from nelbo.flows.dashboard.originals import original_of
from nelbo.flows.dashboard.pictures import Row, show, show_heatmap, show_nearest
from nelbo.flows.dashboard.style import palette, utc
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.numbers import number
from nelbo.flows.report.variants import named
from nelbo.flows.workspace.calibrations.calibration import Calibration, normal_rows
from nelbo.flows.workspace.layout import Workspace

_N_NEAREST = 5
_NEAREST_PX = 150
_N_FOUND = 50
_N_HISTORY = 200


def draw(tables: Tables) -> None:
    """Draw the page."""
    st.title("Image")
    row = _asked(tables)
    if row is None:
        _find(tables)
        return
    workspace, path = tables.workspace, row["relative_path"]
    calibration = known_calibration(tables, row["calibration_id"])
    picture = original_of(workspace.scores(row["model_id"], row["batch_id"]), row)
    _facts(row, calibration)
    warn_if_blind(tables, row["model_id"], row["calibration_id"])
    left, middle, right = st.columns(3)
    with left:
        st.markdown("**Original**")
        show(picture, f"original of {path}")
    with middle:
        st.markdown("**Where it is unusual**")
        show_heatmap(tables, row)
    with right:
        st.markdown("**Nearest normal image**")
        show_nearest(tables, row)
    _nearest(workspace, row, calibration)
    _history(tables, row)


def _asked(tables: Tables) -> Row | None:
    """The row that the address names; where several files have the same contents, the one with its path."""
    asked = {name: st.query_params.get(name, "") for name in ("model", "batch", "image", "path")}
    if not asked["image"]:
        return None
    sql = "SELECT * FROM scores WHERE image_id = ? ORDER BY relative_path = ? DESC, relative_path LIMIT 1"
    batch = (asked["model"], asked["batch"])
    found = tables.query(sql, [asked["image"], asked["path"]], [batch])
    if found.empty:
        st.warning("No such image is in the workspace: its batch may have been scored again, or pruned.")
        return None
    # The other pages go on with this batch.
    st.session_state["batch"] = batch
    return found.to_dict("records")[0]


def _find(tables: Tables) -> None:
    words = st.text_input("Find an image by a part of its path, or by its content hash").strip()
    if not words:
        st.info("Type a part of a path, or choose a row on the page Batch.")
        return
    sql = """
        SELECT relative_path, batch_id, verdict, anomaly_score, scored_at_utc, model_id, image_id FROM scores
        WHERE image_id IS NOT NULL AND (contains(lower(relative_path), lower(?)) OR image_id = lower(?))
        ORDER BY scored_at_utc DESC, anomaly_score DESC NULLS LAST, relative_path LIMIT ?
    """
    found = tables.query(sql, [words, words, _N_FOUND])
    if found.empty:
        st.info("No scored image has that in its path.")
        return
    st.caption("Choose a row to open it. " + (f"These {_N_FOUND} were scored last." if len(found) == _N_FOUND else ""))
    columns = {
        "relative_path": "path",
        "batch_id": "batch",
        "verdict": "verdict",
        "anomaly_score": "score",
        "scored_at_utc": utc("scored"),
    }
    show_rows(found, "found", columns)


def _facts(row: Row, calibration: Calibration | None) -> None:
    st.code(row["relative_path"], language=None, wrap_lines=True)
    facts = {
        "Verdict": _word(row["verdict"]).replace("_", " "),
        "Score": number(row["anomaly_score"]),
        "Threshold": number(row["threshold"]),
        "p": number(row["p_value"], 3),
        "q": number(row["q_value"], 3),
        "Width x height": f"{number(row['width_px'])} x {number(row['height_px'])}",
    }
    with st.container(horizontal=True, gap="medium"):
        for name, value in facts.items():
            st.metric(name, value, width="content")
    show_promise(calibration)
    if pd.notna(row["why"]):
        st.write(literal(row["why"]))
    if pd.notna(row["reason"]):
        text = f"Not scored: {row['reason']}."
    else:
        text = (
            f"Distortion {row['distortion_nats']:,.1f} + rate {row['rate_nats']:,.1f} = nelbo {row['nelbo_nats']:,.1f} "
            f"nats. The score is the statistic {row['statistic']}; likelihood {row['likelihood']}."
        )
        if pd.notna(row["part"]):
            text += f" Found: {STATUSES[row['part']]}."
        if words := named(row):
            text += f" It is of {words}."
    st.write(literal(text))
    ids = f"Batch {row['batch_id']} · model {row['model_id']} · calibration {_word(row['calibration_id'])}"
    st.caption(literal(ids))
    if row["verdict"] in ("anomalous", "review"):
        link(row, "review", "Review it")


def _word(value: str | None) -> str:
    return "none" if pd.isna(value) else str(value)


def _nearest(workspace: Workspace, row: Row, calibration: Calibration | None) -> None:
    """What normal images with about this score look like."""
    st.header("Calibration images with the nearest scores")
    score = row["anomaly_score"]
    if calibration is None or pd.isna(score):
        st.info("None: the image has no score, or no calibration.")
        return
    normals = normal_rows(workspace, calibration)
    variant = row["variant"] if row["variant"] in calibration.normal_scores_of else None
    if variant is not None:
        normals = normals.filter(pc.equal(normals["variant"], variant))
    distance = np.abs(normals["anomaly_score"].to_numpy() - score)
    nearest = normals.take(pa.array(np.argsort(distance, kind="stable")[:_N_NEAREST]))
    against = calibration.against(variant)
    n_above = int((against >= score).sum())
    st.caption(
        f"Normal images that p is against: {n_above:,} of {len(against):,} have at least the score of this image."
    )
    manifest = workspace.manifest(calibration.batch_id)
    with st.container(horizontal=True):
        for one in nearest.to_pylist():
            with st.container(width=_NEAREST_PX):
                show(original_of(manifest, one, _NEAREST_PX), f"calibration image {one['relative_path']}")
                st.text(f"{number(one['anomaly_score'])}\n{one['relative_path']}")


def _history(tables: Tables, row: Row) -> None:
    st.header("History of this path")
    sql = """
        SELECT scored_at_utc, batch_id, model_id, verdict, anomaly_score, threshold, statistic, image_id, relative_path,
               image_id = ? AS same_contents
        FROM scores WHERE relative_path = ? ORDER BY scored_at_utc DESC, model_id, batch_id LIMIT ?
    """
    history = tables.query(sql, [row["image_id"], row["relative_path"], _N_HISTORY])
    is_own = (history["model_id"] == row["model_id"]) & (history["statistic"] == row["statistic"])
    own = history[is_own].dropna(subset="anomaly_score")
    if len(own) > 1:
        title = "Score of this path each time this model scored it, and the threshold then"
        charts.show(_chart(own, row["statistic"]), title, "The table below has the same numbers.", height=220)
    columns = {
        "scored_at_utc": utc("scored"),
        "batch_id": "batch",
        "model_id": "model",
        "verdict": "verdict",
        "anomaly_score": "score",
        "threshold": "threshold",
        "statistic": "statistic",
        "same_contents": st.column_config.CheckboxColumn("same contents"),
    }
    show_rows(history, "history", columns)


def _chart(own: pd.DataFrame, statistic: str) -> Any:
    colours = palette()
    times = alt.Chart(own).encode(
        charts.scored_at("scored_at_utc"),
        tooltip=[
            alt.Tooltip("batch_id:N", title="batch"),
            alt.Tooltip("anomaly_score:Q", title="score", format=",.4~g"),
            alt.Tooltip("threshold:Q", title="threshold", format=",.4~g"),
            alt.Tooltip("verdict:N", title="verdict"),
        ],
    )
    scores = times.mark_line(color=colours.batch, point=alt.OverlayMarkDef(color=colours.batch, size=60))
    thresholds = times.mark_tick(color=colours.mark, orient="horizontal", thickness=2, size=24)
    return alt.layer(
        scores.encode(alt.Y("anomaly_score:Q", title=f"anomaly score ({statistic})", scale=alt.Scale(padding=12))),
        thresholds.encode(alt.Y("threshold:Q")),
    )
