"""Training on images that are seen in tiles: each is decoded at its own resolution when its turn comes."""

import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from nelbo import vae_core
from nelbo.data import File, Preprocessing, iter_wholes
from nelbo.data.area.looking import outside
from nelbo.flows.inference.ahead import ahead
from nelbo.flows.inference.progress import progress
from nelbo.flows.options.settings import DecodingSettings
from nelbo.flows.workspace.errors import UsageError

log = logging.getLogger(__name__)


def learn_tiles(
    files: Sequence[File],
    config: "vae_core.VAEConfig",
    train_config: "vae_core.TrainConfig",
    preprocessing: Preprocessing,
    folds: Sequence[int],
    decoding: DecodingSettings,
    folder: Path,
) -> "vae_core.Training":
    """Fit a tile model on files that could be decoded a moment ago.

    Args:
        files: normal images; the next one is decoded while one is computed.
        config, train_config, preprocessing: of the model.
        folds: fold of each file.
        decoding: limits and processes.
        folder: for the features, which are deleted afterwards.

    Raises:
        UsageError: a file cannot be decoded any more, or the backbone's weights are not there.
    """
    log.info("features by %s, head %s, tiles of %d pixels", config.backbone, config.head, config.height)
    made_by: dict[str, Any] = {
        "preprocessing": preprocessing.to_dict(),
        "folds": folds,
        "outside": outside(preprocessing.area),
        "folder": folder,
    }
    with (
        progress("computing features", len(files), "fitting the model") as advance,
        closing(ahead(_wholes(files, preprocessing, decoding))) as wholes,
    ):
        try:
            return vae_core.train_tiles(wholes, config, train_config, advance=advance, **made_by)
        except vae_core.BackboneError as error:
            raise UsageError(f"{error}.") from error


def _wholes(
    files: Sequence[File], preprocessing: Preprocessing, decoding: DecodingSettings
) -> Generator[np.ndarray, None, None]:
    images: Any = iter_wholes(files, preprocessing, limits=decoding.limits, workers=decoding.workers)
    with closing(images):
        for file, image in zip(files, images, strict=True):
            if not image.wholes:
                raise UsageError(
                    f"{file.path} cannot be read any more ({image.reasons[0]}): it was there when training began. "
                    "Put it back, or train again without it."
                )
            yield image.wholes[0]
