"""The report's page as a browser shows it."""

import base64
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from html import escape
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from axe_playwright_python.sync_playwright import Axe
from commands import score
from PIL import Image
from scored import MODEL, add_batch, stub_workspace

from nelbo.data import FLAGGED_SCHEMA, Preprocessing, read_images, read_metadata, read_scores, read_table
from nelbo.data.regions.run_length import encode
from nelbo.flows.inference.maps import pictured
from nelbo.flows.options.options import ReportOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.report.cards import sections
from nelbo.flows.report.heatmap import colours, png
from nelbo.flows.report.histogram import WIDTH, histogram
from nelbo.flows.report.normals import Normals
from nelbo.flows.report.outlines import outline_of_masks
from nelbo.flows.report.pictures import jpeg_url, outline_of, pictures
from nelbo.flows.runner import Direct
from nelbo.flows.steps import report as reporting
from nelbo.flows.workspace.calibrations.calibration import calibrations_of
from nelbo.flows.workspace.errors import NotYetError, UsageError
from nelbo.flows.workspace.flagged import strangest
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import describe_model
from nelbo.flows.workspace.reviews import Review, new_review_id, record_review
from nelbo.flows.workspace.runs import code_version

ATTACK = "<img src=x onerror=alert(1)>.png"
LONG = "long_blot_" * 20


