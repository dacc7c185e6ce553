"""A bundle is data: it comes back to the bit, and any changed byte is seen."""

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import stripes

from vae_core import BundleError, Model, load_bundle, save_bundle, score, verify_bundle


@pytest.fixture
def bundle(model: Model, tmp_path: Path) -> Path:
    return tmp_path / save_bundle(model, tmp_path, {"batch_id": "t1"})


def test_round_trip(model: Model, bundle: Path, random: np.random.Generator) -> None:
    loaded = load_bundle(bundle)
    pixels = stripes(random, 9)
    before, after = score(model, pixels), score(loaded, pixels)
    for name in before._fields:
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name), err_msg=name)
    assert loaded.config == model.config
    assert verify_bundle(bundle)["training"] == {"batch_id": "t1"}


def test_files_and_names(bundle: Path) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == ["checksums.json", "model.json", "weights.safetensors"]
    assert bundle.name[0] == "m"
    description = json.loads((bundle / "model.json").read_text())
    assert description["model_id"] == bundle.name
    assert list(bundle.parent.iterdir()) == [bundle]


def test_id_names_the_content(model: Model, bundle: Path, tmp_path: Path) -> None:
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
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match="not a whole bundle"):
        verify_bundle(bundle)


def rewrite(bundle: Path, **changes: object) -> None:
    """Change model.json and make the checksums fit, as an attacker or a newer version would."""
    import hashlib

    description = json.loads((bundle / "model.json").read_text()) | changes
    (bundle / "model.json").write_text(json.dumps(description))
    sums = json.loads((bundle / "checksums.json").read_text())
    sums["model.json"] = hashlib.sha256((bundle / "model.json").read_bytes()).hexdigest()
    (bundle / "checksums.json").write_text(json.dumps(sums))


def test_another_version_is_refused(bundle: Path) -> None:
    rewrite(bundle, format_version=2)
    with pytest.raises(BundleError, match="format version 2, this nelbo reads 1"):
        verify_bundle(bundle)


def test_a_config_that_is_not_the_content_is_refused(bundle: Path) -> None:
    rewrite(bundle, preprocessing={"height": 1})
    with pytest.raises(BundleError, match="holds model"):
        verify_bundle(bundle)


def test_a_renamed_bundle_is_refused(bundle: Path) -> None:
    with pytest.raises(BundleError, match="holds model"):
        verify_bundle(bundle.rename(bundle.parent / "mother"))
