"""The dashboard's pages of single images, reviews and comparisons: in a browser, over a workspace without a model."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import reviewing
from browser import Watched, dashboard
from PIL import Image
from scored import MODEL, START, WHY, add_batch, add_calibration, add_normals
from sklearn.metrics import roc_auc_score
from streamlit.testing.v1 import AppTest
from synthetic import texture, write_images

from nelbo.data import SIMULATED_SCHEMA, File, Preprocessing, read_metadata, read_table, write_json, write_table
from nelbo.flows.dashboard.literal import literal
from nelbo.flows.dashboard.originals import original, original_of
from nelbo.flows.dashboard.pages import review
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.evaluation.agreement import against_truth, agreement, with_truth
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.calibrations.calibration import Calibration, calibrations_of
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import record_review

ATTACK = "<img src=x onerror=alert(1)> **b** $x$ :red[x].png"
OTHER = "m07e4000000000000"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A model that is gone but for its description, two calibrations of it, and another model with one.

    ``shift`` has labels; ``repeat`` and, without verdicts, ``raw`` have the same files. The other model has scored
    ``single``, and ``repeat``, too.
    """
    folder = tmp_path_factory.mktemp("pages")
    root = folder / "images"
    paths = [*write_images(root, 24, seed=1), *write_images(root / "b", 16, seed=2, blot=True)]
    paths[-1] = paths[-1].rename(root / ATTACK)
    workspace = Workspace(folder / "workspace")
    described = {"config": {}, "preprocessing": Preprocessing(32, 32).to_dict(), "training": {"seen": []}}
    for model_id in (MODEL, OTHER):
        write_json(described, workspace.models / model_id / "model.json")
    strict = add_calibration(workspace, fpr=0.02, review_fpr=None, seed=5)
    usual = add_calibration(workspace)
    alone = add_calibration(workspace, model_id=OTHER, seed=9)
    assert strict != usual
    names = [path.relative_to(root).as_posix() for path in paths]
    defects = ["blot" in name or name == ATTACK for name in names]
    scored = {"root": root, "anomalous": defects, "not_scored": 0.0}
    add_batch(workspace, "repeat", names, usual, seed=3, **scored)
    add_batch(workspace, "raw", names, None, **scored)
    add_batch(workspace, "repeat", names, alone, model_id=OTHER, seed=8, **scored)
    add_batch(workspace, "single", names, alone, model_id=OTHER, **scored)
    add_batch(workspace, "shift", names, usual, labelled=True, seed=4, **scored)
    add_normals(workspace)
    return workspace


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def scores(workspace: Workspace) -> pd.DataFrame:
    """The batch ``shift``, the most anomalous first."""
    return read_table(workspace.scores(MODEL, "shift")).to_pandas().sort_values("anomaly_score", ascending=False)


