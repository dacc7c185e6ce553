"""The page Home: is everything as usual?"""

import re
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from browser import Pages, found, text
from reviewing import review
from scored import ATTACKS, MODEL, OTHER, START, add_batch, add_calibration

from nelbo.data import SIMULATED_SCHEMA, read_table, write_table
from nelbo.detectors import Interval
from nelbo.flows.dashboard.strip import HEIGHT, WIDTH, strip
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.calibrations.calibration import read_calibration
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import record_review


def cards(page: Any) -> list[Any]:
    return list(page.findall(".//article"))


def test_a_card_says_how_the_newest_batch_compares_with_chance(pages: Pages) -> None:
    rows = read_table(pages.workspace.scores(MODEL, "b2")).to_pandas()
    n, k = int(rows["anomaly_score"].notna().sum()), int((rows["verdict"] == "anomalous").sum())
    threshold = read_calibration(pages.workspace, rows["calibration_id"].iloc[0]).threshold
    chance = threshold.false_alarms(n)
    assert k > chance.high
    (card,) = cards(pages.open("/"))
    said = text(card)
    assert f"{k} of {n} images; the band of chance is {chance.low} to {chance.high}: ▲ above the band" in said
    assert re.search(rf"\b{100 * k / n:.2g}\d* % anomalous", said)
    assert "False-alarm rate promised: 5 %" in said
    assert "⚠ Drift: as a whole unlike its calibration" in said
    (batch,) = [one for one in card.iter("a") if text(one) == "b2"]
    assert batch.attrib["href"] == f"/batch?model={MODEL}&batch=b2"
    # The most anomalous image, with a link to its page.
    worst = rows.sort_values(["anomaly_score", "relative_path"], ascending=[False, True]).iloc[0]
    last = found(card, ".//a[@class='last']")
    assert f"image={worst['image_id']}" in last.attrib["href"]
    assert f"last flagged: {' '.join(worst['relative_path'].split())}" in text(last)
    assert found(last, ".//img").attrib["alt"] == worst["relative_path"]


@pytest.mark.parametrize(
    ("n_anomalous", "words"), [(0, "below the band"), (9, "within the band"), (40, "above the band")]
)
def test_the_band_of_chance_is_put_into_words(own: Workspace, n_anomalous: int, words: str) -> None:
    calibration = add_calibration(own, model_id="m2", seed=3)
    low, high = calibration.threshold.false_alarms(200)[1:]
    assert 0 < low < 9 < high < 40
    paths, scored = [f"{i}.png" for i in range(600)], {"model_id": "m2", "anomalous": [i < 300 for i in range(600)]}
    drawn = add_batch(own, "all", paths, calibration, not_scored=[False] * 600, **scored).to_pandas()
    raised = drawn["verdict"] == "anomalous"
    chosen = {*drawn[raised]["relative_path"][:n_anomalous], *drawn[~raised]["relative_path"][: 200 - n_anomalous]}
    # Score 200 of the images again.
    lost, at = [path not in chosen for path in paths], START + timedelta(days=9)
    rows = add_batch(own, "newest", paths, calibration, not_scored=lost, at=at, **scored).to_pandas()
    assert int((rows["verdict"] == "anomalous").sum()) == n_anomalous
    (card,) = [one for one in cards(Pages(own).open("/")) if "Model m2" in text(one)]
    assert f"{n_anomalous} of 200 images; the band of chance is {low} to {high}: " in text(card)
    assert words in text(card)
    assert ("▲" in text(card)) == (words == "above the band")


def test_each_model_has_a_card(own: Workspace) -> None:
    first, second = cards(Pages(own).open("/"))
    assert f"Model {MODEL[:10]}" in text(first)
    assert f"Model {OTHER[:10]}" in text(second)
    assert "shift" in text(first)
    assert "latest" not in text(first) + text(second)
    for name in ("model.json", "checksums.json"):
        (own.models / OTHER / name).write_text("{}")
    pointers.promote(own, OTHER)
    first, second = cards(Pages(own).open("/"))
    assert "latest" in text(second)
    assert "latest" not in text(first)
    # Without a calibration no rate is promised; the last flagged picture is from an earlier batch.
    add_batch(own, "bare", ["a.png"], None, model_id=OTHER, not_scored=0, at=START + timedelta(days=2))
    first, second = cards(Pages(own).open("/"))
    assert "Model m07e400000" in text(first)
    assert "0 of 1 image; no rate is promised" in text(first)
    assert "last flagged: " in text(first)


def test_a_model_that_cannot_see_defects_is_marked(own: Workspace) -> None:
    assert "cannot see" not in text(Pages(own).open("/"))
    clean = [{"image_id": f"{i}", "relative_path": f"{i}.png", "peak": float(i)} for i in range(40)]
    painted = [row | {"kind": "cut_paste", "size_px": 12.0} for row in clean]
    rows = [dict.fromkeys(SIMULATED_SCHEMA.names) | row for row in (*clean, *painted)]
    write_table(pa.Table.from_pylist(rows, SIMULATED_SCHEMA), own.simulated(MODEL), SIMULATED_SCHEMA)
    first, second = (text(card) for card in cards(Pages(own).open("/")))
    assert "cannot see simulated defects" in first
    assert "pieces of the image pasted elsewhere and blurred places, 12 pixels long" in first
    assert "cannot see" not in second


