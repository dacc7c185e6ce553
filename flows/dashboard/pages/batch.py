"""The page "Batch": all files of one batch, and what another threshold would make of them."""
# ruff: noqa: S608 - conditions and orders in SQL are ours; values are bound

from collections.abc import Iterable
from typing import Any

import pandas as pd
import streamlit as st

from nelbo.data import InputError, read_table
from nelbo.flows.dashboard.calibrations import warn_if_blind
from nelbo.flows.dashboard.choice import choose_batch
from nelbo.flows.dashboard.links import choose_page, show_rows
from nelbo.flows.dashboard.pages.whatif import draw_what_if
from nelbo.flows.dashboard.style import say
from nelbo.flows.dashboard.tables import Batch, Tables
from nelbo.flows.evaluation.differences import warning
from nelbo.flows.evaluation.drift import read_drift
from nelbo.flows.numbers import images, number

_ROWS = 25

#: Of rows that were scored without a calibration.
_NO_VERDICT = "without verdict"

#: In this order, as sentences say them.
_VERDICTS = {
    "anomalous": "anomalous",
    "review": "for review",
    "normal": "normal",
    "not_scored": "not scored",
    _NO_VERDICT: _NO_VERDICT,
}

_ORDERS = {
    "score, highest first": "anomaly_score DESC NULLS LAST",
    "score, lowest first": "anomaly_score NULLS LAST",
    "p, lowest first": "p_value NULLS LAST, anomaly_score DESC",
    "q, lowest first": "q_value NULLS LAST, anomaly_score DESC",
    "nelbo, highest first": "nelbo_nats DESC NULLS LAST",
    "rate, highest first": "rate_nats DESC NULLS LAST",
    "reason, then path": "scores.reason NULLS LAST",
    "path": "relative_path",
}


def draw(tables: Tables) -> None:
    """Draw the page."""
    st.title("Batch")
    batch = choose_batch(tables)
    if batch is None:
        return
    counts = _counts(tables, batch)
    _summary(counts)
    warn_if_blind(tables, batch[0], _calibration_of(tables, batch))
    _drift(tables, batch)
    draw_what_if(tables, batch)
    _files(tables, batch, counts)


def _calibration_of(tables: Tables, batch: Batch) -> str | None:
    found = tables.query("SELECT calibration_id FROM scores LIMIT 1", [], [batch])
    return None if found.empty else found["calibration_id"].iloc[0]


def _counts(tables: Tables, batch: Batch) -> pd.DataFrame:
    """``n`` files by ``verdict``, ``reason`` and ``variant``."""
    sql = "SELECT coalesce(verdict, ?) AS verdict, reason, variant, count(*) AS n FROM scores GROUP BY ALL"
    return tables.query(sql, [_NO_VERDICT], [batch])


def _summary(counts: pd.DataFrame) -> None:
    by_verdict = counts.groupby("verdict")["n"].sum().to_dict()
    n = sum(by_verdict.values())
    found = [f"{number(by_verdict[verdict])} {said}" for verdict, said in _VERDICTS.items() if verdict in by_verdict]
    say(f"{images(n)}: {', '.join(found)}.")
    for variant, own in counts.dropna(subset="variant").groupby("variant"):
        flagged = own["n"][own["verdict"].isin(["anomalous", "review"])].sum()
        st.text(f"Variant {variant}: {number(flagged)} of {images(own['n'].sum())} flagged.")


def _drift(tables: Tables, batch: Batch) -> None:
    try:
        drift = read_drift(read_table(tables.workspace.scores(*batch), ["label"]))
    except InputError:
        # Pruned just now: the rest of the page says so.
        return
    if drift and drift["alarm"]:
        st.warning("Drift: as a whole this batch is unlike its calibration.", icon=":material/warning:")
        said = warning(drift.get("differs", []))
        st.text("\n".join([*([said] if said else []), *drift["findings"]]))


@st.fragment
def _files(tables: Tables, batch: Batch, counts: pd.DataFrame) -> None:
    """A fragment: a filter draws nothing else anew."""
    st.header("Files")
    where, values = _filter(counts)
    order = st.selectbox("Order", _ORDERS, key="order", bind="query-params")
    n_all = int(counts["n"].sum())
    n = int(tables.query(f"SELECT count(*) AS n FROM scores WHERE {where}", values, [batch])["n"].iloc[0])
    st.text(f"{number(n)} of {images(n_all)}.")
    if not n:
        st.info("Nothing matches: widen the filters.")
        return
    # Another filter or order begins with its first page.
    page = choose_page(n, _ROWS, f"page of {where} {values} {order}")
    sql = f"""
        SELECT relative_path, coalesce(scores.verdict, '') AS verdict, coalesce(scores.reason, '') AS reason,
               coalesce(scores.why, '') AS why, anomaly_score, p_value, q_value,
               round(nelbo_nats, 1) AS nelbo, round(distortion_nats, 1) AS distortion,
               round(rate_nats, 1) AS rate, model_id, batch_id, image_id
        FROM scores WHERE {where} ORDER BY {_ORDERS[order]}, relative_path LIMIT ? OFFSET ?
    """
    rows = tables.query(sql, [*values, _ROWS, (page - 1) * _ROWS], [batch])
    numbers = ("nelbo", "distortion", "rate")
    columns = {
        "relative_path": "path",
        **{name: name for name in ("verdict", "reason") if rows[name].any()},
        "anomaly_score": st.column_config.NumberColumn("score", format="%.4g"),
        "p_value": st.column_config.NumberColumn("p", format="%.3g"),
        "q_value": st.column_config.NumberColumn("q", format="%.3g"),
        **({"why": st.column_config.TextColumn("why", width="large")} if rows["why"].any() else {}),
        **{name: st.column_config.NumberColumn(f"{name}, nats", format="localized") for name in numbers},
    }
    show_rows(rows, f"files {page}", columns)
    st.caption("Choose a row to open the image. The order above is over all pages; a heading's is within this one.")


def _filter(counts: pd.DataFrame) -> tuple[str, list[Any]]:
    """What the visitor asks for, as what stands after WHERE and the values in it; the address keeps it."""
    first, second, third, fourth = st.columns([3, 3, 2, 3])

    def some_of(place: Any, name: str, known: Iterable[str]) -> Any:
        return place.multiselect(name.title(), known, key=name, bind="query-params", placeholder="any")

    verdicts = some_of(first, "verdict", [word for word in _VERDICTS if word in set(counts["verdict"])])
    reasons = some_of(second, "reason", sorted(counts["reason"].dropna().unique()))
    variants = sorted(counts["variant"].dropna().unique())
    variants = variants and some_of(st, "variant", variants)
    largest = third.number_input("p at most", 0.0, 1.0, 1.0, 0.01, format="%.4f", key="p", bind="query-params")
    text = fourth.text_input("Text in the path", key="text", bind="query-params")
    asked: dict[str, list[Any]] = {
        "list_contains(?, coalesce(verdict, ?))": [verdicts, _NO_VERDICT] if verdicts else [],
        "list_contains(?, reason)": [reasons] if reasons else [],
        "list_contains(?, variant)": [variants] if variants else [],
        "p_value <= ?": [largest] if largest < 1 else [],
        "contains(lower(relative_path), lower(?))": [text] if text else [],
    }
    conditions = ["true", *(condition for condition, values in asked.items() if values)]
    return " AND ".join(conditions), [value for values in asked.values() for value in values]
