"""What the training images decide: channels, unless they are given, and what a grey model says about colour."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import calibrate, score
from PIL import Image
from synthetic import texture, write_images, write_list

from nelbo.data import read_scores
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.steps.fit import make_preprocessing, model_config, unfinished
from nelbo.flows.steps.settle import settle
from nelbo.flows.steps.train import freeze_normals
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run

RED = (200, 40, 40)


pytestmark = pytest.mark.usefixtures("known_networks")


def options(folder: Path, **more: Any) -> TrainOptions:
    # Parts have tests of their own, in test_locating.py.
    small = {"image_size": (16, 16), "epochs": 1, "locate": "off"}
    return TrainOptions(normal=str(folder / "in"), workspace=str(folder / "w"), **{**small, **more})


def train(chosen: TrainOptions) -> dict[str, Any]:
    return execute("train", chosen, prefect=False)


def frozen(folder: Path, **more: Any) -> tuple[TrainOptions, str]:
    asked = options(folder, **more)
    return asked, freeze_normals(asked, Run("train", asked))


def paint(file: Path, colour: tuple[int, int, int] = RED) -> None:
    """Write an image in colour, with the texture of the grey ones."""
    grey = texture(np.random.default_rng(len(file.name)))
    Image.fromarray((grey[..., None] * (np.array(colour) / 255)).astype(np.uint8)).save(file)


@pytest.fixture
def normals(tmp_path: Path) -> Path:
    """40 grey images, half of them stored as RGB, some as JPEG with noise in their channels."""
    paths = write_images(tmp_path / "in", 40, seed=0)
    random = np.random.default_rng(0)
    for path in paths[:20]:
        Image.open(path).convert("RGB").save(path)
    for path in paths[:10]:
        pixels = np.asarray(Image.open(path).resize((128, 128)))
        noisy = np.clip(pixels + random.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
        path.unlink()
        Image.fromarray(noisy).save(path.with_suffix(".jpg"), quality=80)
    return tmp_path


def test_grey_images_stored_as_rgb_are_grey(normals: Path) -> None:
    settled = settle(*frozen(normals))
    assert settled.options.channels == 1
    assert settled.why == {"channels": "no training image has colour"}
    # As no image is in floats, their range is 0 to 1.
    assert settled.options.float_range == make_preprocessing(settled.options).float_range == (0, 1)


def test_one_image_with_colour_among_grey_ones_makes_three_channels(normals: Path) -> None:
    paint(normals / "in" / "zz.png")
    asked, batch_id = frozen(normals)
    settled = settle(asked, batch_id)
    assert settled.options.channels == 3
    assert settled.why == {"channels": "colour varies in the training images, first in zz.png"}
    # Settings that depend on it equal those of a training with three channels given.
    told = options(normals, channels=3, float_range=(0, 1))
    assert make_preprocessing(settled.options) == make_preprocessing(told)
    assert model_config(settled.options) == model_config(told)
    assert unfinished(settled.options, batch_id) == unfinished(told, batch_id) != unfinished(asked, batch_id)
    # The same again, as after a kill.
    assert settle(asked, batch_id) == settled


def test_explicit_settings_are_left_alone(normals: Path) -> None:
    paint(normals / "in" / "zz.png")
    for channels in (1, 3):
        asked, batch_id = frozen(normals, channels=channels, float_range=(0, 1))
        assert settle(asked, batch_id).options is asked


def test_images_whose_stored_mode_is_grey_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "in", 40, seed=0)
    asked, batch_id = frozen(tmp_path)
    looked_at: list[Any] = []
    monkeypatch.setattr("nelbo.flows.steps.settle.first_coloured", lambda files, **_: looked_at.extend(files))
    assert settle(asked, batch_id).options.channels == 1
    assert looked_at == []


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """All warnings but the one that a model is too small to see defects."""
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [text for text in said if "cannot see simulated defects" not in text]


def test_images_for_testing_decide_nothing(normals: Path) -> None:
    paint(normals / "in" / "zz.png")
    names = sorted(path.name for path in (normals / "in").iterdir())
    rows = [(name, "test" if name == "zz.png" else "train") for name in names]
    write_list(normals / "in" / "list.csv", "path,split", rows)
    asked = options(normals).model_copy(update={"normal": str(normals / "in" / "list.csv")})
    assert settle(asked, freeze_normals(asked, Run("train", asked))).options.channels == 1


def test_colour_is_not_dropped_and_the_output_and_the_card_say_so(
    normals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paint(normals / "in" / "zz|.png")
    result = train(options(normals))
    assert json.dumps(result)
    assert result["channels"] == 3
    assert result["settled"] == {"channels": "colour varies in the training images, first in zz|.png"}
    workspace = Workspace.at(str(normals / "w"))
    card = workspace.card(result["model_id"]).read_text(encoding="utf-8")
    assert "RGB (auto: colour varies in the training images, first in zz&#124;.png)" in card
    facts = json.loads((workspace.models / result["model_id"] / "model.json").read_text())
    assert facts["config"]["channels"] == facts["preprocessing"]["channels"] == 3
    assert not list((normals / "w" / "checkpoints").iterdir())
    # With the channels given, training makes the same model.
    told = train(options(normals, channels=3))
    assert (told["model_id"], told["channels"], "settled" in told) == (result["model_id"], 3, False)
    caplog.clear()
    assert score(normals / "in", normals / "w")["n_colour_dropped"] == 0
    assert not _warnings(caplog)


def test_a_colour_batch_under_a_grey_model_gives_one_warning(normals: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = train(options(normals))
    assert trained["channels"] == 1
    assert "grey (auto: no training image has colour)" in (
        normals / "w" / "cards" / f"{trained['model_id']}.md"
    ).read_text(encoding="utf-8")
    new = normals / "new"
    write_images(new, 5, seed=9)
    for n in range(3):
        paint(new / f"red{n * 'x'}.png")
    Image.open(next(iter(sorted(new.glob("tile*"))))).convert("RGB").save(new / "stored_as_rgb.png")
    (new / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    caplog.clear()
    # Many shards give one warning.
    result = score(new, normals / "w", shard_size=2)
    assert (result["n_images"], result["n_scored"], result["n_colour_dropped"]) == (10, 9, 3)
    said = _warnings(caplog)
    assert len(said) == 1
    assert said[0].startswith(f"3 of 9 images have colour, but model {trained['model_id']} sees them in grey")
    assert "channels=auto (or 3)" in said[0]
    grey = score(normals / "in", normals / "w")
    assert grey["n_colour_dropped"] == 0
    # Calibrating also gives the warning.
    write_images(normals / "more", 30, seed=4)
    paint(normals / "more" / "red.png")
    caplog.clear()
    calibrate(normals / "w", normal=str(normals / "more"), fpr=0.2)
    (said,) = _warnings(caplog)
    assert said.startswith("1 of 31 images have colour")


def test_a_damaged_image_decides_nothing(normals: Path) -> None:
    paint(normals / "in" / "zz.png")
    asked, batch_id = frozen(normals)
    content = (normals / "in" / "zz.png").read_bytes()
    (normals / "in" / "zz.png").write_bytes(content[: len(content) // 2])
    assert settle(asked, batch_id).options.channels == 1


def write_floats(folder: Path, n: int, seed: int, top: float = 1000.0) -> list[Path]:
    """Write textures in floats from 0 to `top`."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    files = [folder / f"float{row}.tif" for row in range(n)]
    for file in files:
        Image.fromarray(texture(random).astype(np.float32) / 255 * np.float32(top)).save(file)
    return files


