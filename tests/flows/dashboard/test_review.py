"""The page Review: which images await a decision, and what becomes of it."""

import json
import threading
import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browser import Pages, found, parsed, text
from reviewing import review
from scored import MODEL, OTHER, add_batch, add_calibration, address_of

from nelbo.data import read_table
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import latest_reviews, record_review

SHIFT = {"model": MODEL, "batch": "shift"}


def queue(page: Any) -> list[dict[str, str]]:
    return list(json.loads(found(page, ".//script[@id='queue']").text or ""))


def images(page: Any) -> list[str]:
    return [item["image"] for item in queue(page)]


def said(row: pd.Series, **changes: Any) -> dict[str, Any]:
    """What the page sends when a reviewer decides on a row."""
    decided = {
        "review_id": f"v{uuid.uuid4().hex}",
        "decision": "anomalous",
        "reviewer": "Ann",
        "note": "",
        "kind": None,
    }
    return {**address_of(row), **decided, **changes}


def post(pages: Pages, status: int = 200, /, headers: dict[str, str] | None = None, **content: Any) -> dict[str, Any]:
    answer = pages.ask("POST", "/reviews", json=content, headers=headers)
    assert answer.status_code == status, answer.text
    return dict(answer.json()) if answer.headers["content-type"] == "application/json" else {}


def kept(pages: Pages) -> list[dict[str, Any]]:
    return list(catalog.all_rows(pages.workspace, "reviews").to_pylist())


# The queue


def test_the_queue_begins_with_the_worst(looks: Pages, scores: pd.DataFrame) -> None:
    """Then come images near the threshold on either side, then the audit sample, in an order that reveals nothing."""
    near, sample = (
        read_table(getattr(looks.workspace, kind)(MODEL, "shift"))["image_id"].to_pylist() for kind in ("near", "audit")
    )
    by_p = scores.sort_values(["p_value", "anomaly_score"], ascending=[True, False])
    worst = by_p[by_p["verdict"] == "anomalous"]["image_id"].tolist()
    is_near = (by_p["verdict"] == "review") | (by_p["image_id"].isin(near) & ~by_p["image_id"].isin(sample))
    items = queue(looks.open("/review", **SHIFT))
    reasons = [item["why"] for item in items]
    assert reasons == sorted(reasons, key=["worst", "threshold", "sample"].index)
    groups = {why: [item["image"] for item in items if item["why"] == why] for why in dict.fromkeys(reasons)}
    assert groups["worst"] == worst
    assert groups["threshold"] == by_p[is_near]["image_id"].tolist()
    assert sorted(groups["sample"]) == sorted(sample)
    assert len(sample) == 4
    # The order is the same each time, so that undo and a reload lead to the same images.
    assert queue(looks.open("/review", **SHIFT)) == items
    for item in items:
        row = scores[scores["image_id"] == item["image"]].iloc[0]
        assert (item["path"], item["model"], item["batch"]) == (row["relative_path"], MODEL, "shift")


def test_an_image_comes_once_from_several_batches(looks: Pages) -> None:
    items = queue(looks.open("/review", of="all"))
    assert len({item["image"] for item in items}) == len(items)
    assert "shift" in {item["batch"] for item in items}
    # That also holds for contents twice in one batch; a batch without verdicts has an empty queue.
    assert queue(looks.open("/review", model=MODEL, batch="raw")) == []


def test_the_queue_over_all_batches_holds_the_images_of_each(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path))
    calibration = add_calibration(workspace)
    for i in range(3):
        names = [f"{i}-{k}.png" for k in range(4)]
        add_batch(workspace, f"b{i}", names, calibration, anomalous=1.0, shift=9, not_scored=0, audit=9, seed=i)
    pages = Pages(workspace)
    assert len(queue(pages.open("/review", of="all"))) == 12
    assert len(queue(pages.open("/review", batch="b1"))) == 4