@pytest.fixture(scope="module")
def page_file(
    trained: tuple[Path, dict[str, Any]], images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A report with labels, with files whose names are attacks or far too long, and with a missing file."""
    folder = tmp_path_factory.mktemp("report")
    workspace = Path(shutil.copytree(trained[0], folder / "workspace"))
    new = Path(shutil.copytree(images / "new", folder / "new"))
    shutil.copy(new / "b" / "blot_3_000.png", new / ATTACK)
    shutil.copy(new / "b" / "blot_3_001.png", new / f"{LONG}.png")
    for name in ("{{ 7 * 7 }}.txt", f"{LONG}.txt"):
        (new / name).write_text("not an image")
    rows = [
        f'"{path.relative_to(new).as_posix()}",{int("blot" in path.name or path.name == ATTACK)}'
        for path in new.rglob("*.png")
    ]
    lines = ["path,label", *rows, "{{ 7 * 7 }}.txt,", f"{LONG}.txt,", "gone.png,"]
    (new / "list.csv").write_text("\n".join(lines) + "\n")
    result = score(new / "list.csv", workspace)
    return Path(result["report"]), result


def test_page_needs_no_network_and_escapes_names(page_file: tuple[Path, dict[str, Any]]) -> None:
    html = page_file[0].read_text()
    assert ATTACK not in html
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in html
    assert "{{ 7 * 7 }}.txt" in html
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "url(" not in html
    # Only one script may run, whose hash the page's policy holds.
    (code,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'\"" in html
    assert html.count("<script") == 1


def part(html: str, name: str) -> str:
    """A section of the page; empty if there is none."""
    return html.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def paths(html: str) -> list[str]:
    return re.findall(r'<p class="name" title="([^"]+)">', html)


def test_flagged_pictures_come_first_then_nearly_flagged_ones_and_labels(
    page_file: tuple[Path, dict[str, Any]],
) -> None:
    html, result = page_file[0].read_text(), page_file[1]
    rows = read_scores(Path(result["scores"])).to_pandas().sort_values("anomaly_score", ascending=False)
    rows["relative_path"] = rows["relative_path"].map(escape)
    flagged, normal = rows[rows["verdict"] == "anomalous"], rows[rows["verdict"] == "normal"]
    expected = {
        "flagged": flagged,
        "near": normal[:12],
        "missed": normal[normal["label"] == 1][:12],
        "false": flagged[flagged["label"] == 0][:12],
    }
    assert {name: sorted(paths(part(html, name))) for name in expected} == {
        name: sorted(some["relative_path"]) for name, some in expected.items()
    }
    assert paths(part(html, "flagged"))[0] == flagged.iloc[0]["relative_path"]
    places = [html.index(f'<section id="{name}">') for name, some in expected.items() if len(some)]
    assert [*places, html.index('<section id="numbers">')] == sorted([*places, html.index('<section id="numbers">')])
    # Images that were nearly flagged have pictures, too.
    assert len(re.findall(r'alt="original">', part(html, "near"))) == len(expected["near"])
    # An empty section is not shown.
    assert all((f'<section id="{name}">' in html) == bool(len(some)) for name, some in expected.items())


def test_the_page_agrees_with_the_files(page_file: tuple[Path, dict[str, Any]]) -> None:
    html, result = page_file[0].read_text().replace("\N{NO-BREAK SPACE}", " "), page_file[1]
    assert f"<h1>{result['n_anomalous']} of {result['n_scored']} images anomalous; at the promised 5 % about" in html
    assert f"{result['metrics']['auroc']['value']:.3f}" in html
    for text in (result["batch_id"], result["model_id"], result["calibration_id"], "gone.png", "not_an_image"):
        assert text in html
    assert part(html, "flagged").count("<figure") == result["n_anomalous"]
    # A quarter of the batch has a blot.
    assert '<p class="chance">The count is more than chance gives: ' in html
    assert (
        f"of {result['metrics']['n_normal'] + result['metrics']['n_anomalous']} labelled images are anomalous: " in html
    )
    for text in (code_version(), "engine keras"):
        assert text in html.split("What was run</h2>")[1]


def test_the_summary_of_the_run_has_the_same_numbers(page_file: tuple[Path, dict[str, Any]]) -> None:
    path, result = page_file
    shown: dict[str, Any] = {}

    class Watched(Direct):
        def show(self, key: str, content: str | list[dict[str, Any]]) -> None:
            shown[key] = content

    options = ReportOptions(batch=result["batch_id"], workspace=str(path.parent.parent))
    reporting.report_batch(options, Watched())
    summary = shown["report"]
    n_flagged = f"{result['n_anomalous']} of {result['n_scored']} images anomalous"
    assert summary.startswith(f"# {n_flagged}; at the promised 5 % about 1 false alarm would be normal.\n")
    assert "The count is more than chance gives: " in summary
    assert " labelled images are anomalous: " in summary
    counts = ("n_images", "n_anomalous", "n_review", "n_scored", "n_not_scored")
    images, anomalous, review, scored, not_scored = (result[name] for name in counts)
    assert f"| {images} | {anomalous} | {review} | {scored - anomalous - review} | {not_scored} |" in summary
    assert f"F{result['promise'][1:]}." in summary
    assert ("**This batch as a whole is unlike the calibration.**" in summary) == result["drift"]["alarm"]
    assert all(f"* {finding}" in summary for finding in result["drift"]["findings"])
    auroc = result["metrics"]["auroc"]
    assert f"| AUROC | {auroc['value']:.3f} | {auroc['low']:.3f} to {auroc['high']:.3f} |" in summary
    assert f"* report: [{path}]({path.as_uri()})" in summary
    assert shown["scores"].startswith("data:image/svg+xml;base64,")


def test_reviews_are_counted_apart_from_labels(page_file: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    written, result = page_file
    root = shutil.copytree(written.parent.parent, tmp_path / "workspace")
    workspace, ids = Workspace.at(str(root)), (result["model_id"], result["batch_id"])
    rows = read_table(workspace.flagged(*ids), ["image_id", "relative_path"]).to_pandas()
    # Files with the same contents are one image, and two rows.
    rows = rows.drop_duplicates("image_id", keep=False)[:3].to_dict("records")
    for row, decision in zip(rows, ("anomalous", "anomalous", "normal"), strict=True):
        record_review(
            workspace,
            Review(
                **row,
                model_id=ids[0],
                batch_id=ids[1],
                calibration_id=None,
                anomaly_score=1.0,
                verdict="anomalous",
                decision=decision,
                reviewer="Zoe",
                note="",
                review_id=new_review_id(),
            ),
        )
    html = Path(report(root)["report"]).read_text()
    assert "2 of 3 reviewed images are anomalous: all of these were flagged, and all of 1 normal ones." in html
    assert "labelled images are anomalous" in html


def test_page_holds_the_models_card(
    page_file: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, result = page_file
    workspace = shutil.copytree(written.parent.parent, tmp_path / "workspace")
    options = ReportOptions(batch=result["batch_id"], workspace=str(workspace))
    described = describe_model(Workspace.at(str(workspace)), result["model_id"])

    def page(*warnings: str) -> str:
        told = {**described, "training": {"warnings": list(warnings)} if warnings else {}}
        monkeypatch.setattr(reporting, "describe_model", lambda *_: told)
        return Path(reporting.write_report(options, result["batch_id"], result["model_id"]).path).read_text()

    html = page("Sigma is <b>small</b>.", "Posterior collapse.")
    assert "Sigma is &lt;b&gt;small&lt;/b&gt;." in html
    assert html.index("Posterior collapse.") < html.index("What was run</h2>")
    assert "<h4>Data and split</h4>" in html
    assert '<img src="data:image/svg+xml;base64,' in html.split("<h4>Curves</h4>")[1]
    history = workspace / "history" / f"{result['model_id']}.parquet"
    history.unlink()
    html = page()
    assert "Warnings" not in html
    assert str(history) in html.split("<h2>Model</h2>")[1]


def test_pictures_need_neither_the_images_nor_the_model(workspace: Path, images: Path, tmp_path: Path) -> None:
    new = shutil.copytree(images / "new" / "b", tmp_path / "new")
    scored = score(new, workspace)
    before = Path(scored["report"]).read_text()
    for folder in (new, workspace / "models", workspace / "engines", workspace / "history", workspace / "cards"):
        shutil.rmtree(folder, ignore_errors=True)
    html = Path(report(workspace)["report"]).read_text()
    assert part(html, "flagged").count("<figure") == scored["n_anomalous"] > 0
    pictures = [re.findall(r'<img src="(data:image/jpeg[^"]+)" alt="(\w+)">', page) for page in (before, html)]
    assert pictures[0] == pictures[1]
    assert {name for _, name in pictures[1]} == {"original", "heatmap"}
    assert "model.json" in html


def test_without_a_calibration_there_are_no_verdicts_and_no_drift(images: Path, workspace: Path) -> None:
    scored = score(images / "new", workspace, uncalibrated=True)
    html = Path(scored["report"]).read_text()
    assert "<h1>26 of 28 images scored, without verdicts: the model is not calibrated.</h1>" in html
    assert "Share of images by anomaly score" in html
    for absent in ('class="chance"', "<figure", "<h2>Drift"):
        assert absent not in html
    assert scored["drift"] is None
    assert "nelbo.drift" not in read_metadata(Path(scored["scores"]))
    (row,) = read_table(workspace / "runs" / f"{scored['run_id']}.parquet").to_pylist()
    assert (row["drift"], row["drift_tests"], row["drift_p_value"]) == (None, None, None)


def photograph(random: np.random.Generator) -> Image.Image:
    """A picture in colour, whose noise survives reduction."""
    rows, columns = np.mgrid[:480, :640]
    parts = [120 + 60 * np.sin(rows / f) + 50 * np.cos(columns / f) for f in random.uniform(5, 90, 3)]
    values = np.stack(parts, axis=-1) + random.normal(0, 40, (480, 640, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def test_two_hundred_flagged_images_take_less_than_five_megabytes(
    workspace: Path, tmp_path: Path, random: np.random.Generator
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    for i in range(8):
        photograph(random).save(new / f"{i}_00.jpg", quality=90)
        for again in range(1, 26):
            (new / f"{i}_{again:02d}.jpg").hardlink_to(new / f"{i}_00.jpg")
    result = score(new, workspace)
    page = Path(result["report"])
    html = page.read_text()
    assert result["n_anomalous"] == 208
    assert part(html, "flagged").count("<figure") == 200
    assert "200 of 208 are shown; all are in flagged.parquet" in html
    assert len(re.findall(r'<img src="data:image/jpeg;base64,[^"]{500,}" alt="original">', html)) == 200
    assert len(re.findall(r'<path d="M[^"]+Z"/><path', html)) == 200
    assert page.stat().st_size < 5_000_000


def test_the_largest_pictures_stay_within_the_limit(random: np.random.Generator) -> None:
    """Noise, which JPEG cannot compress, at a model's default size."""
    pixels = random.random((1, 256, 256, 3)).astype(np.float32)
    looked_at = pictured(pixels, np.ones(1), random.random((1, 32, 32)).astype(np.float32), np.array([[0.0, 1.0]]))
    row = dict.fromkeys(FLAGGED_SCHEMA.names) | looked_at.to_pylist()[0]
    row |= {"relative_path": "a.png", "verdict": "anomalous", "anomaly_score": 9.0, "label": 0}
    rows = pa.Table.from_pylist([row] * 200, FLAGGED_SCHEMA)
    normals = Normals([{"relative_path": "b.png", "thumbnail": row["thumbnail"]}])
    shown = sections(rows, rows, 1000, rows.slice(0, 0), normals)
    assert [(one.name, one.n, len(one.cards)) for one in shown] == [("flagged", 1000, 200), ("false", 200, 12)]
    cards = [card for one in shown for card in one.cards]
    assert sum(len(card.original + card.heatmap + card.nearest + 2 * card.outline) for card in cards) < 4_600_000
    # The first pictures are large enough to be examined.
    assert len(cards[0].original) > 3 * len(cards[100].original) > 3_000


def test_false_alarms_are_counted_among_all_that_is_flagged() -> None:
    """Also if none of them is among the strangest, the only ones that come with pictures."""
    row = dict.fromkeys(FLAGGED_SCHEMA.names) | {"verdict": "anomalous"}
    rows = [row | {"relative_path": f"{i}.png", "anomaly_score": 1000.0 - i, "label": int(i < 200)} for i in range(600)]
    table = pa.Table.from_pylist(rows, FLAGGED_SCHEMA)
    _, false = sections(table, table.slice(0, 200), 600, table.slice(0, 0), Normals([]))
    assert (false.name, false.n) == ("false", 400)
    assert [card.row["relative_path"] for card in false.cards] == [f"{i}.png" for i in range(200, 212)]


def test_the_strangest_images_are_shown_wherever_their_rows_are(random: np.random.Generator) -> None:
    # Nine groups of rows, with ties across them.
    scores = random.permutation(np.arange(900) // 3).astype(float)
    columns = {field.name: pa.nulls(100, field.type) for field in FLAGGED_SCHEMA}
    groups = [pa.table(columns | {"anomaly_score": some}, FLAGGED_SCHEMA) for some in np.split(scores, 9)]
    shown, n_flagged = strangest(groups, 50)
    assert n_flagged == 900
    assert shown["anomaly_score"].to_pylist() == sorted(scores, reverse=True)[:50]
    shown, _ = strangest(groups, 1000)
    assert shown["anomaly_score"].to_pylist() == sorted(scores, reverse=True)


def report(workspace: Path, **options: Any) -> dict[str, Any]:
    return execute("report", ReportOptions(workspace=str(workspace), **options), prefect=False)


def test_the_batch_scored_last_is_reported_unless_another_is_named(tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    workspace = stub_workspace(root)
    with pytest.raises(NotYetError, match=r"no batch is scored yet in workspace .*nelbo score DIR"):
        report(root)
    with pytest.raises(NotYetError, match=f"no batch is scored yet .* with model {MODEL}"):
        report(root, model=MODEL)
    for now, name in enumerate(("zebra", "apple", "mango")):
        add_batch(workspace, name, ["a.png", "b.png"], calibrations_of(workspace, MODEL)[0], not_scored=0)
        scores = root / "scores" / f"model_id={MODEL}" / f"batch_id={name}"
        # Clocks of file systems are coarse.
        os.utime(scores / "scores.parquet", (1_000_000 + now, 1_000_000 + now))
    # A foreign folder beside the batches is no batch.
    shutil.copytree(scores, scores.with_name("batch_id=a.bak"))
    for named, expected in ((None, "mango"), ("apple", "apple")):
        for model in (None, "latest"):
            result = report(root, batch=named, model=model)
            assert (result["batch_id"], result["model_id"]) == (expected, MODEL)
            assert Path(result["report"]).name == f"{expected}.html"
    with pytest.raises(UsageError, match=f"batch 'pear' has no scores .* with model {MODEL}"):
        report(root, batch="pear", model="latest")


@pytest.fixture
def opened(page_file: tuple[Path, dict[str, Any]], visitor: Any) -> Iterator[Any]:
    """The page in a browser; fails on any error or request to another machine."""
    problems: list[str] = []
    page = visitor.new_page()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("requestfailed", lambda request: problems.append(request.url[:80]))
    page.on("request", lambda request: None if is_local(request.url) else problems.append(request.url))
    page.goto(page_file[0].as_uri())
    page.wait_for_load_state("networkidle")
    yield page
    page.close()
    assert problems == []


def is_local(url: str) -> bool:
    return url.startswith(("file:", "data:"))


@pytest.mark.slow
def test_page_opens_without_errors(page_file: tuple[Path, dict[str, Any]], opened: Any) -> None:
    assert str(page_file[1]["n_anomalous"]) in opened.inner_text("h1")
    assert opened.locator("#flagged figure").count() == page_file[1]["n_anomalous"]
    assert opened.locator("#flagged figure", has_text=ATTACK).count() == 1
    assert opened.locator("table", has_text="gone.png").count() == 1
    # Every picture is loaded, and the histogram is drawn.
    assert opened.evaluate("[...document.images].every(picture => picture.naturalWidth > 0)")
    assert opened.locator("svg rect").count() > 3


@pytest.mark.slow
def test_twelve_pictures_are_on_the_first_screen(opened: Any) -> None:
    opened.set_viewport_size({"width": 1280, "height": 800})
    boxes = [figure.locator(".original").bounding_box() for figure in opened.locator("#flagged figure").all()[:12]]
    assert len(boxes) == min(12, opened.locator("#flagged figure").count()) > 3
    assert max(box["y"] + box["height"] / 2 for box in boxes) < 800
    assert min(box["width"] for box in boxes) > 150
    # Outlines lie on their picture.
    for figure in opened.locator("figure:has(.outline)").all():
        picture, lines = (figure.locator(name).first.bounding_box() for name in (".original img", ".outline"))
        assert lines == pytest.approx(picture, abs=1)


@pytest.mark.slow
def test_page_is_accessible(opened: Any) -> None:
    opened.locator("summary").click()
    for scheme, width in product(("light", "dark"), (1280, 390)):
        opened.emulate_media(color_scheme=scheme)
        opened.set_viewport_size({"width": width, "height": 900})
        background = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background))) < 384) == (scheme == "dark")
        assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert findings(opened) == []
        opened.locator("#flagged .open").first.click()
        assert opened.evaluate("document.querySelector('dialog').scrollWidth <= window.innerWidth")
        assert findings(opened) == []
        opened.keyboard.press("Escape")


