"""The page Image, the file behind it, and the page Search."""

import hashlib
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import Pages, found, text
from PIL import Image
from reviewing import review
from scored import ATTACKS, MODEL, OTHER, START, WHY, add_batch, address_of
from synthetic import texture, write_images

from nelbo.data import File, read_metadata, read_table
from nelbo.flows.dashboard.originals import original, original_of
from nelbo.flows.numbers import fixed, number
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import record_review


def test_the_page_shows_what_is_known_of_an_image(looks: Pages, scores: pd.DataFrame) -> None:
    """The path, which is an attack, is shown as text."""
    row = scores[scores["relative_path"] == ATTACKS[0]].iloc[0]
    asked = address_of(row)
    page = looks.open("/image", **asked)
    said = text(page)
    assert text(found(page, ".//h1")) == ATTACKS[0]
    assert WHY in said
    assert f"nelbo {fixed(row['nelbo_nats'], 1)} nats" in said
    facts = {text(one.find("dt")): text(one.find("dd")) for one in page.findall(".//dl[@class='facts']/div")}
    assert facts == {
        "score": number(row["anomaly_score"]),
        "threshold": number(row["threshold"]),
        "p": number(row["p_value"], 3),
        "q": number(row["q_value"], 3),
    }
    assert "labelled anomalous" in said
    assert "64 x 64 pixels." in said
    pictures = [one.attrib["alt"] for one in page.iter("img")]
    assert {ATTACKS[0], f"map of {ATTACKS[0]}", "normal image normal/128.png"} <= set(pictures)
    assert page.findall(".//svg[@class='outline']/path")
    # Parts that take longer are loaded after the rest.
    lazy = [one.attrib["hx-get"] for one in page.iter() if one.get("hx-trigger") == "load"]
    assert len(lazy) == 2
    first, second = (looks.open(place) for place in lazy)
    assert found(first, ".//img").attrib["alt"] == f"original of {ATTACKS[0]}"
    assert "with a line around each of its regions" in text(first)
    assert first.findall(".//svg[@class='outline']/path")
    normals = read_table(looks.workspace.calibrations / row["calibration_id"] / "scores.parquet").to_pandas()
    nearest = normals.loc[(normals["anomaly_score"] - row["anomaly_score"]).abs().sort_values().index[:5]]
    assert [text(one) for one in second.findall(".//li/span[@class='any']")] == nearest["relative_path"].tolist()
    n_above = (normals["anomaly_score"] >= row["anomaly_score"]).sum()
    assert f"{n_above} of 199 score at least as high" in text(second)


def test_history_lists_all_scores_of_a_path(looks: Pages, scores: pd.DataFrame) -> None:
    page = looks.open("/image", **address_of(scores.iloc[0]))
    lines = page.findall(".//div[@aria-label='History']/table/tr")[1:]
    cells = [[text(cell) for cell in line] for line in lines]
    assert cells[0][1] == "shift"
    assert sorted((one[1], one[2]) for one in cells) == sorted(
        [
            ("shift", MODEL[:10]),
            ("repeat", MODEL[:10]),
            ("raw", MODEL[:10]),
            ("repeat", OTHER[:10]),
            ("single", OTHER[:10]),
        ]
    )
    assert {one[7] for one in cells} == {"the same"}
    for line in lines:
        looks.open(found(line, ".//a").attrib["href"])


def test_decisions_are_listed(own: Workspace, scores: pd.DataFrame) -> None:
    image_id = scores.iloc[0]["image_id"]
    pages = Pages(own)
    assert "Decisions" not in text(pages.open("/image", **address_of(scores.iloc[0])))
    record_review(own, review(1, image_id=image_id, decision="anomalous", kind="crack", reviewer="<i>Ann", note="a\nb"))
    record_review(own, review(2, image_id=image_id, reviewer="Bob"))
    record_review(own, review(3, image_id=image_id, reviewer="Bob", decision="withdrawn"))
    lines = pages.open("/image", **address_of(scores.iloc[0])).findall(".//div[@aria-label='Decisions']/table/tr")[1:]
    assert [[text(cell) for cell in line][1:] for line in lines] == [["<i>Ann", "defect", "crack", "a b"]]


def test_an_image_without_a_verdict_has_a_page(looks: Pages, scores: pd.DataFrame) -> None:
    page = text(looks.open("/image", **address_of(scores.iloc[0], "raw")))
    assert "without verdict" in page
    assert "Maps and pictures are kept of images that were flagged or nearly flagged, and of the audit sample." in page
    assert "None: the image has no score, or no calibration." in text(
        looks.open("/image/normals", **address_of(scores.iloc[0], "raw"))
    )


def test_of_images_with_the_same_contents_the_path_tells_which(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path / "w"))
    (path,) = write_images(tmp_path / "root", 1, seed=1)
    shutil.copy(path, path.with_name("copy.png"))
    rows = add_batch(workspace, "b1", [path.name, "copy.png"], None, root=tmp_path / "root", not_scored=0).to_pylist()
    assert rows[0]["image_id"] == rows[1]["image_id"]
    pages = Pages(workspace)
    for row in rows:
        assert text(found(pages.open("/image", **address_of(row, "b1")), ".//h1")) == row["relative_path"]
    assert text(found(pages.open("/image", **address_of(rows[0], "b1") | {"path": "x"}), ".//h1")) == "copy.png"


