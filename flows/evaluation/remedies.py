"""Settings that may help a blind model, by its configuration and training, the best first; none is tried out."""

from collections.abc import Mapping
from typing import Any

#: The backbone that was trained on photographs.
PRETRAINED = "efficientnet_lite0"
#: Sides of images are multiples of this.
_UNIT_PX = 32


def remedies(config: Mapping[str, Any], training: Mapping[str, Any]) -> list[str]:
    """Settings to change, in words.

    Args:
        config, training: of a model's ``model.json``.

    >>> config = {"backbone": "filters", "channels": 1, "height": 64, "width": 64}
    >>> remedies(config, {"n_train": 120, "median_size_px": [300, 200], "may_have_colour": False})
    ['pretrained features (backbone=efficientnet_lite0)', 'larger images (image_size=128; the files are 300 x 200 \
pixels)', 'more normal images (it has learnt from 120)']
    """
    found = []
    weights = training.get("train_config", {}).get("backbone_weights")
    if config.get("backbone") != PRETRAINED:
        found.append(f"pretrained features (backbone={PRETRAINED})")
    elif weights is not None:
        found.append("the weights of ImageNet (without backbone_weights)")
    if config["channels"] == 1 and training.get("may_have_colour"):
        found.append("colour (channels=3)")
    # Bundles from before 2026-12 do not say how large the files were.
    width, height = training.get("median_size_px") or (0, 0)
    shorter = min(config["height"], config["width"])
    if min(width, height) > shorter:
        side = min(2 * shorter, _UNIT_PX * -(-min(width, height) // _UNIT_PX))
        found.append(f"larger images (image_size={side}; the files are {width} x {height} pixels)")
    found.append(f"more normal images (it has learnt from {training['n_train']:,})")
    return found
