"""Second fits: which models have one, what they need, and how far features may be off."""

import importlib.util
import math
from typing import Any

import numpy as np
import pytest

from nelbo.vae_core import EngineError, TrainConfig, VAEConfig, check_together, lacking_for_int8, why_not_int8
from nelbo.vae_core.config import MAX_VARIANTS
from nelbo.vae_core.engines import quantising
from nelbo.vae_core.engines.exported import features_off
from nelbo.vae_core.linear.second import in_order
from nelbo.vae_core.linear.variants import numbered

FEATURES: dict[str, Any] = {"height": 128, "width": 128, "preset": "features", "backbone": "self_trained"}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"height": 32, "width": 32}, "not the conv_1x1x16 network; try head=linear"),
        (FEATURES | {"head": "deep"}, "not the deep network; try head=linear"),
        (FEATURES | {"backbone": "filters"}, "the backbone filters has nothing to round; try efficientnet_lite0"),
        ({"height": 64, "width": 64, "backbone": "efficientnet_lite0", "tile_overlap": 8}, "tiles have one fit"),
    ],
)
def test_models_without_a_second_fit_say_why(config: dict[str, Any], why: str) -> None:
    given = VAEConfig(**{"preset": "features"} | config) if "tile_overlap" in config else VAEConfig(**config)
    assert why in str(why_not_int8(given))
    with pytest.raises(ValueError, match=r"precision=int8: .*, or try auto"):
        check_together(given, TrainConfig(precision="int8"))
    # With precision=auto there is no error.
    if given.backbone != "efficientnet_lite0":
        check_together(given, TrainConfig(precision="auto"))


def test_a_linear_head_on_a_network_has_a_second_fit() -> None:
    for head in ("linear", "linear_image"):
        config = VAEConfig(**FEATURES | {"head": head})
        assert why_not_int8(config) is None
        check_together(config, TrainConfig(precision="int8"))


def test_the_arithmetic_of_training_follows_from_the_precision() -> None:
    arithmetic = {name: TrainConfig(precision=name).arithmetic for name in ("float32", "mixed_bfloat16", "auto")}
    assert arithmetic == {"float32": "float32", "mixed_bfloat16": "mixed_bfloat16", "auto": "float32"}


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("onnx", "tf2onnx") else find_spec(name)
    )
    expected = r"onnx and tf2onnx cannot be found here. Get what it needs with: pip install 'nelbo\[openvino,onnx\]'"
    with pytest.raises(EngineError, match=expected):
        quantising.quantised(object(), np.zeros((1, 32, 32, 1), np.float32))  # type: ignore[arg-type]
    monkeypatch.undo()
    monkeypatch.setattr(quantising, "suits_openvino", lambda: False)
    assert "KERAS_BACKEND=tensorflow" in str(lacking_for_int8())


def test_differences_of_features_are_shares_of_their_size() -> None:
    random = np.random.default_rng(0)
    maps = [random.standard_normal((3, 4, 4, 5)).astype(np.float32), np.full((3, 2, 2, 1), 1e-3, np.float32)]
    assert features_off(maps, maps) == 0
    # The worst map counts, whatever its size.
    assert features_off([maps[0], 1.25 * maps[1]], maps) == pytest.approx(0.25)
    assert features_off([maps[0] * 1.01, maps[1]], maps) == pytest.approx(0.01, rel=1e-3)
    assert math.isinf(features_off(maps[:1], maps))
    assert math.isinf(features_off([maps[0][:2], maps[1]], maps))
    for off in ([maps[0] * np.nan, maps[1]], [maps[0], maps[1] * np.nan]):
        assert math.isnan(features_off(off, maps))


def test_variants_of_the_second_fit_are_numbered_like_those_of_the_first(random: np.random.Generator) -> None:
    # The largest number of variants; found ones are named by numbers, which sort differently as text.
    numbers = random.permutation(np.arange(MAX_VARIANTS).repeat(2))
    assert numbered(in_order(numbers))[0].tolist() == numbers.tolist()
    assert numbered([str(number + 1) for number in numbers])[0].tolist() != numbers.tolist()