def findings(page: Any) -> list[tuple[str, str]]:
    return [(rule["id"], rule["impact"]) for rule in Axe().run(page).response["violations"]]


@pytest.mark.slow
def test_a_picture_is_enlarged_and_arrow_keys_move_on(opened: Any) -> None:
    dialog, names = opened.locator("dialog"), paths(opened.content())
    assert not dialog.is_visible()
    small = opened.locator("#flagged .original").nth(1).bounding_box()
    opened.locator("#flagged .open").nth(1).click()
    assert dialog.is_visible()
    assert dialog.locator(".at").inner_text() == f"2 of {len(names)}"
    large = dialog.locator(".original").bounding_box()
    assert large["width"] > 2 * small["width"]
    assert dialog.locator(".nearest img").is_visible()
    seen = []
    for key in ("ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft", "Home", "End"):
        opened.keyboard.press(key)
        seen.append(dialog.locator(".name").get_attribute("title"))
    shown = [opened.locator("main .name").nth(at).get_attribute("title") for at in (2, 1, 0, -1, 0, -1)]
    assert seen == shown
    opened.keyboard.press("Home")
    # Buttons do the same as keys.
    for press in (lambda: opened.keyboard.press("o"), lambda: dialog.get_by_text("lines (o)").click()):
        assert dialog.locator(".outline").is_visible()
        press()
        assert not dialog.locator(".outline").is_visible()
        assert dialog.get_by_text("lines (o)").get_attribute("aria-pressed") == "true"
        press()
    opened.keyboard.press("m")
    assert dialog.locator(".heatmap").bounding_box()["width"] > 2 * dialog.locator(".original").bounding_box()["width"]
    opened.keyboard.press("m")
    dialog.get_by_label("Next image").click()
    opened.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert opened.evaluate("document.activeElement.ariaLabel") == f"Enlarge {shown[1]}"


