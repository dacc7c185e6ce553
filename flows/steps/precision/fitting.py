"""Makes a second fit of the model that was just fitted, and puts it beside the first."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from nelbo import vae_core
from nelbo.data import CachedPixels
from nelbo.flows.inference.progress import progress
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.options.types import AUTO
from nelbo.flows.steps.export import publish_engine
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run

log = logging.getLogger(__name__)


def check_precision(precision: str, config: "vae_core.VAEConfig") -> None:
    """Check, before an hour of training, that a second fit is possible if the precision requires one.

    Raises:
        UsageError: a package that it needs is missing.
    """
    if precision == vae_core.INT8 and (why := why_not(config)) is not None:
        raise UsageError(f"precision={precision}: {why}. Or set precision=float32.")


def why_not(config: "vae_core.VAEConfig") -> str | None:
    """Why no second fit is possible here; None if one is."""
    return vae_core.why_not_int8(config) or vae_core.lacking_for_int8()


def fit_second(
    training: Any,
    pixels: CachedPixels,
    settings: "vae_core.TrainConfig",
    folds: Any,
    options: TrainOptions,
    model_id: str,
    folder: Path,
    run: Run,
) -> Any:
    """Fit again in 8 bits and publish that fit, if the precision asks for it.

    Args:
        training: the training of the bundle's fit.
        pixels: all pixels that it was fitted on; `folds`: the fold of each image.
        settings: the settings of the training.
        folder: folder for unfinished files.

    Returns:
        The cross-fitted scores of the images; None if there is no second fit, with a warning if it is `auto`.
    """
    if options.precision not in (vae_core.INT8, AUTO):
        return None
    if (why := why_not(training.model.config)) is not None:
        log.warning("precision=%s stays with float32: %s", AUTO, why)
        return None
    variants = training.unseen.variant
    folder.mkdir(parents=True, exist_ok=True)
    with progress("computing features in 8 bits", len(pixels) * settings.rotations, "fitting again") as advance:
        second = vae_core.fit_int8(
            training.model,
            pixels,
            settings,
            model_id=model_id,
            folds=folds,
            variants=None if variants is None else variants.astype(np.int64),
            aside=folder,
            advance=advance,
        )
    publish_engine(second.exported, Workspace.at(options.workspace), run)
    speeds = second.exported.images_per_s
    log.info("int8: %.1f times as fast as keras here", speeds[vae_core.INT8] / speeds["keras"])
    return second.unseen
