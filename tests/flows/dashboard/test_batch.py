"""The page Batch: what a batch holds, and what another threshold would change."""
# ruff: noqa: S608 - queries of tests

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from browser import Pages, found, text
from reviewing import review
from scored import ATTACKS, MODEL, START, add_batch, add_calibration, address_of

from nelbo.data import read_table
from nelbo.detectors import Threshold
from nelbo.flows.dashboard import calibrations
from nelbo.flows.dashboard.pages.whatif import false_alarms
from nelbo.flows.numbers import number
from nelbo.flows.workspace.calibrations.calibration import calibrations_of, read_calibration
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import record_review

B2 = {"model": MODEL, "batch": "b2"}


def count(workspace: Workspace, where: str) -> int:
    """Rows of the last batch, as DuckDB counts them itself."""
    sql = f"SELECT count(*) FROM read_parquet(?) WHERE {where}"
    return int(duckdb.execute(sql, [str(workspace.scores(MODEL, "b2"))]).fetchall()[0][0])


def paths(page: Any) -> list[str]:
    """The paths in the table of files."""
    return [text(row.find("td")) for row in page.findall(".//div[@aria-label='Files']/table/tr")[1:]]


def tidy(names: list[str]) -> list[str]:
    return [" ".join(name.split()) for name in names]


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ({"verdict": "anomalous"}, "verdict = 'anomalous'"),
        ({"verdict": ["review", "normal"]}, "verdict IN ('review', 'normal')"),
        ({"reason": "truncated"}, "reason = 'truncated'"),
        ({"p": "0.02"}, "p_value <= 0.02"),
        ({"p": "0.05", "text": "LINE-1"}, "p_value <= 0.05 AND relative_path LIKE 'line-1%'"),
        ({"text": "%"}, "contains(relative_path, '%')"),
        ({"verdict": "normal", "p": "", "reason": "", "variant": "", "text": ""}, "verdict = 'normal'"),
    ],
)
def test_filters_count_what_duckdb_counts(pages: Pages, query: dict[str, Any], where: str) -> None:
    page, n = pages.open("/batch", **B2, **query), count(pages.workspace, where)
    assert 0 < n < 310
    assert f"{n} of 310 images." in text(page)
    assert len(paths(page)) == min(n, 25)
    # The form, the link to the next page and the saved tables keep the filters.
    form = found(page, ".//form[@hx-target='#files']")
    asked = [query["verdict"]] if isinstance(query.get("verdict"), str) else query.get("verdict", [])
    assert [one.attrib["value"] for one in form.iter("input") if "checked" in one.attrib] == sorted(
        asked, key=["anomalous", "review", "normal", "not_scored"].index
    )
    for name in ("p", "text"):
        assert found(form, f".//input[@name='{name}']").attrib["value"] == query.get(name, "")
    link = next(one.attrib["href"] for one in page.iter("a") if one.get("href", "").startswith("/files.csv"))
    assert pages.get(link).text.count(f"{MODEL},b2,") == n


def test_filters_without_a_match_say_so(pages: Pages) -> None:
    page = pages.open("/batch", **B2, text="no such name")
    assert "Nothing matches: widen the filters." in text(page)
    assert "0 of 310 images." in text(page)


@pytest.mark.parametrize(
    ("order", "columns", "rising"),
    [
        ("score", ["anomaly_score"], [False]),
        ("lowest", ["anomaly_score"], [True]),
        ("p", ["p_value", "anomaly_score"], [True, False]),
        ("q", ["q_value", "anomaly_score"], [True, False]),
        ("nelbo", ["nelbo_nats"], [False]),
        ("rate", ["rate_nats"], [False]),
        ("reason", ["reason"], [True]),
        ("path", ["relative_path"], [True]),
    ],
)
def test_files_are_sorted_by_each_column(pages: Pages, order: str, columns: list[str], rising: list[bool]) -> None:
    """Rows without a value come last in either order; ties are sorted by path."""
    rows = read_table(pages.workspace.scores(MODEL, "b2")).to_pandas().astype({"reason": object})
    expected = rows.sort_values([*columns, "relative_path"], ascending=[*rising, True], na_position="last")
    seen = [path for at in (2, 13) for path in paths(pages.open("/batch", **B2, order=order, page=at))]
    names = tidy(expected["relative_path"].tolist())
    assert seen == [*names[25:50], *names[300:]]