@pytest.mark.slow
def test_without_scripts_pictures_are_shown_and_dead_controls_are_not(
    page_file: tuple[Path, dict[str, Any]], browser: Any
) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(page_file[0].as_uri())
        assert page.locator("#flagged .original img").first.is_visible()
        assert page.locator("#flagged .outline").first.is_visible()
        assert [button for button in page.locator("button").all() if button.is_visible()] == []


@pytest.mark.slow
def test_the_focus_moves_down_the_page(opened: Any) -> None:
    stops = []
    while not stops or stops[-1][0] != "SUMMARY":
        opened.keyboard.press("Tab")
        stops.append(focused(opened))
        assert len(stops) < 200
    opened.keyboard.press("Enter")
    opened.keyboard.press("Tab")
    stops.append(focused(opened))
    kinds = [name for name, _ in stops]
    n_links, n_pictures = opened.locator("nav a").count(), opened.locator("main figure").count()
    assert kinds == ["A"] * n_links + ["BUTTON"] * n_pictures + ["SUMMARY", "DIV"]
    opened.locator("nav a", has_text="Not scored").press("Enter")
    assert opened.evaluate("document.querySelector('#not-scored').getBoundingClientRect().top < window.innerHeight")


def focused(page: Any) -> tuple[str, float]:
    """The focused element's tag, and its distance from the top of the page."""
    name, top = page.evaluate(
        "[document.activeElement.tagName, document.activeElement.getBoundingClientRect().top + window.scrollY]"
    )
    return name, top