def test_floats_have_one_range_that_the_bundle_keeps(tmp_path: Path) -> None:
    """A bright image and a dark one with the same pattern differ for the model."""
    files = write_floats(tmp_path / "in", 40, seed=0)
    values = np.concatenate([np.asarray(Image.open(file)).ravel() for file in files])
    trained = train(options(tmp_path))
    low, high = float(values.min()), float(values.max())
    assert trained["settled"]["float_range"] == f"40 training images are in floats, from {low:g} to {high:g}"
    workspace = Workspace.at(str(tmp_path / "w"))
    facts = json.loads((workspace.models / trained["model_id"] / "model.json").read_text())
    assert facts["preprocessing"]["float_range"] == [low, high]
    assert "floats by one range" in workspace.card(trained["model_id"]).read_text(encoding="utf-8")
    dark = tmp_path / "new"
    dark.mkdir()
    image = np.asarray(Image.open(files[0]))
    Image.fromarray(image).save(dark / "as_it_was.tif")
    Image.fromarray(image / 2).save(dark / "half_as_bright.tif")
    result = score(dark, tmp_path / "w")
    scores = read_scores(result["scores"])["nelbo_nats"].to_pylist()
    assert scores[0] != scores[1]


def test_a_value_range_replaces_the_range_of_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_floats(tmp_path / "in", 40, seed=0)
    asked, batch_id = frozen(tmp_path, value_range=(0, 1000))
    monkeypatch.setattr("nelbo.flows.steps.settle.float_range", lambda files, **_: "looked at" if files else None)
    assert settle(asked, batch_id).options.float_range == (0, 1)