def test_the_table_of_files_has_pages(pages: Pages) -> None:
    first, last = (pages.open("/batch", **B2, text="line", page=at) for at in (1, 13))
    assert "Page 1 of 13" in text(first)
    assert "Page 13 of 13" in text(last)
    links = [{one.get("rel"): one.attrib["href"] for one in page.iter("a") if one.get("rel")} for page in (first, last)]
    assert links == [
        {"next": f"/batch?model={MODEL}&batch=b2&text=line&page=2"},
        {"prev": f"/batch?model={MODEL}&batch=b2&text=line&page=12"},
    ]


def test_the_page_sums_up_a_batch(pages: Pages) -> None:
    page = text(pages.open("/batch", **B2))
    anomalous, review = (count(pages.workspace, f"verdict = '{verdict}'") for verdict in ("anomalous", "review"))
    lost = count(pages.workspace, "verdict = 'not_scored'")
    assert f"{anomalous} of {310 - lost} images anomalous, {review} for review; at the promised 5 % about 15 " in page
    assert "The count is more than chance gives" in page
    assert f"anomalous ({anomalous})" in page
    assert f"not scored ({lost})" in page
    assert "Drift: as a whole this batch is unlike its calibration." in page
    quiet = text(pages.open("/batch", model=MODEL, batch="b1"))
    assert "Drift" not in quiet


def test_the_newest_batch_is_shown_by_default(pages: Pages) -> None:
    page = pages.open("/batch")
    assert text(found(page, ".//h1")) == "b2"
    options = found(page, ".//select[@name='chosen']").findall("option")
    assert [text(one) for one in options] == ["b2", "b1", "b0", "without-verdicts", "without-scores"]
    assert ["selected" in one.attrib for one in options] == [True, False, False, False, False]
    assert options[1].attrib["value"] == f"{MODEL} b1"
    # Without a model in the address, a batch of any model is shown.
    assert text(found(pages.open("/batch", batch="b0"), ".//h1")) == "b0"


def test_batches_without_verdicts_or_scores_have_a_page(pages: Pages) -> None:
    page = text(pages.open("/batch", batch="without-verdicts"))
    assert "2 of 2 images scored, without verdicts: the model is not calibrated." in page
    assert "No image of this batch is flagged." in page
    assert "without verdict (2)" in page
    assert "2 of 2 images." in text(pages.open("/batch", batch="without-verdicts", verdict="without verdict"))
    page = text(pages.open("/batch", batch="without-scores"))
    assert "No file of this batch has a score" in page
    assert "not scored (1)" in page


def test_pictures_show_the_most_anomalous_images(pages: Pages, tmp_path: Path) -> None:
    rows = read_table(pages.workspace.scores(MODEL, "b2")).to_pandas()
    flagged = rows[rows["verdict"].isin(["anomalous", "review"])]
    worst = flagged.sort_values(["anomaly_score", "relative_path"], ascending=[False, True])["relative_path"].tolist()
    assert len(worst) > 24
    page = pages.open("/batch", **B2, text="nothing at all")
    links = [one.find("a") for one in page.findall(".//section[@id='pictures']/ul/li")]
    assert [text(one) for one in links] == tidy(worst[:24])
    assert [one.attrib["alt"] for one in found(page, ".//section[@id='pictures']").iter("img")] == worst[:24]
    row = rows[rows["relative_path"] == worst[0]].iloc[0]
    asked = dict(pair.split("=") for pair in links[0].attrib["href"].partition("?")[2].split("&"))
    assert (asked["image"], asked["batch"]) == (row["image_id"], "b2")
    # More are shown on request, and the filters stay.
    (more,) = [one.attrib["href"] for one in page.iter("a") if text(one) == "Show 200"]
    assert "text=nothing+at+all" in more
    assert len(pages.open(more).findall(".//section[@id='pictures']/ul/li")) == min(len(worst), 200)
    workspace = Workspace.at(str(tmp_path))
    add_batch(workspace, "many", [f"{i}.png" for i in range(210)], add_calibration(workspace), shift=20, not_scored=0)
    page = Pages(workspace).open("/batch", batch="many", shown=200)
    assert len(page.findall(".//section[@id='pictures']/ul/li")) == 200
    assert not [one for one in page.iter("a") if text(one) == "Show 200"]


# What if