@pytest.mark.slow
def test_the_page_prints_on_white_with_all_parts_open(opened: Any) -> None:
    # Paper is white in dark mode, too.
    opened.emulate_media(color_scheme="dark", media="print")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.evaluate("getComputedStyle(document.querySelector('.key')).printColorAdjust") == "exact"
    assert not opened.locator("nav").is_visible()
    # Folded parts are open in print, because nobody can unfold them on paper.
    assert opened.locator(".document h3").evaluate("heading => heading.checkVisibility({contentVisibilityAuto: true})")
    assert opened.pdf(format="A4").startswith(b"%PDF")


def test_histogram_counts_every_image_once() -> None:
    scores = np.array([0.0, 1.0, 1.0, 2.0, 50.0])
    drawn = histogram(scores, np.array([0.5, 1.5]), threshold=2.0)
    assert sum(int(re.search(r"(\d+) images?", text).group(1)) for _, _, text in drawn.bars) == 5  # type: ignore[union-attr]
    assert drawn.overflow == 1
    assert drawn.threshold_x == pytest.approx(WIDTH * 2 / 5)
    assert min(top for _, top, _ in drawn.bars) >= 0


def test_a_histogram_of_equal_scores_is_drawn() -> None:
    drawn = histogram(np.array([3.0, 3.0]), np.empty(0), None)
    assert (len(drawn.bars), drawn.outline, drawn.threshold_x) == (1, "", None)