def test_decided_images_leave_the_queue(own: Workspace, scores: pd.DataFrame) -> None:
    pages, (first, second, *rest) = Pages(own), scores["image_id"].tolist()
    del rest
    before = images(pages.open("/review", **SHIFT))
    assert before[:2] == [first, second]
    post(pages, **said(scores.iloc[0]))
    page = pages.open("/review", **SHIFT)
    assert images(page) == before[1:]
    assert found(page, ".//*[@id='review']").attrib["data-decided"] == "1"
    assert scores.iloc[0]["relative_path"] in text(found(page, ".//div[@aria-label='Decided']"))
    # A reviewer sees the images on which only others have decided.
    assert images(pages.open("/review", **SHIFT, by="Ann")) == before[1:]
    assert images(pages.open("/review", **SHIFT, by="Bob")) == before
    # An image that the address names comes first, and one time.
    assert images(pages.open("/review", **SHIFT, image=first)) == before
    assert images(pages.open("/review", **SHIFT, image=before[-1])) == [before[-1], *before[1:-1]]
    # After its decision is withdrawn, it is in the queue again.
    post(pages, **said(scores.iloc[0], decision="withdrawn"))
    page = pages.open("/review", **SHIFT)
    assert images(page) == before
    assert not page.findall(".//div[@aria-label='Decided']")
    assert [row["decision"] for row in kept(pages)] == ["anomalous", "withdrawn"]
    assert latest_reviews(own).num_rows == 0


def test_disagreements_are_shown(own: Workspace, scores: pd.DataFrame) -> None:
    pages, row = Pages(own), scores.iloc[2]
    for reviewer, decision in (("Ann", "anomalous"), ("Bob", "normal")):
        assert not pages.open("/review", **SHIFT).findall(".//div[@aria-label='Disagreements']")
        post(pages, **said(row, reviewer=reviewer, decision=decision, note=f"<b>{reviewer}"))
    lines = pages.open("/review", **SHIFT).findall(".//div[@aria-label='Disagreements']/table/tr")[1:]
    assert [[text(cell) for cell in line][:3] for line in lines] == [
        [row["relative_path"], "Ann", "defect"],
        [row["relative_path"], "Bob", "good"],
    ]
    assert [text(line[4]) for line in lines] == ["<b>Ann", "<b>Bob"]
    assert f"image={row['image_id']}" in found(lines[0], ".//a").attrib["href"]
    # The reviewers agree again.
    post(pages, **said(row, reviewer="Bob", decision="anomalous"))
    assert not pages.open("/review", **SHIFT).findall(".//div[@aria-label='Disagreements']")
    assert [one["reviewer"] for one in latest_reviews(own).to_pylist()] == ["Bob"]


def test_kinds_that_people_have_named_have_keys(own: Workspace) -> None:
    kinds = ["scratch"] * 3 + ["dent"] * 2 + [f"kind {i}" for i in range(10)]
    for i, kind in enumerate(kinds):
        record_review(own, review(i, decision="anomalous", kind=kind))
    record_review(own, review(99, decision="normal"))
    page = Pages(own).open("/review", **SHIFT)
    offered = json.loads(found(page, ".//*[@id='review']").attrib["data-kinds"])
    assert offered == ["scratch", "dent", *(f"kind {i}" for i in range(7))]


def test_an_image_is_shown_with_pictures_and_earlier_decisions(own: Workspace, scores: pd.DataFrame) -> None:
    pages, row = Pages(own), scores.iloc[0]
    place = queue(pages.open("/review", **SHIFT))[0]["place"]
    page = pages.open(place)
    assert text(found(page, ".//h2")) == row["relative_path"]
    assert row["why"] in text(page)
    pictures = [one.attrib["alt"] for one in page.iter("img")]
    assert pictures[0] == row["relative_path"]
    assert any("map" in one for one in pictures)
    assert "normal image normal/128.png" in pictures
    assert "Decided on before" not in text(page)
    post(pages, **said(row, note="at the <b>edge", kind="crack"))
    page = text(pages.open(place))
    assert "Decided on before" in page
    assert "Ann defect crack at the <b>edge" in page
    # Images of the sample and near the threshold are marked as such, and have pictures, too.
    for item in queue(pages.open("/review", **SHIFT)):
        page = pages.open(item["place"])
        assert list(page.iter("img"))
        assert ("Audit sample" in text(page)) == (item["why"] == "sample")
        assert ("Near the threshold" in text(page)) == (item["why"] == "threshold")
    gone = parsed(pages.get("/review/image", **address_of(row, "pruned")).text)
    assert "is not in the workspace any more" in text(gone)