@pytest.fixture(scope="module")
def address(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dashboard(workspace.root, tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def visit(visitor: Any, address: str) -> Iterator[Callable[..., Watched]]:
    """Open a page of the dashboard, each in a session of its own; afterwards nothing went wrong on any."""
    opened: list[Watched] = []

    def visit(page: str, **query: str) -> Watched:
        opened.append(Watched(visitor.new_page()))
        opened[-1].open(f"{address}/{page}?{urlencode(query)}")
        return opened[-1]

    yield visit
    for watched in opened:
        assert watched.problems == []
        watched.page.close()


def _address_of(row: pd.Series, batch_id: str = "shift", model_id: str = MODEL) -> dict[str, str]:
    return {"model": model_id, "batch": batch_id, "image": row["image_id"], "path": row["relative_path"]}


def _see(page: Any, described: str) -> None:
    """Wait for a picture with that alternative text."""
    picture = "text => [...document.images].some(one => one.alt === text && one.naturalWidth > 0)"
    page.wait_for_function(picture, arg=described)


@pytest.mark.slow
def test_image_page_shows_the_image_and_what_is_known_of_it(
    visit: Callable[..., Watched], workspace: Workspace, scores: pd.DataFrame
) -> None:
    """Its path, an attack, as text."""
    row = scores[scores["relative_path"] == ATTACK].iloc[0]
    watched = visit("image", **_address_of(row))
    page = watched.page
    _see(page, f"original of {ATTACK}")
    _see(page, f"outline on {ATTACK}")
    _see(page, f"heatmap of {ATTACK}")
    assert page.locator("[data-testid=stCode]").inner_text().strip() == ATTACK
    assert page.locator("img[src=x]").count() == 0
    text = page.inner_text("[data-testid=stMain]")
    assert f"nelbo {row['nelbo_nats']:,.1f} nats" in text
    assert f"{row['anomaly_score']:,.4g}" in text
    normals = read_table(workspace.calibrations / row["calibration_id"] / "scores.parquet").to_pandas()
    nearest = normals.loc[(normals["anomaly_score"] - row["anomaly_score"]).abs().sort_values().index[:5]]
    assert all(name in text for name in nearest["relative_path"])
    assert WHY in text
    _see(page, "normal image normal/128.png")
    assert watched.findings() == []


def _replaced(path: Path) -> None:
    Image.fromarray(texture(np.random.default_rng(7))).save(path)


def _linked(path: Path, above: int = 2) -> None:
    """The same contents, from elsewhere."""
    path.symlink_to(path.rename(path.parents[above] / "secret.png"))


def _folder_linked(path: Path) -> None:
    path.parent.symlink_to(path.parent.rename(path.parents[2] / "secrets"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_replaced, "changed or gone"),
        (Path.unlink, "changed or gone"),
        (_linked, "leads out of its folder"),
        (lambda path: _linked(path, above=1), "changed or gone"),
        (_folder_linked, "leads out of its folder"),
        (lambda path: shutil.rmtree(path.parents[1]), "changed or gone"),
    ],
)
def test_only_what_was_scored_is_shown(tmp_path: Path, change: Callable[[Path], None], why: str) -> None:
    root = tmp_path / "aside" / "root"
    (path,) = write_images(root / "a", 1, seed=1)
    file = File(str(root), f"a/{path.name}", _sha256(path))
    assert original(file).size == (32, 32)
    change(path)
    assert why in original(file)


def test_no_file_without_a_batch_or_contents(workspace: Workspace, scores: pd.DataFrame) -> None:
    row, table = scores.iloc[0].to_dict(), workspace.scores(MODEL, "shift")
    assert isinstance(original_of(table, row), Image.Image)
    assert "does not say" in original_of(workspace.scores(MODEL, "pruned"), row)
    assert "could not be opened" in original_of(table, row | {"image_id": None})
    assert "leads out" in original_of(table, row | {"relative_path": "../workspace/latest.json"})


def test_an_image_without_a_verdict_has_a_page(run: Callable[..., AppTest], scores: pd.DataFrame) -> None:
    page = run("image", **_address_of(scores.iloc[0], "raw"))
    assert {one.label: one.value for one in page.metric}["Verdict"] == "none"
    assert "Nothing of this batch is flagged" in run("review", model=MODEL, batch="raw").info[0].value


def test_of_cross_fitted_scores_all_rates_are_approximate(run: Callable[..., AppTest], own: Workspace) -> None:
    def said(name: str, **query: str) -> str:
        page = run(name, **query)
        return " ".join(one.value for one in page.caption) + " ".join(one.proto.body for one in page.get("html"))

    address = {"model": MODEL, "batch": "cross"}
    assert "pproximate" not in said("overview") + said("batch", model=MODEL, batch="repeat")
    cross = add_calibration(own, cross=True, seed=11)
    add_batch(own, "cross", [f"{i}.png" for i in range(50)], cross, at=START + timedelta(days=300))
    overview = said("overview")
    assert "The newest batch, cross, has" in overview
    assert "(95 %, approximate)" in overview
    assert "Approximate, where that is cross-fitted." in overview
    page = said("batch", **address)
    assert literal("False-alarm rate aimed at: 5 %, about 2.4 to 8.4 % with 199 images") in page
    assert "(95 %, approximate)" in page


def test_a_model_that_cannot_see_is_called_so_on_every_page(
    run: Callable[..., AppTest], own: Workspace, scores: pd.DataFrame
) -> None:
    """Pasted pieces score as the images did without: in the place of words that all is as chance would have it."""
    pages = {"overview": {}, "batch": {"model": MODEL, "batch": "repeat"}, "image": _address_of(scores.iloc[0])}

    def warned(name: str) -> list[str]:
        return [one.value for one in run(name, **pages[name]).warning if "cannot see simulated defects" in one.value]

    assert [warned(name) for name in pages] == [[], [], []]
    clean = [{"image_id": f"{i}", "relative_path": f"{i}.png", "peak": float(i)} for i in range(40)]
    painted = [row | {"kind": "cut_paste", "size_px": 12.0} for row in clean]
    rows = [dict.fromkeys(SIMULATED_SCHEMA.names) | row for row in (*clean, *painted)]
    write_table(pa.Table.from_pylist(rows, SIMULATED_SCHEMA), own.simulated(MODEL), SIMULATED_SCHEMA)
    for name in pages:
        (text,) = warned(name)
        assert literal("pieces of the image pasted elsewhere and blurred places, 12 pixels long") in text


@pytest.mark.parametrize("name", ["image", "review", "batch"])
def test_the_promise_stands_beside_the_threshold_until_it_is_edited(
    run: Callable[..., AppTest], own: Workspace, scores: pd.DataFrame, name: str
) -> None:
    """Also of a calibration that a page has shown before."""
    address = _address_of(scores.iloc[0])
    page = run(name, **address)
    assert not page.error
    promised = "False-alarm rate promised: 5 %, between 2.4 and 8.4 % with 199 images; for review another 10 % of"
    assert sum(literal(promised) in caption.value for caption in page.caption) == 1
    folder = own.calibrations / scores["calibration_id"].iloc[0]
    said = json.loads((folder / "calibration.json").read_text())
    said["threshold"]["value"] *= 2
    (folder / "calibration.json").write_text(json.dumps(said))
    sums = {
        file: hashlib.sha256((folder / file).read_bytes()).hexdigest()
        for file in ("calibration.json", "scores.parquet")
    }
    (folder / "checksums.json").write_text(json.dumps(sums))
    page = run(name, **address)
    assert any("changed or moved after it was made" in literal_text.value for literal_text in page.error)
    assert not any("False-alarm rate promised" in caption.value for caption in page.caption)


def test_why_a_candidate_is_one_stands_beside_its_threshold(workspace: Workspace) -> None:
    # Only its source is taken.
    def page(calibration: "Calibration") -> None:
        from nelbo.flows.dashboard.calibrations import show_promise

        show_promise(calibration)

    ordinary = calibrations_of(workspace, MODEL)[0]
    wanting = replace(ordinary, why_not="2 anomalous images with a label")
    said = [
        AppTest.from_function(page, default_timeout=60, kwargs={"calibration": one}).run().caption
        for one in (ordinary, wanting)
    ]
    assert [len(captions) for captions in said] == [1, 2]
    assert "somebody took it\\: 2 anomalous images with a label" in said[1][1].value


@pytest.mark.slow
def test_page_says_that_a_file_has_changed(
    visit: Callable[..., Watched], workspace: Workspace, scores: pd.DataFrame
) -> None:
    row = scores.iloc[1]
    path = Path(read_metadata(workspace.scores(MODEL, "shift"))["nelbo.root"], row["relative_path"])
    kept = path.read_bytes()
    _replaced(path)
    try:
        page = visit("image", **_address_of(row)).page
        page.get_by_text("The file has changed or gone since it was scored.").wait_for()
        # What scoring kept is still there.
        _see(page, f"heatmap of {row['relative_path']}")
        assert page.get_by_alt_text("original of").count() == 0
    finally:
        path.write_bytes(kept)


@pytest.mark.slow
def test_a_review_is_kept_once(visit: Callable[..., Watched], workspace: Workspace, scores: pd.DataFrame) -> None:
    before = _sha256(workspace.scores(MODEL, "shift"))
    flagged = scores[scores["verdict"].isin(["anomalous", "review"])]
    name, note = "<b>Ann</b> $x$ :red[x]", "<img src=x onerror=alert(1)>\n**no**"
    first, second = (visit("review", model=MODEL, batch="shift") for _ in range(2))
    page = first.page
    page.get_by_text(f"0 of {len(flagged)} flagged images reviewed").wait_for()
    assert first.findings() == []
    _wait(first)
    page.get_by_role("button", name="Accept: anomalous").click()
    page.get_by_text("Enter your name").wait_for()
    # The form is drawn after that text, and a name that was typed before would be lost.
    first.settle()
    assert catalog.all_rows(workspace, "reviews").num_rows == 0
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Your name").press("Tab")
    page.keyboard.insert_text(note)
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Reject: normal"
    page.get_by_role("button", name="Accept: anomalous").dblclick()
    page.get_by_text(f"1 of {len(flagged)} flagged images reviewed").wait_for()
    first.settle()
    (kept,) = catalog.all_rows(workspace, "reviews").to_pylist()
    row = flagged.iloc[0]
    assert {column: kept[column] for column in ("image_id", "relative_path", "anomaly_score")} == dict(
        row[["image_id", "relative_path", "anomaly_score"]]
    )
    assert (kept["decision"], kept["reviewer"], kept["note"]) == ("anomalous", name, note)
    # As text, and remembered for the next image.
    assert f"by {name}: {row['relative_path']}" in page.inner_text("[data-testid=stAlert]")
    assert page.get_by_label("Your name").input_value() == name
    assert page.locator("[data-testid=stCode]").inner_text().strip() == flagged.iloc[1]["relative_path"]
    # The other tab still shows the first image: the same person cannot answer twice, nor by loading the page again.
    second.page.get_by_label("Your name").fill(name)
    second.page.get_by_role("button", name="Reject: normal").click()
    second.page.get_by_text("has decided already that this is anomalous").wait_for()
    first.open(page.url)
    assert first.findings() == []
    page.get_by_text(f"1 of {len(flagged)} flagged images reviewed").wait_for()
    assert catalog.all_rows(workspace, "reviews").to_pylist() == [kept]
    assert len(list(workspace.reviews.glob("*"))) == 1
    assert _sha256(workspace.scores(MODEL, "shift")) == before


def _wait(watched: Watched) -> None:
    """Until a click is no longer taken for the second half of a double click."""
    watched.page.wait_for_timeout(600)


@pytest.mark.slow
def test_compare_counts_what_duckdb_counts(
    visit: Callable[..., Watched], workspace: Workspace, scores: pd.DataFrame
) -> None:
    watched = visit("compare", model=MODEL, batch="shift")
    page = watched.page
    sides = [page.get_by_label(side, exact=True).input_value().split(" ")[0] for side in ("A", "B")]
    contents = [json.loads((workspace.calibrations / side / "calibration.json").read_text()) for side in sides]
    thresholds = [one["threshold"] for one in contents]
    word = "CASE WHEN anomaly_score > ? THEN 'anomalous' WHEN anomaly_score > ? THEN 'review' ELSE 'normal' END"
    ends = [one[end] or one["value"] for one in thresholds for end in ("value", "review")]
    sql = f"SELECT {word}, {word}, count(*) FROM read_parquet(?) GROUP BY ALL"  # noqa: S608
    pairs = duckdb.sql(sql, params=[*ends, str(workspace.scores(MODEL, "shift"))]).fetchall()
    expected = {(a, b): n for a, b, n in pairs}
    counts = [[int(cell) for cell in cells] for cells in _cells(page, "B: review")]
    order = ["normal", "review", "anomalous"]
    assert counts == [[expected.get((a, b), 0) for b in order] for a in order]
    n_same = sum(n for (a, b), n in expected.items() if a == b)
    assert 0 < n_same < 40
    page.get_by_role("heading", name=f"Same verdict on {n_same} of 40 images").wait_for()
    page.get_by_role("heading", name=f"Different verdicts: {40 - n_same} image").wait_for()
    _, alarms, misses, area = _cells(page, "AUROC")
    normal = scores["label"] == 0
    for column, threshold in enumerate(thresholds):
        raised = scores["anomaly_score"] > threshold["value"]
        assert float(alarms[column].rstrip(" %")) == pytest.approx(100 * raised[normal].mean(), rel=1e-2)
        assert float(misses[column].rstrip(" %")) == pytest.approx(100 * (~raised[~normal]).mean(), rel=1e-2)
    assert area[2].startswith("0.000 ")
    assert watched.findings() == []


def _cells(page: Any, word: str) -> list[list[str]]:
    """Of the table with that word, without its headings."""
    table = page.locator("table", has_text=word)
    table.wait_for()
    return [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]


@pytest.fixture
def own(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A copy to write to."""
    return Workspace(Path(shutil.copytree(workspace.root, tmp_path / "workspace")))


@pytest.fixture
def run(own: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """A page, run in this process without a browser; a click is never too soon."""
    monkeypatch.setattr(review, "_TOO_SOON_S", 0.0)

    def script(tables: object, name: str) -> None:
        import importlib

        importlib.import_module(f"nelbo.flows.dashboard.pages.{name}").draw(tables)

    def run(name: str, **query: str) -> AppTest:
        page = AppTest.from_function(script, default_timeout=60, kwargs={"tables": Tables(own), "name": name})
        for key, value in query.items():
            page.query_params[key] = value
        page.run()
        assert not page.exception
        return page

    return run


def test_why_and_the_nearest_normal_image_stand_on_the_pages(
    run: Callable[..., AppTest], scores: pd.DataFrame, own: Workspace
) -> None:
    first = scores.iloc[0]
    shutil.rmtree(own.models)
    for page in (
        run("image", **_address_of(first)),
        run("review", model=MODEL, batch="shift", image=first["image_id"]),
    ):
        assert literal(WHY) in [one.value for one in page.markdown]
        assert [one.value for one in page.text if one.value.startswith("normal/")] == ["normal/128.png"]
    (rows,) = [one.value for one in run("batch", model=MODEL, batch="shift").dataframe if "why" in one.value]
    assert set(rows["why"][rows["verdict"] == "anomalous"]) == {WHY}
    # The other model was made before any were kept.
    page = run("image", **_address_of(first, "repeat", OTHER))
    assert literal(WHY) in [one.value for one in page.markdown]
    assert "None was kept" in page.info[0].value


@pytest.mark.parametrize(
    "query",
    [
        {"image": "' OR 1 = 1 --"},
        {"image": "0" * 64, "path": "../../etc/passwd"},
        {"image": "../../../etc/passwd", "batch": "*", "model": "*"},
    ],
)
def test_addresses_choose_rows_and_no_files(run: Callable[..., AppTest], query: dict[str, str]) -> None:
    page = run("image", **{"model": MODEL, "batch": "shift", **query})
    assert page.warning[0].value.startswith("No such image is in the workspace")
    assert not page.code
    assert not page.header


def test_an_image_is_found_by_its_path(run: Callable[..., AppTest], scores: pd.DataFrame) -> None:
    page = run("image")
    page.text_input[0].input("%' OR 'A' = 'A").run()
    assert page.info[0].value == "No scored image has that in its path."
    page.text_input[0].input("BLOT_2_00").run()
    found = page.dataframe[0].value
    assert set(found["relative_path"]) == {path for path in scores["relative_path"] if "blot_2_00" in path}
    assert set(found["batch_id"]) == {"shift", "repeat", "raw", "single"}


def test_the_last_decision_counts_and_both_stay(
    run: Callable[..., AppTest], own: Workspace, scores: pd.DataFrame
) -> None:
    row = scores.iloc[2]
    for name, button, said in (("Ann", 0, "anomalous"), ("Bob", 1, "normal"), ("Bob", 0, "anomalous")):
        page = run("review", **_address_of(row))
        assert page.code[0].value == row["relative_path"]
        page.text_input[0].input(name)
        page.button[button].click().run()
        assert page.success[0].value.startswith(literal(f"Kept as {said}, by {name}"))
    sql = "SELECT reviewer, decision FROM read_parquet(?) WHERE image_id = ? ORDER BY reviewed_at_utc"
    kept = duckdb.sql(sql, params=[f"{own.reviews}/*.parquet", row["image_id"]]).fetchall()
    assert kept == [("Ann", "anomalous"), ("Bob", "normal"), ("Bob", "anomalous")]
    # And the page lists the one that counts.
    decided = page.dataframe[-1].value
    assert decided[["relative_path", "decision"]].to_numpy().tolist() == [[row["relative_path"], "anomalous"]]


def test_a_click_at_once_is_not_for_the_next_image(
    run: Callable[..., AppTest], own: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = run("review", model=MODEL, batch="shift")
    page.text_input[0].input("Ann")
    monkeypatch.setattr(review, "_TOO_SOON_S", 3600.0)
    page.button[0].click().run()
    assert catalog.all_rows(own, "reviews").num_rows == 0
    monkeypatch.setattr(review, "_TOO_SOON_S", 0.0)
    page.button[0].click().run()
    assert catalog.all_rows(own, "reviews").num_rows == 1


def test_skipped_images_come_again_when_asked_for(run: Callable[..., AppTest], own: Workspace) -> None:
    few = [f"{i}.png" for i in range(3)]
    add_batch(own, "few", few, add_calibration(own), anomalous=1.0, not_scored=0, shift=9)
    page = run("review", model=MODEL, batch="few")
    seen = []
    for _ in few:
        seen.append(page.code[0].value)
        page.button[2].click().run()
    assert sorted(seen) == few
    assert page.info[0].value == "3 skipped, and no other is left."
    page.button[0].click().run()
    assert page.code[0].value == seen[0]


def test_two_models_are_compared_by_reviews_where_there_are_no_labels(
    run: Callable[..., AppTest], own: Workspace, scores: pd.DataFrame
) -> None:
    ours, theirs = (read_table(own.scores(model_id, "repeat")).to_pandas() for model_id in (MODEL, OTHER))
    both = ours.merge(theirs, on="image_id", suffixes=("_a", "_b"))
    page = run("compare", model=MODEL, batch="repeat")
    assert "No image of this batch has a label or a review" in page.caption[2].value
    for number, image_id in enumerate(scores["image_id"].iloc[[0, -1]]):
        record_review(own, reviewing.review(number, image_id=image_id, decision=("anomalous", "normal")[number]))
    (name,) = [name for name in page.selectbox(key="b").options if OTHER in name]
    used = [name for name in page.selectbox(key="a").options if ours["calibration_id"][0] in name]
    page.selectbox(key="a").select(used[0])
    page.selectbox(key="b").select(name).run()
    assert not page.exception
    found = page.table[0].value.to_numpy().astype(int)
    assert found.sum() == 40
    expected = pd.crosstab(both["verdict_a"], both["verdict_b"])
    words = ["normal", "review", "anomalous"]
    assert found.tolist() == expected.reindex(index=words, columns=words, fill_value=0).to_numpy().tolist()
    assert page.caption[2].value.startswith("By the reviews\\: 1 normal and 1 anomalous images")


def test_one_calibration_alone_is_not_compared(run: Callable[..., AppTest]) -> None:
    page = run("compare", model=OTHER, batch="single")
    assert page.code[0].value.startswith(f"nelbo calibrate --model {OTHER}")
    assert not page.table


def test_calibrations_are_judged_on_what_neither_has_seen(workspace: Workspace, scores: pd.DataFrame) -> None:
    b, a = calibrations_of(workspace, MODEL)
    a, b = (b, a) if b.threshold.review is None else (a, b)
    seen = scores["image_id"].iloc[[0, -1]]
    a = replace(a, image_ids=pa.array(seen))
    rows = agreement(workspace, "shift", a, b)
    found = against_truth(rows, workspace, a, b)
    assert found is not None
    left = scores[~scores["image_id"].isin(seen)]
    assert (found.n_normal, found.n_anomalous) == tuple((left["label"] == label).sum() for label in (0, 1))
    assert found.n_left_out == 2
    assert found.auroc is not None
    assert found.auroc.a.value == roc_auc_score(left["label"], left["anomaly_score"])
    # Without labels a few reviews say what is true.
    truth = {left["image_id"].iloc[0]: 1, left["image_id"].iloc[-1]: 0}
    reviewed = against_truth(with_truth(rows, truth), workspace, a, b)
    assert reviewed is not None
    assert (reviewed.n_normal, reviewed.n_anomalous, reviewed.auroc) == (1, 1, None)
    assert against_truth(with_truth(rows, {}), workspace, a, b) is None
