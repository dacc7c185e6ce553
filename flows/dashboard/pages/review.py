"""The page "Review": people accept or reject what was flagged; each decision is one row of ``reviews``."""

import hashlib
import time
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from nelbo.flows.dashboard.calibrations import known_calibration, show_promise
from nelbo.flows.dashboard.choice import choose_batch
from nelbo.flows.dashboard.frames import show_frame
from nelbo.flows.dashboard.links import link
from nelbo.flows.dashboard.literal import literal
from nelbo.flows.dashboard.originals import original_of
from nelbo.flows.dashboard.pictures import Row, show, show_heatmap, show_nearest
from nelbo.flows.dashboard.style import utc
from nelbo.flows.dashboard.tables import Batch, Tables
from nelbo.flows.numbers import number
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.reviews import MAX_NOTE, MAX_REVIEWER, Review, record_review

#: Decisions that are listed.
_N_DECIDED = 200

#: How decisions are listed.
_COLUMNS: dict[str, Any] = {
    "reviewed_at_utc": utc("decided"),
    "reviewer": "by",
    "decision": "decision",
    "note": "note",
}

#: What the buttons say, and what is decided by each.
_ANSWERS = {"Accept: anomalous": "anomalous", "Reject: normal": "normal", "Skip": None}

#: A click that comes so soon after an image was shown was meant for the one before.
_TOO_SOON_S = 0.5


def draw(tables: Tables) -> None:
    """Draw the page."""
    st.title("Review")
    batch = choose_batch(tables)
    if batch is None:
        return
    n_flagged, n_reviewed = _progress(tables, batch)
    if not n_flagged:
        st.info("Nothing of this batch is flagged, so there is nothing to review.")
        return
    st.progress(n_reviewed / n_flagged, f"{n_reviewed:,} of {n_flagged:,} flagged images reviewed")
    _tell()
    # What the address names, so that a decision can be changed; or what nobody has decided on and is not skipped.
    row = _worst(tables, batch, "image_id = ?", st.query_params.get("image", "")) or _worst(
        tables,
        batch,
        "image_id NOT IN (SELECT image_id FROM reviews) AND NOT list_contains(?::VARCHAR[], image_id)",
        _skipped(),
    )
    if row is None:
        _end(n_flagged - n_reviewed)
    else:
        _image(tables, row)
    _decided(tables, batch)


def _progress(tables: Tables, batch: Batch) -> tuple[int, int]:
    sql = """
        SELECT count(DISTINCT image_id) AS n,
               count(DISTINCT image_id) FILTER (image_id IN (SELECT image_id FROM reviews)) AS n_reviewed
        FROM flagged
    """
    n, n_reviewed = tables.query(sql, [], [batch]).iloc[0]
    return int(n), int(n_reviewed)


def _worst(tables: Tables, batch: Batch, condition: str, value: Any) -> Row | None:
    """The most anomalous of the flagged images that a condition holds of."""
    sql = f"""
        SELECT * EXCLUDE (map, thumbnail, heatmap_png) FROM flagged
        WHERE {condition} ORDER BY anomaly_score DESC, relative_path LIMIT 1
    """  # noqa: S608 - the condition is ours; its value is bound
    rows = tables.query(sql, [value], [batch])
    return None if rows.empty else rows.to_dict("records")[0]


def _skipped() -> list[str]:
    """Content hashes of the images that this visitor has put off."""
    skipped: list[str] = st.session_state.setdefault("skipped", [])
    return skipped


def _end(n_left: int) -> None:
    if not n_left:
        st.success("Every flagged image of this batch is reviewed.")
        return
    st.info(f"{n_left:,} skipped, and no other is left.")
    st.button("Show them again", on_click=_skipped().clear)


def _image(tables: Tables, row: Row) -> None:
    """One image, what was decided on it before, and the form."""
    st.code(row["relative_path"], language=None, wrap_lines=True)
    st.caption(
        f"{row['verdict']}, score {number(row['anomaly_score'])} with the threshold at {number(row['threshold'])}, "
        f"p {number(row['p_value'], 3)}, q {number(row['q_value'], 3)}"
    )
    show_promise(known_calibration(tables, row["calibration_id"]))
    if pd.notna(row["why"]):
        st.write(literal(row["why"]))
    link(row, "image", "All about this image")
    picture = original_of(tables.workspace.scores(row["model_id"], row["batch_id"]), row)
    left, right = st.columns(2)
    with left:
        show_heatmap(tables, row)
        st.markdown("**Nearest normal image**")
        show_nearest(tables, row)
    with right:
        show(picture, f"original of {row['relative_path']}")
        _question(tables, row)