def tried(pages: Pages, threshold: float | None, batch: str = "b2") -> str:
    if threshold is None:
        return text(found(pages.open("/batch", model=MODEL, batch=batch), ".//p[@class='tried']"))
    page = pages.open("/batch/what-if", model=MODEL, batch=batch, threshold=threshold)
    return text(found(page, ".//p[@class='tried']"))


def test_what_if_counts_and_writes_nothing(pages: Pages) -> None:
    before, rows = folder_hash(pages.workspace), read_table(pages.workspace.scores(MODEL, "b2")).to_pandas()
    scores = rows["anomaly_score"].dropna()
    calibration = read_calibration(pages.workspace, rows["calibration_id"].iloc[0])
    own = calibration.threshold.value
    for threshold in (None, own, 3.0, 4.5, 6.25):
        at = own if threshold is None else threshold
        n = int((scores > at).sum())
        normal = np.asarray(calibration.normal_scores)
        alarms = false_alarms(normal, at, len(scores))
        # Computed independently: each image has the probability (1 + scores above) / (1 + all scores) of normal images.
        assert alarms.value == pytest.approx(len(scores) * (1 + (normal > at).sum()) / (1 + len(normal)))
        said = tried(pages, threshold)
        assert said.startswith(f"Above {number(at)}: {n} of {len(scores)} scored images (")
        assert f"about {number(alarms.value, 3)} would be" in said
        assert f"by chance {alarms.low} to {alarms.high} (95 %)" in said
    assert folder_hash(pages.workspace) == before


