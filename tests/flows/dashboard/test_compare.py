"""The page Compare: two models, or two calibrations, on the same batch."""
# ruff: noqa: S608 - queries of tests

import json
from dataclasses import replace
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
import reviewing
from browser import Pages, found, text
from scored import MODEL, OTHER
from sklearn.metrics import roc_auc_score

from nelbo.data import read_table
from nelbo.flows.evaluation.agreement import against_truth, agreement, with_truth
from nelbo.flows.workspace.calibrations.calibration import calibrations_of
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import record_review

WORDS = ["normal", "review", "anomalous"]


def table(page: Any, label: str) -> list[list[str]]:
    """The cells of a table, without its headings."""
    rows = found(page, f".//div[@aria-label='{label}']/table").findall("tr")[1:]
    return [[text(cell) for cell in row.findall("td")] for row in rows]


def chosen(page: Any) -> list[str]:
    return [found(page, f".//select[@name='{side}']/option[@selected]").attrib["value"] for side in ("a", "b")]


def test_counts_are_what_duckdb_counts(looks: Pages, scores: pd.DataFrame) -> None:
    page = looks.open("/compare", model=MODEL, batch="shift")
    contents = [
        json.loads((looks.workspace.calibrations / side / "calibration.json").read_text()) for side in chosen(page)
    ]
    thresholds = [one["threshold"] for one in contents]
    word = "CASE WHEN anomaly_score > ? THEN 'anomalous' WHEN anomaly_score > ? THEN 'review' ELSE 'normal' END"
    ends = [one[end] or one["value"] for one in thresholds for end in ("value", "review")]
    sql = f"SELECT {word}, {word}, count(*) FROM read_parquet(?) GROUP BY ALL"
    pairs = duckdb.sql(sql, params=[*ends, str(looks.workspace.scores(MODEL, "shift"))]).fetchall()
    expected = {(a, b): n for a, b, n in pairs}
    counts = [[int(cell) for cell in cells] for cells in table(page, "Verdicts")]
    assert counts == [[expected.get((a, b), 0) for b in WORDS] for a in WORDS]
    n_same = sum(n for (a, b), n in expected.items() if a == b)
    assert 0 < n_same < 40
    assert f"Same verdict on {n_same} of 40 images" in text(page)
    assert f"Different verdicts: {40 - n_same} image" in text(page)
    assert len(table(page, "Different verdicts")) == min(25, 40 - n_same)
    _, alarms, misses, area = table(page, "Differences")
    normal = scores["label"] == 0
    for column, threshold in enumerate(thresholds):
        raised = scores["anomaly_score"] > threshold["value"]
        assert float(alarms[column].rstrip(" %")) == pytest.approx(100 * raised[normal].mean(), rel=1e-2)
        assert float(misses[column].rstrip(" %")) == pytest.approx(100 * (~raised[~normal]).mean(), rel=1e-2)
    assert area[2].startswith("0.000 ")


def test_sides_are_chosen_by_the_address(looks: Pages) -> None:
    page = looks.open("/compare", model=MODEL, batch="repeat")
    options = [one.attrib["value"] for one in page.findall(".//select[@name='a']/option")]
    assert len(options) == 3
    assert chosen(page) == options[:2]
    turned = looks.open("/compare", model=MODEL, batch="repeat", a=options[1], b=options[0])
    assert chosen(turned) == options[1::-1]
    assert table(turned, "Verdicts") == [list(column) for column in zip(*table(page, "Verdicts"), strict=True)]
    same = text(looks.open("/compare", model=MODEL, batch="repeat", a=options[0], b=options[0]))
    assert "A and B are the same. Choose another one for either." in same
    # A name that is not a calibration of this batch is ignored.
    assert chosen(looks.open("/compare", model=MODEL, batch="repeat", a="../x", b="*")) == options[:2]
    for side in ("A", "B"):
        assert f"{side} " in text(page)
    assert text(page).count("False-alarm rate promised") == 2


def test_two_models_are_compared_by_reviews_where_there_are_no_labels(own: Workspace, scores: pd.DataFrame) -> None:
    ours, theirs = (read_table(own.scores(model_id, "repeat")).to_pandas() for model_id in (MODEL, OTHER))
    both = ours.merge(theirs, on="image_id", suffixes=("_a", "_b"))
    sides = {"a": ours["calibration_id"][0], "b": theirs["calibration_id"][0]}
    pages = Pages(own)
    assert "No image of this batch has a label or a review" in text(
        pages.open("/compare", model=MODEL, batch="repeat", **sides)
    )
    for number, image_id in enumerate(scores["image_id"].iloc[[0, -1]]):
        record_review(own, reviewing.review(number, image_id=image_id, decision=("anomalous", "normal")[number]))
    page = pages.open("/compare", model=MODEL, batch="repeat", **sides)
    counts = [[int(cell) for cell in cells] for cells in table(page, "Verdicts")]
    expected = pd.crosstab(both["verdict_a"], both["verdict_b"])
    assert counts == expected.reindex(index=WORDS, columns=WORDS, fill_value=0).to_numpy().tolist()
    assert sum(map(sum, counts)) == 40
    assert "By the reviews: 1 normal and 1 anomalous images" in text(page)
    differ = both[both["verdict_a"].astype(str) != both["verdict_b"].astype(str)]
    assert f"Different verdicts: {len(differ)} images" in text(page)


def test_one_calibration_alone_is_not_compared(looks: Pages) -> None:
    page = looks.open("/compare", model=OTHER, batch="single")
    assert text(found(page, ".//pre")).startswith(f"nelbo calibrate --model {OTHER}")
    assert not page.findall(".//table")


def test_calibrations_are_judged_on_images_that_neither_has_seen(two_models: Workspace, scores: pd.DataFrame) -> None:
    b, a = calibrations_of(two_models, MODEL)
    a, b = (b, a) if b.threshold.review is None else (a, b)
    seen = scores["image_id"].iloc[[0, -1]]
    a = replace(a, image_ids=pa.array(seen))
    rows = agreement(two_models, "shift", a, b)
    judged = against_truth(rows, two_models, a, b)
    assert judged is not None
    left = scores[~scores["image_id"].isin(seen)]
    assert (judged.n_normal, judged.n_anomalous) == tuple((left["label"] == label).sum() for label in (0, 1))
    assert judged.n_left_out == 2
    assert judged.auroc is not None
    assert judged.auroc.a.value == roc_auc_score(left["label"], left["anomaly_score"])
    # Where there are no labels, a few reviews give the truth.
    truth = {left["image_id"].iloc[0]: 1, left["image_id"].iloc[-1]: 0}
    reviewed = against_truth(with_truth(rows, truth), two_models, a, b)
    assert reviewed is not None
    assert (reviewed.n_normal, reviewed.n_anomalous, reviewed.auroc) == (1, 1, None)
    assert against_truth(with_truth(rows, {}), two_models, a, b) is None