def _question(tables: Tables, row: Row) -> None:
    """What was decided on an image before, and the form for a new decision: name, note, and three buttons."""
    sql = """
        SELECT review_id, reviewed_at_utc, reviewer, decision, note FROM decisions
        WHERE image_id = ? ORDER BY reviewed_at_utc, review_id
    """
    before = tables.query(sql, [row["image_id"]])
    # The id of the last decision on the image, which a new one answers.
    last = ""
    if not before.empty:
        last = before["review_id"].iloc[-1]
        st.warning("This image has been decided on before. A new decision will count, and the earlier ones stay.")
        show_frame(before, _COLUMNS)
    question = f"{row['image_id']} {last}"
    if st.session_state.get("question") != question:
        st.session_state.update(question=question, asked_at=time.monotonic())
    st.session_state["reviewer field"] = st.session_state.get("reviewer", "")
    with st.form(f"review {question}", enter_to_submit=False):
        st.text_input("Your name", key="reviewer field", max_chars=MAX_REVIEWER, autocomplete="name")
        st.text_area("Note (may stay empty)", key=f"note {question}", max_chars=MAX_NOTE, height=80)
        with st.container(horizontal=True):
            for label, decision in _ANSWERS.items():
                st.form_submit_button(label, on_click=_answer, args=(tables, row, last, decision))


def _answer(tables: Tables, row: Row, last: str, decision: str | None) -> None:
    """What a button of the form does."""
    st.session_state["reviewer"] = st.session_state["reviewer field"].strip()
    question = f"{row['image_id']} {last}"
    if question == st.session_state["question"] and time.monotonic() - st.session_state["asked_at"] < _TOO_SOON_S:
        return
    if decision is None:
        _skipped().append(row["image_id"])
    elif not _record(tables, row, last, decision, st.session_state[f"note {question}"]):
        return
    st.query_params.pop("image", None)


def _record(tables: Tables, row: Row, last: str, decision: str, note: str) -> bool:
    """Keep a decision; whether it is kept, now or already."""
    reviewer = st.session_state["reviewer"]
    if not reviewer:
        st.session_state["told"] = "error", "Enter your name: a decision is kept with who made it."
        return False
    # One answer of a person to a question is one review, however often and in how many tabs it is sent.
    review_id = "v" + hashlib.sha256("\0".join([row["image_id"], last, reviewer]).encode()).hexdigest()[:32]
    try:
        review = Review(
            review_id=review_id,
            reviewer=reviewer,
            decision=decision,
            note=note.strip(),
            **{name: row[name] for name in ("image_id", "relative_path", "model_id", "batch_id", "anomaly_score")},
            calibration_id=row["calibration_id"],
            verdict=row["verdict"],
        )
        is_new = record_review(tables.workspace, review)
    except (UsageError, OSError) as error:
        st.session_state["told"] = "error", f"Not kept: {error}"
        return False
    # Sent twice, or from another tab: what was sent first is there.
    found = tables.query("SELECT decision FROM decisions WHERE review_id = ?", [review_id])
    kept = decision if is_new else found["decision"].iloc[0]
    if kept == decision:
        st.session_state["told"] = "success", f"Kept as {kept}, by {reviewer}: {row['relative_path']}"
    else:
        said = f"{reviewer} has decided already that this is {kept}; choose it below to decide anew"
        st.session_state["told"] = "warning", f"{said}: {row['relative_path']}"
    return True


def _tell() -> None:
    """What came of the last click, once."""
    kind, text = st.session_state.pop("told", (None, ""))
    if kind is not None:
        {"success": st.success, "warning": st.warning, "error": st.error}[kind](literal(text))


def _decided(tables: Tables, batch: Batch) -> None:
    """The last decisions on images of this batch; a chosen one can be changed."""
    sql = """
        SELECT reviewed_at_utc, reviewer, decision, note, relative_path, image_id
        FROM (SELECT image_id, min(relative_path) AS relative_path FROM flagged GROUP BY image_id)
        JOIN (SELECT * EXCLUDE relative_path FROM reviews) USING (image_id)
        QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY reviewed_at_utc DESC, review_id DESC) = 1
        ORDER BY reviewed_at_utc DESC, image_id LIMIT ?
    """
    decided = tables.query(sql, [_N_DECIDED], [batch])
    if decided.empty:
        return
    st.header("Decided")
    st.caption(
        "Choose a row to decide anew: of two decisions on an image the last one counts, and both stay. "
        "`nelbo calibrate --labels reviews` makes a threshold from them; scores stay as they are."
    )
    # Another table after each decision: with none of its rows chosen.
    key = f"decided {decided['reviewed_at_utc'].iloc[0]}"
    again = partial(_ask_again, decided, key)
    show_frame(decided, {"relative_path": "path", **_COLUMNS}, key=key, on_select=again)


def _ask_again(decided: pd.DataFrame, key: str) -> None:
    st.query_params.pop("image", None)
    for index in st.session_state[key]["selection"]["rows"]:
        st.query_params["image"] = decided["image_id"].iloc[index]
