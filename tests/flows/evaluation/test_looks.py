"""Normal images that would spoil a model, end to end: ``ingest`` and ``train`` name them, the card shows them."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from commands import train
from PIL import Image
from products import write_products

from nelbo.flows.options.options import IngestOptions, PruneOptions
from nelbo.flows.orchestration.execution import execute

#: The filters backbone needs no weights, and its bundles are small.
SMALL: dict[str, Any] = {"image_size": (64, 64), "preset": "features", "backbone": "filters", "engines": ()}


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 normal images of one size, 4 of another, 3 that are not normal, and one that is cut off."""
    folder = tmp_path_factory.mktemp("spoilt") / "normal"
    write_products(folder, "stripes", 64, 1)
    write_products(folder, "stripes", 3, 2, spot=True)
    for path in sorted(folder.glob("stripes_*.png"))[:4]:
        with Image.open(path) as picture:
            picture.resize((96, 96)).save(path)
    whole = (folder / "stripes_063.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[:300])
    return folder


def sentences(result: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["sentence"] for one in result["data"]}


def test_ingest_says_what_headers_show(spoilt: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = execute("ingest", IngestOptions(images=str(spoilt), workspace=str(tmp_path / "w")), prefect=False)
    said = sentences(result)
    assert list(said) == ["unusable", "sizes"]
    assert said["unusable"].startswith("1 of 68 files cannot be used (1 truncated; first: cut.png)")
    assert said["sizes"].startswith("4 of 67 images are of another size (96 x 96 pixels; most are 64 x 64; first: str")
    assert all(sentence in caplog.text for sentence in said.values())


def test_train_says_it_and_asks_whether_the_strangest_are_normal(
    spoilt: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    workspace = tmp_path / "w"
    result = train(spoilt, workspace, **SMALL)
    said = sentences(result)
    assert {"unusable", "sizes", "strange"} <= set(said)
    # The warning comes before a long decoding, not after it.
    assert caplog.text.index(said["sizes"]) < caplog.text.index("decoding 68 images")
    (asked,) = (one for one in result["data"] if one["name"] == "strange")
    assert set(asked["files"][:3]) == {f"spot_stripes_{i:03d}.png" for i in range(3)}
    card = workspace / "cards" / f"{result['model_id']}.md"
    section = card.read_text().split("\n## The data\n")[1].split("\n## ")[0]
    assert "1 of 68 files cannot be used" in section
    assert "**Are these really normal?**" in section
    assert f"![the strangest normal images]({card.stem}-strangest.png)" in section
    assert section.index("1. spot") < section.index("10. stripes")
    assert "| images | nats a feature |\n|---:|---:|\n| 1" in section
    with Image.open(card.with_name(f"{card.stem}-strangest.png")) as sheet:
        # Ten pictures in rows of three.
        assert sheet.size == (804, 4 * 266 + 6)
    # Once another model is the latest, prune may remove this one, with every file beside its card.
    train(spoilt, workspace, seed=1, **SMALL)
    for path in workspace.rglob("*"):
        os.utime(path, (1, 1))
    prune = PruneOptions(workspace=str(workspace), older_than="1h", models=True, apply=True)
    execute("prune", prune, prefect=False)
    assert not list(card.parent.glob(f"{card.stem}*"))


def test_sound_images_give_no_complaint(trained: tuple[Path, dict[str, Any]]) -> None:
    workspace, result = trained
    (asked,) = result["data"]
    # The strangest images are chosen among those on which the network was not trained.
    assert asked["name"] == "strange"
    assert f"strangest of {result['n_validation'] + result['n_calibration']} images" in asked["sentence"]
    card = (workspace / "cards" / f"{result['model_id']}.md").read_text()
    assert "Nothing was found in size, colour, exposure and sharpness" in card
    assert "Are they enough?" not in card