def _replaced(path: Path) -> None:
    Image.fromarray(texture(np.random.default_rng(7))).save(path)


def _linked(path: Path, above: int = 2) -> None:
    """Replace a file by a link to the same contents elsewhere."""
    path.symlink_to(path.rename(path.parents[above] / "secret.png"))


def _folder_linked(path: Path) -> None:
    path.parent.symlink_to(path.parent.rename(path.parents[2] / "secrets"))


CHANGES = [
    (_replaced, "changed or gone"),
    (Path.unlink, "changed or gone"),
    (_linked, "leads out of its folder"),
    (lambda path: _linked(path, above=1), "changed or gone"),
    (_folder_linked, "leads out of its folder"),
    (lambda path: shutil.rmtree(path.parents[1]), "changed or gone"),
]


@pytest.mark.parametrize(("change", "why"), CHANGES)
def test_only_the_scored_contents_of_a_file_are_shown(tmp_path: Path, change: Callable[[Path], None], why: str) -> None:
    """The page shows it no more, either."""
    root = tmp_path / "elsewhere" / "root"
    (path,) = write_images(root / "a", 1, seed=1)
    file = File(str(root), f"a/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest())
    workspace = Workspace.at(str(tmp_path / "w"))
    (row,) = add_batch(workspace, "b1", [file.path], None, root=root, not_scored=0).to_pylist()
    pages = Pages(workspace)
    shown = original(file)
    assert isinstance(shown, Image.Image)
    assert shown.size == (32, 32)
    assert list(pages.open("/image/original", **address_of(row, "b1")).iter("img"))
    change(path)
    assert why in str(original(file))
    part = pages.open("/image/original", **address_of(row, "b1"))
    assert why in text(part)
    assert not list(part.iter("img"))


def test_a_file_of_an_unknown_batch_or_contents_is_not_shown(two_models: Workspace, scores: pd.DataFrame) -> None:
    row, table = scores.iloc[0].to_dict(), two_models.scores(MODEL, "shift")
    assert isinstance(original_of(table, row), Image.Image)
    assert "does not say" in str(original_of(two_models.scores(MODEL, "pruned"), row))
    assert "could not be opened" in str(original_of(table, row | {"image_id": None}))
    assert "leads out" in str(original_of(table, row | {"relative_path": "../workspace/latest.json"}))


def test_an_address_cannot_name_a_file(looks: Pages, scores: pd.DataFrame) -> None:
    """The path in an address only selects a row; it opens no file."""
    root = Path(read_metadata(looks.workspace.scores(MODEL, "shift"))["nelbo.root"])
    own = looks.get("/image/original", **address_of(scores.iloc[0])).text.partition("base64,")[2][:200]
    assert own
    for path in ("../workspace/models", "/etc/passwd", str(root / scores.iloc[1]["relative_path"]), "\x00"):
        shown = looks.get("/image/original", **address_of(scores.iloc[0]) | {"path": path}).text
        assert shown.partition("base64,")[2].startswith(own)


# Search


def test_search_finds_paths_and_contents(looks: Pages, scores: pd.DataFrame) -> None:
    def lines(**query: str) -> list[tuple[str, str]]:
        page = looks.open("/search", **query)
        cells = [[text(cell) for cell in line] for line in page.findall(".//div[@aria-label='Images found']/table/tr")]
        return [(one[0], one[1]) for one in cells[1:]]

    hits = lines(text=" BLOT_2_00 ")
    assert {path for path, _ in hits} == {path for path in scores["relative_path"] if "blot_2_00" in path}
    assert {batch for _, batch in hits} == {"shift", "repeat", "raw", "single"}
    # The newest score comes first.
    assert hits[0][1] == "shift"
    row = scores.iloc[0]
    assert {path for path, _ in lines(text=row["image_id"].upper())} == {row["relative_path"]}
    assert sorted(lines(text="<IMG SRC")) == sorted(
        (ATTACKS[0], batch) for batch in ("shift", "repeat", "repeat", "raw", "single")
    )
    assert "No scored image has that in its path." in text(looks.open("/search", text="%' OR 'A' = 'A"))
    assert "Type a part of a file's path." in text(looks.open("/search", text="  "))


def test_search_has_pages(pages: Pages) -> None:
    first = pages.open("/search", text="line-0")
    assert "450 images, the last scored first." in text(first)
    assert "Page 1 of 18" in text(first)
    (following,) = [one.attrib["href"] for one in first.iter("a") if one.get("rel") == "next"]
    assert "Page 2 of 18" in text(pages.open(following))
    assert len(pages.open("/search", text="line-0", page=18).findall(".//tr")) == 1 + 25


def test_an_image_that_was_scored_again_is_told_from_the_earlier_one(own: Workspace, scores: pd.DataFrame) -> None:
    row = scores.iloc[0]
    add_batch(own, "later", [row["relative_path"]], None, not_scored=0, at=START + timedelta(days=3))
    page = Pages(own).open("/image", **address_of(row))
    cells = [text(line) for line in page.findall(".//div[@aria-label='History']/table/tr")[1:]]
    assert "later" in cells[0]
    assert "others" in cells[0]
