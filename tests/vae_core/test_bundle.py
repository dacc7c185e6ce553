"""A bundle is data: it is restored to the bit, and any changed byte is detected."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save
from synthetic import stripes

import nelbo.vae_core.bundle
from nelbo.vae_core import BundleError, Model, load_bundle, save_bundle, score, verify_bundle
from nelbo.vae_core.checksums import as_json, write_files


@pytest.fixture
def bundle(model: Model, tmp_path: Path) -> Path:
    return tmp_path / save_bundle(model, tmp_path, {"batch_id": "t1"})


def test_a_bundle_restores_the_model(model: Model, bundle: Path, random: np.random.Generator) -> None:
    loaded = load_bundle(bundle)
    pixels = stripes(random, 9)
    before, after = score(model, pixels), score(loaded, pixels)
    for name in before._fields:
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name), err_msg=name)
    assert loaded.config == model.config
    assert verify_bundle(bundle)["training"] == {"batch_id": "t1"}


def test_a_bundle_holds_three_files_under_its_id(bundle: Path) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == ["checksums.json", "model.json", "weights.safetensors"]
    assert bundle.name[0] == "m"
    description = json.loads((bundle / "model.json").read_text())
    assert description["model_id"] == bundle.name
    assert list(bundle.parent.iterdir()) == [bundle]


def test_the_id_follows_from_the_contents(model: Model, bundle: Path, tmp_path: Path) -> None:
    again = save_bundle(model, tmp_path / "other", {"batch_id": "t2"})
    assert again == bundle.name
    assert save_bundle(model, bundle.parent) == bundle.name
    model.network.decoder.trainable_variables[0].assign_add(model.network.decoder.trainable_variables[0] * 1e-3)
    assert save_bundle(model, tmp_path / "other") != bundle.name
    model.network.decoder.trainable_variables[0].assign(load_bundle(bundle).network.decoder.trainable_variables[0])


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "checksums.json"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 0.999])
def test_every_flipped_byte_is_seen(bundle: Path, name: str, place: float) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=r"Restore|train again"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "checksums.json"])
def test_a_bundle_with_a_missing_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match="not a whole bundle"):
        verify_bundle(bundle)


def rewrite(bundle: Path, **changes: object) -> None:
    """Change model.json with matching checksums, as an attacker or a newer version would."""
    import hashlib

    description = json.loads((bundle / "model.json").read_text()) | changes
    (bundle / "model.json").write_text(json.dumps(description))
    sums = json.loads((bundle / "checksums.json").read_text())
    sums["model.json"] = hashlib.sha256((bundle / "model.json").read_bytes()).hexdigest()
    (bundle / "checksums.json").write_text(json.dumps(sums))


def test_a_bundle_of_another_format_version_is_refused(bundle: Path) -> None:
    rewrite(bundle, format_version=2)
    with pytest.raises(BundleError, match="format version 2, this nelbo reads 1"):
        verify_bundle(bundle)


def test_a_config_that_contradicts_the_weights_is_refused(bundle: Path) -> None:
    rewrite(bundle, preprocessing={"height": 1})
    with pytest.raises(BundleError, match="holds model"):
        verify_bundle(bundle)


def save_again(bundle: Path, tensors: dict[str, Any], **changes: object) -> Path:
    """A bundle with other contents and matching checksums and id, as another program might write it."""
    description = json.loads((bundle / "model.json").read_text()) | changes
    weights = save(tensors)
    content = {name: description[name] for name in ("config", "preprocessing")}
    description["model_id"] = nelbo.vae_core.bundle._model_id(content, weights)
    folder = bundle.parent / "again" / description["model_id"]
    write_files({"model.json": as_json(description), "weights.safetensors": weights}, folder)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: {"usual_mean": weights * np.float32(np.nan)}, "usual_mean are NaN or infinite in 480 places"),
        (lambda weights: {"usual_mean": weights.astype(np.float64)}, "usual_mean are float64, expected float32"),
        (lambda weights: {"usual_std": weights * 0}, "usual_std is not positive"),
        (lambda weights: {"usual_mean": weights[:5]}, r"usual_mean has shape \(5, 20\), expected \(24, 20\)"),
        (lambda weights: {"eps": weights}, "eps has shape"),
        (lambda weights: {"further": weights}, "further"),
    ],
)
def test_a_bundle_with_impossible_weights_and_a_matching_id_is_refused(bundle: Path, change: Any, message: str) -> None:
    tensors = load_file(bundle / "weights.safetensors")
    load_bundle(save_again(bundle, tensors, training={}))
    with pytest.raises(BundleError, match=message):
        load_bundle(save_again(bundle, tensors | change(tensors["usual_mean"])))


def test_a_bundle_whose_preprocessing_contradicts_its_network_is_refused(bundle: Path) -> None:
    tensors = load_file(bundle / "weights.safetensors")
    with pytest.raises(BundleError, match="prepared with channels 3, and the network takes 1"):
        verify_bundle(save_again(bundle, tensors, preprocessing={"channels": 3}))


def test_a_bundle_that_states_another_id_is_refused(bundle: Path) -> None:
    rewrite(bundle, model_id="m1")
    with pytest.raises(BundleError, match=rf"holds model {bundle.name} and says that it is m1"):
        verify_bundle(bundle)


def test_a_renamed_bundle_is_refused(bundle: Path) -> None:
    with pytest.raises(BundleError, match="holds model"):
        verify_bundle(bundle.rename(bundle.parent / "mother"))