# Decisions


def test_a_decision_is_stored_as_it_was_sent(own: Workspace, scores: pd.DataFrame) -> None:
    pages, row, before = Pages(own), scores.iloc[0], own.scores(MODEL, "shift").read_bytes()
    sent = said(row, kind=" crack <i> ", note=" at the edge\nof it ", reviewer=" Zoë \U0001f600 ")
    assert post(pages, **sent) == {"kept": True, "new": True}
    (one,) = kept(pages)
    columns = ("image_id", "relative_path", "anomaly_score", "verdict", "calibration_id")
    assert {name: one[name] for name in columns} == dict(row[[*columns]])
    assert (one["model_id"], one["batch_id"], one["review_id"]) == (MODEL, "shift", sent["review_id"])
    assert (one["decision"], one["kind"], one["note"]) == ("anomalous", "crack <i>", "at the edge\nof it")
    assert one["reviewer"] == "Zoë \U0001f600"
    # A decision changes no score.
    assert own.scores(MODEL, "shift").read_bytes() == before


def test_a_decision_that_is_sent_again_is_kept_once(own: Workspace, scores: pd.DataFrame) -> None:
    """Sent one after the other, at the same time, or with other contents under the same id."""
    pages, sent = Pages(own), said(scores.iloc[0])
    assert post(pages, **sent)["new"]
    assert not post(pages, **sent)["new"]
    assert not post(pages, **sent | {"decision": "normal"})["new"]
    other, answers = said(scores.iloc[1]), []
    threads = [threading.Thread(target=lambda: answers.append(post(pages, **other)["new"])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 5 + [True]
    assert [row["decision"] for row in kept(pages)] == ["anomalous"] * 2


def test_images_without_a_score_are_not_decided_on(own: Workspace, scores: pd.DataFrame) -> None:
    pages, row = Pages(own), scores.iloc[0]
    lost = add_batch(own, "lost", ["a.png"], None, not_scored=[True]).to_pandas().iloc[0]
    for place in (
        address_of(row, "pruned"),
        address_of(row, "..", ".."),
        address_of(row, "*", "*"),
        address_of(row, "", ""),
        {**address_of(row), "image": "0" * 64},
        {**address_of(row), "image": ""},
        address_of(row, "shift", OTHER),
        address_of(lost, "lost"),
    ):
        answer = post(pages, 409, **said(row) | place)
        assert answer == {"said": "This image has no score any more: its batch was pruned, or scored again."}
    assert kept(pages) == []
    # The path of the row is recorded, whatever the request says.
    post(pages, **said(row, path="../../etc/passwd"))
    assert kept(pages)[0]["relative_path"] == row["relative_path"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reviewer": " "}, "reviewer is empty"),
        ({"reviewer": "x" * 101}, "reviewer has 101 characters, 100 at most are kept. Shorten it."),
        ({"reviewer": "a\x00b"}, "reviewer holds the control character U+0000"),
        ({"reviewer": "a\nb"}, "reviewer holds the control character U+000A"),
        ({"note": "a\x1b[31mb"}, "note holds the control character U+001B"),
        ({"note": "x" * 2001}, "note has 2,001 characters"),
        ({"kind": "x" * 101}, "kind has 101 characters"),
        ({"kind": "a\tb"}, "kind holds the control character U+0009"),
        ({"kind": "crack", "decision": "normal"}, "only an anomalous image has a kind"),
        ({"kind": "crack", "decision": "withdrawn"}, "only an anomalous image has a kind"),
    ],
)
def test_a_decision_that_cannot_be_stored_says_why(
    looks: Pages, scores: pd.DataFrame, changes: dict[str, str], why: str
) -> None:
    answer = post(looks, 422, **said(scores.iloc[0], **changes))
    assert answer["said"].startswith("Not kept: ")
    assert why in answer["said"]
    assert kept(looks) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"review_id": "v1"},
        {"review_id": "../../" + "a" * 30},
        {"review_id": f"v{'0' * 32}\n"},
        {"decision": "maybe"},
        {"decision": None},
        {"image": None},
        {"model": 3},
        {"note": ["a"]},
    ],
)
def test_a_malformed_decision_is_refused(looks: Pages, scores: pd.DataFrame, changes: dict[str, Any]) -> None:
    post(looks, 422, **said(scores.iloc[0], **changes))
    assert kept(looks) == []
    assert list(looks.workspace.reviews.glob("*")) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"reviewer": "\\ud800"}',
        b"a=b&decision=normal",
    ],
)
def test_a_body_that_is_not_json_is_refused(looks: Pages, body: bytes) -> None:
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        answer = looks.ask("POST", "/reviews", content=body, headers={"Content-Type": kind})
        assert answer.status_code in (400, 422)
        assert "Traceback" not in answer.text
    assert kept(looks) == []