def looked_at(path: Path, preprocessing: Preprocessing, usual: float, high: float) -> dict[str, Any]:
    """A flagged row whose map says how much brighter than usual an image is."""
    images = read_images([path], preprocessing)
    maps = np.maximum(images.pixels[..., 0] - usual, 0)
    table = pictured(images.pixels, images.aspects, maps, np.array([[0.0, high]]))
    return {**table.to_pylist()[0], "heatmap_png": None}


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize(("width", "height"), [(300, 90), (90, 300)])
def test_the_outline_lies_around_the_defect(fit: str, width: int, height: int, tmp_path: Path) -> None:
    original = np.full((height, width), 100, np.uint8)
    original[height // 3 : height // 3 + 20, width // 4 : width // 4 + 20] = 200
    Image.fromarray(original).save(tmp_path / "a.png")
    preprocessing = Preprocessing(48, 64, 1, fit)
    row = looked_at(tmp_path / "a.png", preprocessing, 100 / 255, 0.4)
    drawn = pictures(row)
    assert drawn.original is not None
    assert drawn.outlined is not None
    stretched = fit == "stretch"
    assert drawn.original.width / drawn.original.height == pytest.approx(
        width / height if stretched else 4 / 3, rel=0.03
    )
    left, upper, right, lower = (0, 0, 64, 48) if stretched else preprocessing.part_filled(width, height)
    across, down = np.array([left, right]) / 64, np.array([upper, lower]) / 48
    xs = across[0] + np.array([width // 4, width // 4 + 20]) / width * np.ptp(across)
    ys = down[0] + np.array([height // 3, height // 3 + 20]) / height * np.ptp(down)
    (polygon,) = outline_of(row)
    assert [polygon[:, 0].min(), polygon[:, 0].max()] == pytest.approx(xs.tolist(), abs=0.03)
    assert [polygon[:, 1].min(), polygon[:, 1].max()] == pytest.approx(ys.tolist(), abs=0.03)
    # Only lines are drawn.
    changed = np.any(np.asarray(drawn.outlined) != np.asarray(drawn.original.convert("RGB")), axis=-1)
    rows, columns = np.nonzero(changed)
    near = np.array([0.03 * drawn.original.width + 3, 0.03 * drawn.original.height + 3])
    ends = np.array([xs * drawn.original.width, ys * drawn.original.height])
    on_line = np.abs(np.stack([columns, rows])[:, None] - ends[:, :, None]).min(axis=1) < near[:, None]
    assert on_line.any(axis=0).all()


def test_a_turned_photograph_and_its_heatmap_are_upright(tmp_path: Path) -> None:
    """It is stored on its side; seen upright, its white corner is at the upper right."""
    stored = np.zeros((80, 160), np.uint8)
    stored[:30, :30] = 255
    orientation = Image.Exif()
    orientation[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "turned.jpg", quality=95, exif=orientation)
    drawn = pictures(looked_at(tmp_path / "turned.jpg", Preprocessing(32, 32), 0.0, 1.0))
    shown = np.asarray(drawn.heatmap)
    assert shown.shape[:2] == (192, 96)
    assert shown[10, 86].tolist() == pytest.approx([252, 255, 164], abs=8)
    for row, column in ((10, 10), (180, 86), (180, 10)):
        assert shown[row, column].max() < 16


def test_rows_of_version_5_show_their_heatmap_alone() -> None:
    heatmap = Image.fromarray(colours(np.eye(32)))
    row = {"map": None, "map_low": None, "map_high": None, "thumbnail": None, "heatmap_png": png(heatmap)}
    # Missing values as pandas gives them.
    for nothing in (None, float("nan")):
        drawn = pictures({name: nothing if value is None else value for name, value in row.items()})
        assert (drawn.original, drawn.outlined) == (None, None)
        assert np.asarray(drawn.heatmap)[::6, ::6].max(axis=-1).argmax(axis=1).tolist() == list(range(32))


def packed(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"thumbnail": packed(Image.new("1", (5000, 5000)), "PNG")},
        {"thumbnail": packed(Image.new("L", (5000, 5000)), "JPEG")},
        {"thumbnail": packed(Image.new("L", (64, 64)), "JPEG")[:-200]},
        {"thumbnail": b"no picture", "map": None, "heatmap_png": packed(Image.new("1", (5000, 5000)), "PNG")},
        {"thumbnail": None, "map": []},
        {"thumbnail": None, "map": [[1.0, 2.0], [3.0]]},
        {"thumbnail": None, "map_low": None},
        {"thumbnail": None, "map_high": float("inf")},
    ],
)
def test_damaged_or_hostile_values_of_a_row_are_not_drawn(changes: dict[str, Any]) -> None:
    row = {"map": [[1.0, 2.0]], "map_low": 1.0, "map_high": 3.0, "thumbnail": None, "heatmap_png": None}
    drawn = pictures(row | changes)
    assert drawn.original is None
    assert (drawn.heatmap is None) == (not isinstance(changes["thumbnail"], bytes) or "map" in changes)


@pytest.mark.parametrize(("beside", "colour"), [(float("nan"), (0, 0, 4)), (9.0, (252, 255, 164))])
def test_a_map_with_an_empty_scale_or_missing_numbers_is_drawn(beside: float, colour: tuple[int, ...]) -> None:
    row = {"map": [[1.0, beside]], "map_low": 1.0, "map_high": 1.0, "thumbnail": None, "heatmap_png": None}
    heatmap = pictures(row).heatmap
    assert heatmap is not None
    assert (heatmap.getpixel((0, 0)), heatmap.getpixel((191, 0))) == ((0, 0, 4), colour)


def test_lines_enclose_what_exceeds_the_level_of_the_row() -> None:
    row = {"map": np.zeros((8, 8)).tolist(), "map_low": 1.0, "map_high": 3.0, "thumbnail": None, "heatmap_png": None}
    row["map"][1][1], row["map"][5][6], row["map"][6][1] = 9.0, 4.0, 2.0
    middles = {level: middles_of({**row, "map_level": level}) for level in (None, np.nan, 3.0, 1.5, 9.0)}
    # Without a level, the lines enclose values above 5, half of the highest.
    assert middles[None] == middles[np.nan] == middles_of(row) == [(0.19, 0.19)]
    assert middles[3.0] == [(0.19, 0.19), (0.81, 0.69)]
    assert middles[1.5] == [(0.19, 0.19), (0.19, 0.81), (0.81, 0.69)]
    assert middles[9.0] == []
    # A place without a number is in no region.
    row["map"][5][6] = np.nan
    assert middles_of({**row, "map_level": 3.0}) == [(0.19, 0.19)]


def middles_of(row: dict[str, Any]) -> list[tuple[float, ...]]:
    lines = outline_of(row)
    return sorted(tuple(((line.min(axis=0) + line.max(axis=0)) / 2).round(2).tolist()) for line in lines)


def test_outlines_of_masks_lie_on_the_masks() -> None:
    mask = np.zeros((600, 900), bool)
    mask[60:120, 810:900] = True
    (line,) = outline_of_masks([encode(mask, (0, 0), (900, 600)), "no mask"], (900, 600))
    np.testing.assert_allclose([line.min(axis=0), line.max(axis=0)], [[0.9, 0.1], [1.0, 0.2]], atol=0.006)
    assert outline_of_masks([], (900, 600)) == []


def test_pictures_stay_within_their_limit_of_bytes(random: np.random.Generator) -> None:
    noise = Image.fromarray(random.integers(0, 256, (192, 192, 3), np.uint8))
    sizes = [len(jpeg_url(noise, n_bytes)) * 3 / 4 for n_bytes in (30_000, 18_000, 6_000)]
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[1] < 18_100
    assert sizes[2] < 6_100
    plain = Image.new("L", (192, 192), 90)
    assert jpeg_url(plain, 4_000) == jpeg_url(plain, 10**9)
