"""The page "Compare": two models, or two calibrations, on the same batch."""

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from nelbo.detectors import PairedTest
from nelbo.flows.dashboard.calibrations import show_promise
from nelbo.flows.dashboard.choice import choose_batch
from nelbo.flows.dashboard.links import choose_page, show_rows
from nelbo.flows.dashboard.literal import literal
from nelbo.flows.dashboard.style import nothing
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.evaluation.agreement import (
    against_truth,
    agreement,
    differing,
    flagged_shares,
    verdict_counts,
    with_truth,
)
from nelbo.flows.numbers import images, percent
from nelbo.flows.workspace.calibrations.calibration import Calibration, calibrations_of
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import labels_of, latest_reviews

_PAGE_ROWS = 25


def draw(tables: Tables) -> None:
    """Draw the page."""
    st.title("Compare")
    batch = choose_batch(tables)
    if batch is None:
        return
    model_id, batch_id = batch
    found = tables.query("SELECT DISTINCT model_id FROM batches WHERE batch_id = ? ORDER BY model_id", [batch_id])
    # The chosen model's come first.
    models = sorted(found["model_id"], key=lambda other: other != model_id)
    choices = [choice for model in models for choice in calibrations_of(tables.workspace, model)]
    if len(choices) < 2:
        what = "one calibration" if choices else "no calibration"
        nothing(
            f"The models that scored this batch have {what}, and two are needed to compare. Make another, or score "
            "the same images with another model under the same batch id:",
            f"nelbo calibrate --model {model_id} --normal DIR --fpr 0.01\n"
            f"nelbo score DIR --model M --batch-id {batch_id}",
        )
        return
    a, b = _choose(choices)
    if a.calibration_id == b.calibration_id:
        st.info("A and B are the same. Choose another one for either.")
        return
    rows = agreement(tables.workspace, batch_id, a, b)
    if not rows.num_rows:
        st.info("No image of this batch has a score from both models.")
        return
    _agreement(rows)
    _measures(tables.workspace, rows, a, b)
    _differing(rows, model_id, batch_id)


def _choose(choices: list[Calibration]) -> tuple[Calibration, Calibration]:
    """The two to compare; the address keeps them."""
    named = {_name(choice): choice for choice in choices}
    for column, side, first in zip(st.columns(2), "ab", (0, 1), strict=True):
        with column:
            chosen = st.selectbox(side.upper(), list(named), index=first, key=side, bind="query-params")
            show_promise(named[chosen])
    return named[st.session_state["a"]], named[st.session_state["b"]]


def _name(choice: Calibration) -> str:
    return f"{choice.calibration_id} · {choice.statistic.name} · model {choice.model_id}"


def _agreement(rows: pa.Table) -> None:
    counts = verdict_counts(rows)
    n_same = sum(getattr(of_b, word) for word, of_b in counts.items())
    st.header(f"Same verdict on {n_same:,} of {images(rows.num_rows)}")
    table = pd.DataFrame(counts.values(), index=[f"A: {word}" for word in counts])
    st.table(table.rename(columns=lambda word: f"B: {word}").map("{:,}".format))


def _measures(workspace: Workspace, rows: pa.Table, a: Calibration, b: Calibration) -> None:
    """What each flags and, where the truth is known, who is right more often."""
    st.header("Differences")
    labels = "labels"
    if not pc.any(pc.greater_equal(rows["label"], 0)).as_py():
        # What was decided last on each image is its label.
        rows, labels = with_truth(rows, labels_of(latest_reviews(workspace))), "reviews"
    tests = {"flagged (anomalous or for review)": flagged_shares(rows)}
    said = (
        f"No image of this batch has a label or a review, so nobody knows who is right on the {images(rows.num_rows)}."
    )
    try:
        truth = against_truth(rows, workspace, a, b)
    except UsageError as error:
        truth, said = None, f"Not compared with the {labels}: {error}"
    if truth is not None:
        tests |= {
            "false alarms, of normal images": truth.false_alarms,
            "misses, of anomalous images": truth.misses,
            "AUROC": truth.auroc,
        }
        said = f"By the {labels}: {truth.n_normal:,} normal and {truth.n_anomalous:,} anomalous images."
        if truth.n_left_out:
            said += f" {truth.n_left_out:,} others are left out, as a model or calibration was made from them."
        if labels == "reviews":
            said += " People review what was flagged, so these rates are not those of all images."
    shown = {name: _words(test, name == "AUROC") for name, test in tests.items() if test is not None}
    columns = ["A", "B", "A - B (95 % interval)", "p"]
    st.table(pd.DataFrame.from_dict(shown, orient="index", columns=columns))
    st.caption(literal(said))
    st.caption(
        "The same images are judged twice, and only those that tell A and B apart count: shares by McNemar's exact "
        "test, with Bonett and Price's interval, AUROC by DeLong's. Only the verdict anomalous is an alarm."
    )


def _words(test: PairedTest, is_area: bool) -> list[str]:
    unit, times, decimals = ("", 1, 3) if is_area else (" points", 100, 1)
    shares = [f"{one.value:.3f}" if is_area else percent(one.value) for one in (test.a, test.b)]
    difference, low, high = (f"{times * value:.{decimals}f}" for value in test.difference)
    p = "< 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}"
    return [*shares, f"{difference}{unit} [{low}, {high}]", p]


def _differing(rows: pa.Table, model_id: str, batch_id: str) -> None:
    found = differing(rows)
    st.header(f"Different verdicts: {images(found.num_rows)}")
    if not found.num_rows:
        return
    st.caption("Choose a row to open it.")
    page = choose_page(found.num_rows, _PAGE_ROWS, "page")
    # Only a page of them comes into pandas.
    shown = found.slice((page - 1) * _PAGE_ROWS, _PAGE_ROWS).to_pandas().assign(model_id=model_id, batch_id=batch_id)
    columns = {
        "relative_path": "path",
        "verdict_a": "verdict of A",
        "verdict_b": "verdict of B",
        "score_a": "score of A",
        "score_b": "score of B",
    }
    show_rows(shown, f"differing {page}", columns)