def folder_hash(workspace: Workspace) -> str:
    digest = sha256()
    for path in sorted(Path(str(workspace.root)).rglob("*")):
        digest.update(f"{path} {path.stat().st_mtime_ns}".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def test_the_slider_covers_the_range_of_the_scores(pages: Pages) -> None:
    slider = found(pages.open("/batch", **B2), ".//input[@type='range']")
    low, high, step, value = (float(slider.attrib[name]) for name in ("min", "max", "step", "value"))
    rows = read_table(pages.workspace.scores(MODEL, "b2")).to_pandas()
    own = rows["threshold"].dropna().iloc[0]
    assert value == pytest.approx(own)
    assert low < own < high
    assert step == pytest.approx((high - low) / 500)
    # Thresholds beyond its ends are clipped.
    assert tried(pages, 1e300) == tried(pages, high)
    assert tried(pages, -1e300) == tried(pages, low)


def test_what_if_works_without_a_calibration(pages: Pages) -> None:
    low = min(read_table(pages.workspace.scores(MODEL, "without-verdicts"))["anomaly_score"].to_pylist())
    # A threshold of 0 is a threshold, too.
    assert tried(pages, 0, "without-verdicts") == f"Above {number(low)}: 1 of 2 scored images (50 %)."
    assert "may have been pruned" in text(pages.open("/batch/what-if", model=MODEL, batch="gone", threshold=1))


def test_what_if_counts_in_the_same_way_as_the_promise() -> None:
    normal_scores = np.random.default_rng(0).gamma(4, size=199)
    threshold = Threshold.from_normals(normal_scores, fpr=0.05)
    assert false_alarms(normal_scores, threshold.value, 1000) == threshold.false_alarms(1000)
    assert threshold.false_alarms(1000).value == 50
    above_all = false_alarms(normal_scores, 1e9, 1000)
    assert (above_all.value, above_all.low) == (5, 0)
    assert false_alarms(normal_scores, -1e9, 1000) == (1000, 1000, 1000)


def test_the_band_covers_its_nominal_share() -> None:
    random = np.random.default_rng(1)
    inside = []
    for _ in range(4000):
        threshold = Threshold.from_normals(random.random(99), fpr=0.05)
        alarms = threshold.false_alarms(60)
        inside.append(alarms.low <= (random.random(60) > threshold.value).sum() <= alarms.high)
    # The central range of a discrete law covers at least its nominal share; 5 sigma of 4,000 draws are 0.017.
    assert 0.95 - 0.017 < np.mean(inside) < 0.99


# What stands beside a threshold


def test_all_rates_of_cross_fitted_scores_are_approximate(own: Workspace) -> None:
    pages = Pages(own)
    assert "pproximate" not in text(pages.open("/")) + text(pages.open("/batch", model=MODEL, batch="repeat"))
    cross = add_calibration(own, cross=True, seed=11)
    add_batch(own, "cross", [f"{i}.png" for i in range(50)], cross, at=START + timedelta(days=300))
    home = text(pages.open("/"))
    assert "False-alarm rate aimed at: 5 %, about 2.4 to 8.4 % with 199 images" in home
    page = text(pages.open("/batch", model=MODEL, batch="cross"))
    assert "False-alarm rate aimed at: 5 %, about 2.4 to 8.4 % with 199 images" in page
    assert "(95 %, approximate)" in page


@pytest.mark.parametrize("decision", ["anomalous", "normal", "withdrawn"])
def test_chance_explains_no_defect_that_people_know_of(own: Workspace, decision: str) -> None:
    calibration = add_calibration(own, review_fpr=None, seed=5)
    paths = [f"{i}.png" for i in range(100)]
    raised = [i < 4 for i in range(100)]
    rows = add_batch(own, "few", paths, calibration, anomalous=raised, not_scored=0.0, at=START + timedelta(days=300))
    image_id = rows["image_id"][0].as_py()
    for form, decided in enumerate(dict.fromkeys(("anomalous", decision))):
        record_review(own, review(700 + form, image_id=image_id, model_id=MODEL, decision=decided))
    said = text(Pages(own).open("/batch", model=MODEL, batch="few"))
    assert ("The count alone would not tell" in said) == (decision == "anomalous")
    assert ("The count can be chance" in said) == (decision != "anomalous")


def asked(name: str, scores: pd.DataFrame) -> tuple[str, dict[str, str]]:
    query = address_of(scores.iloc[0])
    return name, query if "image" in name else {name: query[name] for name in ("model", "batch")}


@pytest.mark.parametrize("name", ["/image", "/review/image", "/batch", "/"])
def test_the_promise_stands_beside_the_threshold_until_it_is_edited(
    own: Workspace, scores: pd.DataFrame, name: str
) -> None:
    """Holds also for a calibration that a page has shown before."""
    place, query = asked(name, scores) if name != "/" else ("/", {})
    pages, problem = Pages(own), "changed or moved after it was made"
    page = text(pages.open(place, **query))
    promised = "False-alarm rate promised: 5 %, between 2.4 and 8.4 % with 199 images; for review another 10 % of"
    # On Home, the other model's card shows it, too.
    assert page.count(promised) == 1 + (name == "/")
    assert problem not in page
    folder = own.calibrations / scores["calibration_id"].iloc[0]
    said = json.loads((folder / "calibration.json").read_text())
    said["threshold"]["value"] *= 2
    (folder / "calibration.json").write_text(json.dumps(said))
    sums = {file: sha256((folder / file).read_bytes()).hexdigest() for file in ("calibration.json", "scores.parquet")}
    (folder / "checksums.json").write_text(json.dumps(sums))
    page = text(pages.open(place, **query))
    assert problem in page
    assert page.count(promised) == (name == "/")


def test_the_reason_why_it_is_a_candidate_stands_beside_its_threshold(
    own: Workspace, monkeypatch: pytest.MonkeyPatch, scores: pd.DataFrame
) -> None:
    ordinary = next(
        one for one in calibrations_of(own, MODEL) if one.calibration_id == scores["calibration_id"].iloc[0]
    )
    wanting = replace(ordinary, why_not="2 anomalous images with a label <b>")
    for one, n in ((ordinary, 0), (wanting, 1)):
        monkeypatch.setattr(calibrations, "_found", lambda *_, one=one: one)
        page = text(Pages(own).open("/batch", model=MODEL, batch="shift"))
        assert page.count("people use it anyway: 2 anomalous images with a label <b>.") == n


@pytest.mark.parametrize(
    "change",
    [lambda folder: folder.rename(folder.with_name("gone")), lambda folder: (folder / "checksums.json").unlink()],
)
def test_a_missing_or_damaged_calibration_promises_nothing(
    own: Workspace, scores: pd.DataFrame, change: Callable[[Path], Any]
) -> None:
    change(own.calibrations / scores["calibration_id"].iloc[0])
    pages = Pages(own)
    for place in ("/", "/batch", "/review", "/compare"):
        page = text(pages.open(place, **({} if place == "/" else {"model": MODEL, "batch": "shift"})))
        assert "False-alarm rate promised" not in page or place in ("/", "/compare")
    assert ATTACKS[0] in text(pages.open("/batch", model=MODEL, batch="shift"))
    pages.open("/image", **address_of(scores.iloc[0]))
    pages.open("/image/normals", **address_of(scores.iloc[0]))