def test_a_lone_surrogate_is_refused(looks: Pages, scores: pd.DataFrame) -> None:
    body = json.dumps(said(scores.iloc[0], note="\ud83d")).encode()
    answer = looks.ask("POST", "/reviews", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert kept(looks) == []


def test_only_this_page_can_decide(own: Workspace, scores: pd.DataFrame) -> None:
    pages, sent = Pages(own), said(scores.iloc[0])
    for origin in ("http://evil.example", "null", "http://testserver.evil.example", "http://testserver:81"):
        answer = pages.ask("POST", "/reviews", json=sent, headers={"Origin": origin})
        assert answer.status_code == 403
    # A link, a picture or a form on another site cannot make a decision.
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        assert pages.ask(method, "/reviews", params=sent).status_code == 405
    body = json.dumps(sent).encode()
    assert pages.ask("POST", "/reviews", content=body, headers={"Content-Type": "text/plain"}).status_code == 422
    assert pages.ask("POST", "/review", json=sent).status_code == 405
    assert kept(pages) == []
    post(pages, headers={"Origin": "http://testserver"}, **sent)
    assert len(kept(pages)) == 1


def test_only_an_admitted_visitor_can_decide(own: Workspace, scores: pd.DataFrame) -> None:
    pages, sent = Pages(own, "secret"), said(scores.iloc[0])
    assert pages.ask("POST", "/reviews", json=sent).status_code == 401
    assert kept(pages) == []
    entered = pages.ask("POST", "/review", data={"password": "secret"})
    assert entered.status_code == 303
    cookie = {"Cookie": entered.headers["set-cookie"].partition(";")[0]}
    assert pages.ask("POST", "/reviews", json=sent, headers=cookie | {"Origin": "http://evil"}).status_code == 403
    post(pages, headers=cookie, **sent)
    assert len(kept(pages)) == 1


def test_the_effect_of_decisions_is_shown(own: Workspace, scores: pd.DataFrame) -> None:
    """The page says so before anybody calibrates, and writes nothing."""
    pages = Pages(own)
    before = {path.relative_to(str(own.root)) for path in Path(str(own.root)).rglob("*")}
    assert "has no reviews" in text(pages.open("/review/effect", **SHIFT))
    rows = scores[scores["verdict"].isin(["anomalous", "review"])]
    for i in range(len(rows)):
        post(pages, **said(rows.iloc[i], decision="anomalous" if i < len(rows) // 2 else "normal"))
    page = text(pages.open("/review/effect", **SHIFT))
    assert f"nelbo calibrate --model {MODEL} --labels reviews --objective youden" in page
    assert f"of the {len(scores)} images" in page
    after = {path.relative_to(str(own.root)) for path in Path(str(own.root)).rglob("*")}
    assert {path.parts[0] for path in after - before} == {"reviews"}
