"""Measures of each kind of defect compare its images with all normal ones."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from nelbo.data import EVALUATION_SCHEMA
from nelbo.detectors import aupro, binomial_interval, pixel_auroc
from nelbo.detectors.metrics.localised import PixelCounts
from nelbo.flows.evaluation.by_kind import (
    MOST_KINDS,
    Counted,
    as_table,
    by_size,
    measures_of_images,
    measures_of_pixels,
)


def scored(random: np.random.Generator, kinds: list[str | None]) -> pa.Table:
    labels = np.array([kind is not None for kind in kinds], np.int8)
    scores = random.normal(size=len(kinds)) + labels
    words = np.where(scores > 1, "anomalous", "normal")
    return pa.table({"label": labels, "anomaly_score": scores, "verdict": words})


def found(rows: list[dict[str, Any]], kind: str | None, measure: str) -> dict[str, Any]:
    (row,) = (row for row in rows if (row["kind"], row["measure"], row["area_from_px"]) == (kind, measure, None))
    return row


def test_a_kind_is_compared_with_all_normal_images(random: np.random.Generator) -> None:
    kinds: list[str | None] = [None] * 30 + ["crack"] * 10 + ["hole"] * 5 + [""] * 3
    table = scored(random, kinds)
    rows = measures_of_images(table, kinds, 0.05)
    labels, scores, flagged = (
        table["label"].to_numpy(),
        table["anomaly_score"].to_numpy(),
        table["verdict"].to_numpy() == "anomalous",
    )
    for kind, some in ((None, np.arange(48)), ("crack", np.arange(40)), ("hole", np.r_[0:30, 40:45])):
        area = found(rows, kind, "auroc")
        assert area["value"] == pytest.approx(roc_auc_score(labels[some], scores[some]))
        assert (area["n_normal"], area["n_anomalous"]) == (30, len(some) - 30)
        assert area["low"] < area["value"] < area["high"]
        precision = found(rows, kind, "average_precision")["value"]
        assert precision == pytest.approx(average_precision_score(labels[some], scores[some]))
        assert found(rows, kind, "f1")["value"] == pytest.approx(f1_score(labels[some], flagged[some]))
        hits = int(flagged[some][labels[some] == 1].sum())
        recall = found(rows, kind, "recall")
        assert (recall["value"], recall["low"], recall["high"]) == tuple(binomial_interval(hits, len(some) - 30))
    assert found(rows, None, "realised_fpr")["value"] == flagged[:30].mean()
    assert pa.Table.from_pylist(rows, EVALUATION_SCHEMA).num_rows == len(rows) == 13


def test_without_normals_or_verdicts_there_are_fewer_measures(random: np.random.Generator) -> None:
    kinds: list[str | None] = ["crack", "crack"]
    (only,) = measures_of_images(scored(random, kinds), kinds, None)
    assert (only["measure"], only["kind"]) == ("recall", None)
    unjudged = scored(random, [None, None, "a", "b"]).set_column(2, "verdict", pa.nulls(4, pa.string()))
    rows = measures_of_images(unjudged, [None, None, "a", "b"], None)
    assert {row["measure"] for row in rows} == {"auroc", "average_precision"}
    assert {row["kind"] for row in rows} == {None, "a", "b"}


def test_too_many_folders_are_not_taken_for_kinds(random: np.random.Generator) -> None:
    kinds: list[str | None] = [None, None, *(f"part-{number}" for number in range(MOST_KINDS + 1))]
    assert {row["kind"] for row in measures_of_images(scored(random, kinds), kinds, None)} == {None}


def test_pixels_and_regions_by_kind_and_by_size(random: np.random.Generator) -> None:
    kinds: list[str | None] = [None, None, "crack", "hole"]
    masks = [np.zeros((150, 120), bool) for _ in kinds]
    masks[2][5:7, 5:20] = True  # 30 pixels
    masks[3][20:60, 20:70] = True  # 2,000 pixels, not seen
    masks[3][100, 100] = True
    maps = [
        random.normal(size=mask.shape) + (10 * mask if kind == "crack" else 0)
        for mask, kind in zip(masks, kinds, strict=True)
    ]
    counts = PixelCounts(np.stack(maps))
    for mask, values in zip(masks, maps, strict=True):
        counts.add(mask, values)
    rows = measures_of_pixels(Counted(counts, kinds))
    for kind, some in ((None, [0, 1, 2, 3]), ("crack", [0, 1, 2]), ("hole", [0, 1, 3])):
        own = [masks[row] for row in some], [maps[row] for row in some]
        assert found(rows, kind, "pixel_auroc")["value"] == pytest.approx(
            pixel_auroc(*own, n_resamples=1).value, abs=1e-3
        )
        for name, end in (("aupro_30", 0.3), ("aupro_05", 0.05)):
            assert found(rows, kind, name)["value"] == pytest.approx(aupro(*own, end, n_resamples=1).value, abs=1e-3)
    assert found(rows, "crack", "region_recall")["value"] == 1
    assert found(rows, "hole", "region_recall")["n_regions"] == 2
    sized = {row["area_from_px"]: (row["area_to_px"], row["n_regions"]) for row in rows if row["area_from_px"]}
    assert sized == {1: (100, 2), 1000: (10_000, 1)}
    assert [line[:2] for line in by_size(rows)] == [
        ["pixels of a region", "regions"],
        ["1 to 99", "2"],
        ["1,000 to 9,999", "1"],
    ]
    head, *lines = as_table(rows)
    assert head == ["kind", "images", "pixel AUROC", "AUPRO to .3", "AUPRO to .05", "regions found"]
    assert [line[:2] for line in lines] == [["all defects", "2"], ["crack", "1"], ["hole", "1"]]
    assert (as_table([]), by_size([])) == ([], [])


def test_without_normal_pixels_nothing_is_said_of_pixels() -> None:
    counts = PixelCounts([0.0, 1.0])
    counts.add(np.ones((4, 4)), np.ones((4, 4)))
    assert measures_of_pixels(Counted(counts, ["crack"])) == []