def test_the_strip_draws_the_newest_at_the_right(pages: Pages) -> None:
    (svg,) = [one for one in pages.open("/").iter("svg") if one.get("class") == "strip"]
    links = svg.findall("a")
    assert [re.search("batch=([^&]*)", one.attrib["href"])[1] for one in links] == [  # type: ignore[index]
        *("without-scores", "without-verdicts", "b0", "b1", "b2")
    ]
    assert [one.attrib["aria-label"] for one in links] == [found(one, "title").text for one in links]
    assert links[-1].attrib["aria-label"].endswith("above the band")
    assert found(links[-1], "path").attrib["class"] == "above"
    assert found(links[2], "circle").attrib["class"] == "point"


def test_the_strip_is_drawn_to_scale() -> None:
    rows = [{"batch_id": f"b{i}", "n_scored": 50, "n_anomalous": i} for i in range(4)]
    points = strip([(rows[0], None, ""), (rows[2], Interval(1.0, 0, 4), "within the band"), (rows[3], None, "")])
    assert [point.y for point in points] == [HEIGHT, HEIGHT / 2, HEIGHT / 4]
    assert [point.x for point in points] == [WIDTH - 48, WIDTH - 24, WIDTH]
    assert (points[1].low, points[1].high, points[0].low) == (HEIGHT, 0, None)
    many = strip([(row, None, "") for row in rows * 30])
    assert min(point.x for point in many) == pytest.approx(0)
    # No image is anomalous, or none is scored.
    assert strip([({"batch_id": "b", "n_scored": 0, "n_anomalous": 0}, None, "")])[0].y == HEIGHT
    assert strip([]) == []


def listed(page: Any) -> list[str]:
    return [text(row.findall("td")[1]) for row in page.findall(".//div[@id='batches']//tr")[1:]]


def test_batches_are_listed_as_the_address_asks(pages: Pages) -> None:
    page = pages.open("/")
    assert listed(page) == ["b2", "b1", "b0", "without-verdicts", "without-scores"]
    assert "5 batches" in text(page)
    assert listed(pages.open("/", text="WITHOUT")) == ["without-verdicts", "without-scores"]
    assert listed(pages.open("/", drift="true")) == ["b2"]
    assert listed(pages.open("/", model=MODEL[:3], text="b1")) == ["b1"]
    none = pages.open("/", model=OTHER)
    assert "Nothing matches: widen the filters." in text(none)
    # The field and the links to saved tables keep the filters.
    page = pages.open("/", text='"<b>', drift="true")
    assert found(page, ".//form[@hx-target='#batches']//input[@name='text']").attrib["value"] == '"<b>'
    assert [one.attrib["href"] for one in page.iter("a") if "/batches." in one.get("href", "")] == [
        f"/batches.{kind}?text=%22%3Cb%3E&drift=true" for kind in ("csv", "parquet")
    ]
    rows = [read_table(pages.workspace.scores(MODEL, name)).to_pandas() for name in ("b2", "b1", "b0")]
    cells = [[text(cell) for cell in row] for row in pages.open("/").findall(".//div[@id='batches']//tr")[1:4]]
    for shown, scores in zip(cells, rows, strict=True):
        counts = scores["verdict"].value_counts()
        expected = [len(scores), counts["anomalous"], counts["review"], counts.get("not_scored", 0)]
        assert [int(shown[i]) for i in (2, 3, 5, 6)] == expected
        scored = scores["anomaly_score"].notna().sum()
        assert float(shown[4].rstrip(" %")) == pytest.approx(100 * counts["anomalous"] / scored, rel=0.05)


def test_many_batches_have_pages(own: Workspace) -> None:
    for i in range(21):
        add_batch(own, f"n{i:02d}", ["a.png"], None, not_scored=0, at=START - timedelta(days=i))
    pages, seen = Pages(own), []
    for at in (1, 2):
        page = pages.open("/", page=at, text="n")
        links = {one.get("rel"): one.attrib["href"] for one in page.iter("a") if one.get("rel")}
        assert links == {
            rel: f"/?page={to}&text=n" if to > 1 else "/?text=n"
            for rel, to in (("prev", at - 1), ("next", at + 1))
            if 1 <= to <= 2
        }
        seen += listed(page)
    # The batch "single" is also among them.
    assert [name for name in seen if name != "single"] == [f"n{i:02d}" for i in range(21)]


def test_the_page_is_told_what_is_published(own: Workspace) -> None:
    """The server sends nothing before; a decision and a run are also sent."""
    pages = Pages(own)
    for change in (
        lambda: add_batch(own, "new", [ATTACKS[0]], None, not_scored=0),
        lambda: record_review(own, review(1)),
        lambda: add_calibration(own, seed=77),
        lambda: own.scores(MODEL, "new").unlink(),
    ):
        (poll,) = [one for one in pages.open("/").iter("div") if one.get("hx-get", "").startswith("/live")]
        assert poll.attrib["hx-trigger"] == "every 3s"
        quiet = pages.get(poll.attrib["hx-get"], 204)
        assert "hx-trigger" not in quiet.headers
        assert quiet.content == b""
        change()
        news = pages.get(poll.attrib["hx-get"])
        assert news.headers["hx-trigger"] == "published"
    assert pages.get("/live").headers["hx-trigger"] == "published"


def test_runs_of_each_command_are_listed(pages: Pages) -> None:
    (table,) = pages.open("/").findall(".//div[@aria-label='Last runs']/table")
    rows = [[text(cell) for cell in row] for row in table.findall("tr")[1:]]
    assert [row[0] for row in rows] == ["calibrate", "score"]
    assert rows[1][3] == "b2"
