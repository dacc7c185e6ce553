"""What training writes to the workspace, by likelihood and option, and what it refuses before it starts."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pyarrow as pa
import pytest
from commands import score
from PIL import Image
from synthetic import texture, write_images, write_list

from nelbo.data import read_table
from nelbo.flows.workspace.errors import UsageError


def train(folder: Path, source: str = "in", **more: Any) -> dict[str, Any]:
    return commands.train(folder / source, folder / "w", **{"image_size": (16, 16), "epochs": 1, **more})


@pytest.fixture
def normals(tmp_path: Path) -> Path:
    write_images(tmp_path / "in", 40, seed=0)
    return tmp_path


def test_training_writes_card_history_and_description(trained: tuple[Path, dict[str, Any]]) -> None:
    workspace, result = trained
    model_id = result["model_id"]
    card = (workspace / "cards" / f"{model_id}.md").read_text(encoding="utf-8")
    assert f"({model_id}.svg)" in card
    assert (workspace / "cards" / f"{model_id}.svg").exists()
    for text in ("gaussian\\_learned\\_sigma", str(result["n_train"]), str(result["n_calibration"])):
        assert text in card
    facts = json.loads((workspace / "models" / model_id / "model.json").read_text())["training"]
    assert facts["n_epochs"] == 12
    history = read_table(workspace / "history" / f"{model_id}.parquet")
    assert history["epoch"].to_pylist() == list(range(1, 13))
    assert facts["best_epoch"] == 1 + int(np.argmin(history["val_nelbo"].to_numpy()))
    assert facts["backend"] == "tensorflow"
    measured = {"nelbo", "distortion", "rate", "val_nelbo", "sigma", "learning_rate", "images_per_s", "rate_weight"}
    assert measured <= set(history.column_names)
    assert history.schema.field("nelbo").type == pa.float64()
    assert not list((workspace / "checkpoints").iterdir())
    assert not (workspace / "cache").exists()


def test_an_image_outside_the_likelihoods_range_loses_only_its_own_score(normals: Path) -> None:
    trained = train(normals, likelihood="discretised_logistic")
    new = normals / "new"
    write_images(new, 5, seed=1)
    deep = texture(np.random.default_rng(5)).astype(np.uint16) * 200 + 77
    Image.fromarray(deep).save(new / "deep.png")
    result = score(new, normals / "w")
    assert (result["n_scored"], result["n_not_scored"]) == (5, 1)
    rows = {row["relative_path"]: row for row in read_table(Path(result["scores"])).to_pylist()}
    assert rows["deep.png"]["reason"] == "unsupported"
    scored = [row for row in rows.values() if row["reason"] is None]
    assert {row["likelihood"] for row in scored} == {"discretised_logistic"}
    for row in scored:
        # Minus the logarithm of a probability of levels is never negative, and no term for 8 bits is added.
        assert row["distortion_nats"] >= 0
        assert row["bits_per_dim"] == pytest.approx(row["nelbo_nats"] / (256 * np.log(2)), rel=1e-6)
    assert trained["n_train"] > 0


def test_deep_normals_are_refused_where_levels_are_needed(normals: Path) -> None:
    random = np.random.default_rng(5)
    for i in range(3):
        deep = texture(random).astype(np.uint16) * 200 + 77
        Image.fromarray(deep).save(normals / "in" / f"deep{i}.png")
    with pytest.raises(
        UsageError, match=r"'deep\d.png'.* discretised_logistic is not defined for. Round them to the 256 levels"
    ):
        train(normals, likelihood="discretised_logistic")


def test_bernoulli_needs_binarised_images(normals: Path) -> None:
    with pytest.raises(UsageError, match=r"binarize is not set. Set binarize=0.5, or take .*continuous_bernoulli"):
        train(normals, likelihood="bernoulli")
    assert not (normals / "w").exists()
    train(normals, likelihood="bernoulli", binarize=0.6)
    result = score(normals / "in", normals / "w")
    assert result["n_scored"] == 40


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"preset": "resnet50"}, "try resnet"),
        ({"likelihood": "gaussian"}, "expected one of"),
        ({"sigma": 0.1}, "does not go with"),
        ({"batch_size": 9, "devices": 2}, "cannot be spread evenly over 2 devices"),
        ({"flip": "up"}, "flip='up'"),
        ({"shift_px": 99}, "less than the image's 16 pixels"),
        ({"precision": "half"}, "mixed_bfloat16"),
        ({"batch_size": 64, "devices": 64}, "devices=64: this machine has"),
    ],
)
def test_bad_settings_give_an_error_of_one_line(normals: Path, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(normals, **bad)
    # Before anything is hashed or decoded.
    assert not (normals / "w").exists()


def test_divergence_names_files_on_the_command_line(normals: Path, nelbo: Callable[..., Any]) -> None:
    settings = ("image_size=16", "epochs=2", "batch_size=8", "learning_rate=1", "likelihood=gaussian_pixel_sigma")
    given = [part for setting in settings for part in ("--set", setting)]
    code, out, err = nelbo("train", "--normal", normals / "in", "--workspace", normals / "w", "--no-prefect", *given)
    assert (code, out) == (1, "")
    last = err.strip().splitlines()[-1]
    assert "NaN or infinite in epoch" in last
    assert re.search(r"\('tile_0_\d+\.png', ", last)
    assert "learning rate below 1" in last
    assert "safe to run" not in last
    assert not (normals / "w" / "models").exists()


@pytest.mark.usefixtures("known_networks")
def test_a_kept_cache_is_reused(normals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(normals, keep_cache=True)
    (kept,) = (normals / "w" / "cache").iterdir()
    monkeypatch.setattr("nelbo.data.cache.read_images", refuse)
    again = train(normals, fpr=0.1, keep_cache=True)
    # A training without keep_cache also uses the cache, and leaves it in place.
    third = train(normals, fpr=0.2)
    assert len({run["calibration_id"] for run in (first, again, third)}) == 3
    assert list((normals / "w" / "cache").iterdir()) == [kept]


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("done again")


def test_a_run_stopped_after_training_does_not_train_again(normals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds wherever the run is stopped after the fit."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for step in ("vae_core.save_bundle", "fit._write_history", "train.write_card", "train.calibrate_model"):
        with monkeypatch.context() as patched:
            patched.setattr(f"nelbo.{'' if 'vae' in step else 'flows.steps.'}{step}", stop)
            with pytest.raises(KeyboardInterrupt):
                train(normals)
        (left,) = (normals / "w" / "checkpoints").iterdir()
        assert sorted(path.name for path in left.iterdir()) == ["cache", "checkpoint.safetensors"]
        monkeypatch.setattr("nelbo.vae_core.network.vae.VAE.compute_loss", refuse)
    assert train(normals)["calibration_id"]
    assert not list((normals / "w" / "checkpoints").iterdir())


@pytest.mark.usefixtures("known_networks")
def test_a_model_trained_again_keeps_its_first_description(normals: Path) -> None:
    first = train(normals)
    files = [normals / "w" / "history" / f"{first['model_id']}.parquet", *(normals / "w" / "models").rglob("*.*")]
    before = [path.read_bytes() for path in files]
    again = train(normals, fpr=0.1)
    assert (again["model_id"], again["fpr"]) == (first["model_id"], 0.1)
    assert [path.read_bytes() for path in files] == before


def test_a_spatial_model_works_from_training_to_scoring(normals: Path) -> None:
    more = {"preset": "conv_spatial", "image_size": (16, 24), "flip": "horizontal", "denoising": 0.5, "free_bits": 0.1}
    trained = train(normals, **more)
    result = score(normals / "in", normals / "w")
    assert result["n_scored"] == 40
    assert (normals / "w" / "cards" / f"{trained['model_id']}.md").exists()


@pytest.mark.usefixtures("known_networks")
def test_near_duplicates_in_another_part_are_reported(normals: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = sorted((normals / "in").iterdir())
    Image.open(paths[0]).save(normals / "in" / "copy.webp", quality=95)
    parts = dict.fromkeys((path.name for path in paths), "") | {paths[0].name: "train", "copy.webp": "validation"}
    write_list(normals / "in" / "list.csv", "path,split", parts.items())
    trained = train(normals, "in/list.csv", image_size=(32, 32))
    said = f"1 image looks like others in another part (first: copy.webp, {paths[0].name})"
    assert said in caplog.text
    assert {one["name"]: one["n"] for one in trained["data"]}.items() >= {"alike": 2, "leaks": 1}.items()
    card = (normals / "w" / "cards" / f"{trained['model_id']}.md").read_text()
    assert "2 of 41 images look like others among them" in card
    assert "1 image looks like others in another part" in card


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "likelihood", "engine"),
    [
        ({"backbone": "efficientnet_lite0", "head": "linear"}, "gaussian_learned_sigma", "onnx"),
        ({"backbone": "self_trained", "head": "deep", "statistic": "peak"}, "gaussian_pixel_sigma", "keras"),
    ],
    ids=["linear", "deep"],
)
def test_a_model_of_features_works_from_training_to_scoring(
    network: dict[str, str], likelihood: str, engine: str, images: Path, tmp_path: Path
) -> None:
    """It is trained, calibrated, exported and scored; the page shows only pictures that such a model can draw."""
    chosen = {"image_size": (64, 64), "preset": "features", "pretext_steps": 60, "epochs": 10, **network}
    trained = commands.train(images / "normal", tmp_path, engines=() if engine == "keras" else (engine,), **chosen)
    description = json.loads((tmp_path / "models" / trained["model_id"] / "model.json").read_text())
    assert network.items() <= description["config"].items()
    card = (tmp_path / "cards" / f"{trained['model_id']}.md").read_text(encoding="utf-8")
    backbone = network["backbone"].replace("_", "\\_")
    assert f"features, {backbone}, {network['head']}" in card
    result = score(images / "new", tmp_path, engine=engine)
    rows = read_table(Path(result["scores"])).to_pylist()
    assert all(row["bits_per_dim"] is None for row in rows)
    assert {row["likelihood"] for row in rows if row["verdict"] != "not_scored"} == {likelihood}
    assert {row["verdict"] for row in rows if "blot" in row["relative_path"]} == {"anomalous"}
    html = Path(result["report"]).read_text(encoding="utf-8")
    assert '<div class="heatmap picture"><img' in html
    assert "<div>reconstruction" not in html


def test_missing_weights_give_an_error_of_one_line(images: Path, tmp_path: Path) -> None:
    chosen = {"image_size": (64, 64), "preset": "features", "backbone": "efficientnet_lite0"}
    with pytest.raises(UsageError, match=r"x\.safetensors: there is no such file"):
        commands.train(images / "normal", tmp_path, backbone_weights=str(tmp_path / "x.safetensors"), **chosen)
    # Before anything is hashed or decoded.
    assert not list(tmp_path.iterdir())
