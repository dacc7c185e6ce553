"""The page as a browser sees it."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import reporting
from flows.errors import NotYetError, UsageError
from flows.execution import execute
from flows.heatmap import colours
from flows.histogram import HEIGHT, WIDTH, histogram
from flows.settings import ReportOptions, ScoreOptions

CHROMIUM = shutil.which("chromium")
ATTACK = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def page_file(
    trained: tuple[Path, dict[str, Any]], images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A report with labels, a file whose name is an attack, and one that is gone by now."""
    folder = tmp_path_factory.mktemp("report")
    workspace = shutil.copytree(trained[0], folder / "workspace")
    new = Path(shutil.copytree(images / "new", folder / "new"))
    shutil.copy(new / "b" / "blot_3_000.png", new / ATTACK)
    (new / "{{ 7 * 7 }}.txt").write_text("not an image")
    rows = [
        f'"{path.relative_to(new).as_posix()}",{int("blot" in path.name or path.name == ATTACK)}'
        for path in new.rglob("*.png")
    ]
    (new / "list.csv").write_text("path,label\n" + "\n".join([*rows, "{{ 7 * 7 }}.txt,", "gone.png,"]) + "\n")
    result = execute("score", ScoreOptions(images=str(new / "list.csv"), workspace=str(workspace)), prefect=False)
    return Path(result["report"]), result


def test_page_needs_no_network_and_escapes_names(page_file: tuple[Path, dict[str, Any]]) -> None:
    html = page_file[0].read_text()
    assert ATTACK not in html
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in html
    assert "{{ 7 * 7 }}.txt" in html
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert "<script" not in html
    assert len(html) < 5_000_000


def test_page_says_what_the_files_say(page_file: tuple[Path, dict[str, Any]]) -> None:
    html, result = page_file[0].read_text(), page_file[1]
    assert f"{result['n_anomalous']} of {result['n_scored']} scored images are anomalous; at the promised 5 %" in html
    assert f"{result['metrics']['auroc']['value']:.3f}" in html
    for text in (result["batch_id"], result["model_id"], result["calibration_id"], "gone.png", "not_an_image"):
        assert text in html
    assert html.count("<figure") == result["n_anomalous"]


def test_page_shows_what_training_warned_of(
    page_file: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, result = page_file
    workspace = shutil.copytree(written.parent.parent, tmp_path / "workspace")
    options = ReportOptions(batch=result["batch_id"], workspace=str(workspace))
    card = workspace / "cards" / f"{result['model_id']}.md"

    def page(*warnings: str) -> str:
        told = {"training": {"warnings": list(warnings)} if warnings else {}}
        monkeypatch.setattr(reporting, "describe_model", lambda *_: told)
        return Path(reporting.write_report(options, result["batch_id"], result["model_id"]).path).read_text()

    card.parent.mkdir(exist_ok=True)
    card.touch()
    html = page("Sigma is <b>small</b>.", "Posterior collapse.")
    assert "Sigma is &lt;b&gt;small&lt;/b&gt;." in html
    assert html.index("Posterior collapse.") < html.index("What was run")
    assert f"<td>cards/{card.name}</td>" in html
    card.unlink()
    html = page()
    assert "Warnings" not in html
    assert "model card" not in html


def test_the_batch_scored_last_is_reported_unless_another_is_named(
    trained: tuple[Path, dict[str, Any]], images: Path, tmp_path: Path
) -> None:
    workspace = shutil.copytree(trained[0], tmp_path / "workspace")
    at, other = {"workspace": str(workspace)}, trained[1]["model_id"]
    with pytest.raises(NotYetError, match=r"no batch is scored yet in workspace .*nelbo score DIR"):
        execute("report", ReportOptions(**at), prefect=False)
    with pytest.raises(NotYetError, match=f"no batch is scored yet .* with model {other}"):
        execute("report", ReportOptions(model=other, **at), prefect=False)
    for now, name in enumerate(("zebra", "apple", "mango")):
        execute("score", ScoreOptions(images=str(images / "new" / "b"), batch_id=name, **at), prefect=False)
        (scores,) = workspace.glob(f"scores/*/batch_id={name}/scores.parquet")
        # Clocks of file systems are coarse.
        os.utime(scores, (1_000_000 + now, 1_000_000 + now))
    # What somebody has put beside the batches is none.
    shutil.copytree(scores.parent, scores.parents[1] / "batch_id=a.bak")
    for named, expected in ((None, "mango"), ("apple", "apple")):
        for model in (None, "latest"):
            result = execute("report", ReportOptions(batch=named, model=model, **at), prefect=False)
            assert (result["batch_id"], result["model_id"]) == (expected, other)
            assert Path(result["report"]).name == f"{expected}.html"
    with pytest.raises(UsageError, match=f"batch 'pear' has no scores .* with model {other}"):
        execute("report", ReportOptions(batch="pear", model="latest", **at), prefect=False)


@pytest.fixture
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian package chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-background-networking",
                "--disable-sync",
            ],
        )
        yield chromium
        chromium.close()


@pytest.mark.slow
def test_page_opens_without_errors(page_file: tuple[Path, dict[str, Any]], browser: Any) -> None:
    problems: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("requestfailed", lambda request: problems.append(request.url[:80]))
    page.goto(page_file[0].as_uri())
    page.wait_for_load_state("networkidle")
    assert problems == []
    assert str(page_file[1]["n_anomalous"]) in page.inner_text("h1")
    assert page.locator("figure").count() == page_file[1]["n_anomalous"]
    assert page.locator("figure", has_text=ATTACK).count() == 1
    assert page.locator("table", has_text="gone.png").count() == 1
    # Every picture is there, and the histogram is drawn.
    assert page.evaluate("[...document.images].every(picture => picture.naturalWidth > 0)")
    assert page.locator("svg rect").count() > 3
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_colours_run_from_black_to_pale_yellow() -> None:
    values = colours(np.array([[-1.0, 0.0, 2.0, 4.0, 9.0]]), top=4.0)
    assert values.shape == (1, 5, 3)
    assert values[0, 0].tolist() == values[0, 1].tolist() == [0, 0, 4]
    assert values[0, 3].tolist() == values[0, 4].tolist() == [252, 255, 164]
    lightness = colours(np.linspace(0, 1, 50)[None], 1.0)[0] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()


def test_histogram_counts_every_image_once() -> None:
    scores = np.array([0.0, 1.0, 1.0, 2.0, 50.0])
    drawn = histogram(scores, np.array([0.5, 1.5]), threshold=2.0)
    assert sum(int(re.search(r"(\d+) images", bar.text).group(1)) for bar in drawn.bars) == 5  # type: ignore[union-attr]
    assert drawn.overflow == 1
    assert drawn.threshold_x == pytest.approx(WIDTH * 2 / 5)
    assert max(bar.height for bar in drawn.bars) <= HEIGHT


def test_histogram_of_equal_scores() -> None:
    drawn = histogram(np.array([3.0, 3.0]), np.empty(0), None)
    assert (len(drawn.bars), drawn.outline, drawn.threshold_x) == (1, "", None)
