"""What a detector's parameters, and the images given to fit, say of network, training, preprocessing and parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state

from nelbo.detectors.estimator.images import Found, Images, as_stored
from nelbo.detectors.estimator.record import plain
from nelbo.detectors.parts import HELD_OUT_FROM, part_sizes
from nelbo.detectors.promise import n_needed

if TYPE_CHECKING:
    from nelbo.data import Frame, Preprocessing
    from nelbo.vae_core import TrainConfig, VAEConfig

#: One to train on, one to validate on, and one more.
MIN_IMAGES = 3
#: The value of a parameter that the images decide.
AUTO = "auto"
#: Parameters that belong to `vae_core.VAEConfig` and `vae_core.TrainConfig`.
_OF_NETWORK = ("preset", "backbone", "head", "likelihood", "sigma", "statistic", "smoothing_px")
_OF_TRAINING = ("epochs", "patience", "batch_size", "learning_rate", "denoising", "variants")


def settings(
    params: Mapping[str, Any], size: tuple[int, int], seed: int, channels: int = 1
) -> tuple[VAEConfig, TrainConfig, Preprocessing]:
    """What the parameters say of network, training and input; `channels` where these leave it open."""
    from nelbo.data import Preprocessing
    from nelbo.vae_core import INT8, TrainConfig, VAEConfig

    params = plain(params)
    if params["channels"] not in (AUTO, 1, 3):
        raise ValueError(f"channels={params['channels']!r}: expected 1 (grey), 3 (RGB) or {AUTO!r}")
    if params["channels"] != AUTO:
        channels = params["channels"]
    further = params["train_config"] or {}
    own = {name: params[name] for name in _OF_TRAINING}
    unknown = sorted(set(further) - (set(TrainConfig().to_dict()) - set(own) - {"seed"}))
    if unknown:
        raise ValueError(
            f"train_config={unknown}: expected further settings of vae_core.TrainConfig; "
            f"{', '.join(own)} and random_state are parameters of their own"
        )
    if further.get("precision") == INT8:
        raise ValueError(
            f"train_config: precision={INT8!r} adds a second fit to a model of a workspace, and a detector has one; "
            "leave it out, or train with nelbo train"
        )
    height, width = size
    return (
        VAEConfig(height=height, width=width, channels=channels, **{name: params[name] for name in _OF_NETWORK}),
        TrainConfig(**own, **further, seed=seed),
        Preprocessing(height, width, channels, params["resize"], params["binarize"]),
    )


def as_seed(random_state: Any) -> int:
    """The seed of a training; a RandomState, and NumPy's own for None, moves on."""
    state = check_random_state(random_state)
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(state.randint(2**31 - 1))


def channels_of(found: Found, channels: int | str) -> int:
    """The parameter, or what the images given to fit decide."""
    from nelbo.data import first_coloured, is_coloured

    if channels != AUTO:
        return int(channels)
    if isinstance(found, np.ndarray):
        # Rows have no channels: it is unknown which of their values belong to one pixel.
        return 3 if found.ndim == 4 and any(map(is_coloured, found)) else 1
    return 1 if first_coloured(found) is None else 3


def frame_of(images: Images, locate: str) -> Frame | None:
    """The frame that aligns the parts of the images; None where no parts are looked for."""
    from nelbo.data import look_for_parts
    from nelbo.data.decoder.preprocessing import picture_of
    from nelbo.data.part.framing import choose_frame, some_of
    from nelbo.data.part.part import look

    if locate not in (AUTO, "on", "off"):
        raise ValueError(f"locate={locate!r}: expected 'auto', 'on' or 'off'")
    if locate == "off":
        return None
    some = some_of(images)
    paths = [image for image in some if isinstance(image, Path)]
    pictures = (picture_of(as_stored(image)) for image in some if isinstance(image, np.ndarray))
    seen = look_for_parts(paths) if paths else [look(picture.values) for picture in pictures]
    return choose_frame(seen, locate)[0]


def shared_out(contents: Sequence[str], calibrate_on: str, fpr: float, solved: bool, seed: int) -> dict[str, list[int]]:
    """The rows of each split, with only the first of several copies.

    Args:
        contents: a hash of each image.
        calibrate_on, fpr: the parameters.
        solved: whether the model needs no validation images, and can be crossed.
        seed: of the draw.
    """
    from nelbo.data import first_rows, split_by_content

    if calibrate_on not in (AUTO, "held_out", "cross"):
        raise ValueError(f"calibrate_on={calibrate_on!r}: expected 'auto', 'held_out' or 'cross'")
    if calibrate_on == "cross" and not solved:
        raise ValueError(
            "calibrate_on='cross' is for the linear heads of the preset features only; leave it out, or set preset"
        )
    row_of = first_rows(contents)
    if len(row_of) < MIN_IMAGES:
        raise ValueError(f"n_samples={len(contents)}, {len(row_of)} of them different: expected at least {MIN_IMAGES}")
    sizes = part_sizes(len(row_of), n_needed(fpr))
    if solved:
        del sizes["validation"]
        few = sizes["calibration"] < HELD_OUT_FROM
        if calibrate_on == "cross" or (calibrate_on == AUTO and few):
            sizes = {}
    parts = split_by_content(list(row_of), sizes, "train", seed)
    rows_of: dict[str, list[int]] = {}
    for row, part in zip(row_of.values(), parts, strict=True):
        rows_of.setdefault(part, []).append(row)
    return rows_of
