"""A second fit of a linear head, on the features that a backbone in 8 bits gives for the same images.

Rounding does little harm if means and covariances are learnt on the rounded features. The result is one graph from
pixels to scores, and a few reference features: a machine that computes other features uses another fit, the bundle's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.config import INT8, TrainConfig, why_not_int8
from nelbo.vae_core.engines.difference import coarse
from nelbo.vae_core.engines.exported import ALL_ENGINES, FEATURES_OFF, Exported, score_all
from nelbo.vae_core.engines.exporting import described
from nelbo.vae_core.engines.graphs import import_openvino
from nelbo.vae_core.engines.quantising import N_RANGED, continued, quantised
from nelbo.vae_core.engines.speed import images_per_s
from nelbo.vae_core.features.extraction import Extractor
from nelbo.vae_core.features.features import Features
from nelbo.vae_core.linear.crossfit import default_folds
from nelbo.vae_core.linear.solving import detail_of, fit_features, looked_at, views_of
from nelbo.vae_core.model import Model
from nelbo.vae_core.pixels import PixelRows, to_unit
from nelbo.vae_core.scorer import Scorer
from nelbo.vae_core.scoring import Score, score_batches
from nelbo.vae_core.seen import places_of
from nelbo.vae_core.usual import Usual

#: Images whose features are kept, and compared before each run.
_N_REFERENCES = 8


class Second(NamedTuple):
    """A fit of features in 8 bits, and what models of others say of each image that it was fitted on."""

    exported: Exported
    unseen: Score


def fit_int8(
    model: Model,
    images: PixelRows,
    train_config: TrainConfig,
    *,
    model_id: str,
    folds: Sequence[int] | None,
    variants: NDArray[np.int64] | None,
    aside: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> Second:
    """Fit a model's linear head once more, on features that its backbone gives in 8 bits.

    Args:
        model: of features with a linear head, fitted on the same images.
        images: (n, h, w, c) normal images.
        train_config: of the model.
        model_id: of its bundle.
        folds: (n,) the fold of each image, as the model had them.
        variants: (n,) number of each image's variant in the model, where there are several.
        aside: a folder for what is unfinished.
        advance: called with the number of images whose features have been computed since the last call.

    Returns:
        The second fit, and what it says of images that it has not seen.

    Raises:
        ValueError: the model has no linear head.
        EngineError: a package that this needs is missing, see `nelbo.vae_core.engines.quantising.lacking_for_int8`.
    """
    config, features = model.config, model.representation
    if not isinstance(features, Features):
        raise ValueError(f"model: {why_not_int8(config)}")
    shape = (config.height, config.width, config.channels)
    some = _spread(len(images), N_RANGED)
    backbone = quantised(features.backbone, to_unit(images[some]), aside)
    maps_of = features.backbone.outputs
    looking = continued(backbone.clone(), lambda maps: [features.gathered(maps), *maps], maps_of)
    rows, maps, detailed = looked_at(
        Extractor(looking, shape),
        features.value_shape,
        views_of([images], train_config),
        aside / "features-int8.npy",
        advance,
    )
    numbers = default_folds(len(images)) if folds is None else np.asarray(folds)
    fitted = fit_features(
        rows,
        features.value_shape,
        config,
        folds=numbers,
        variants=None if variants is None else in_order(variants),
        places=places_of(config, model.outside),
    )
    detail, map_peak = detail_of(maps, detailed, fitted, numbers, model.outside)
    again = replace(
        model,
        network=fitted.head,
        usual_mean=fitted.usual.mean,
        usual_std=fitted.usual.std,
        usual_statistics=fitted.usual.statistics,
        detail=detail,
    )
    pixels = to_unit(images[_spread(len(images), _N_REFERENCES)])
    exported = _exported(again, continued(backbone, _scoring(again, features), maps_of), pixels, model_id, aside)
    speeds = images_per_s({"keras": model, INT8: exported}, pixels)
    return Second(replace(exported, images_per_s=speeds), fitted.unseen._replace(map_peak=map_peak))


def _exported(model: Model, graph: Any, pixels: NDArray[np.float32], model_id: str, aside: Path) -> Exported:
    """A fit and its graph with references."""
    engine = ALL_ENGINES[INT8]
    written = aside / engine.files[0]
    import_openvino().save_model(graph, written, compress_to_fp16=False)
    files = {name: written.with_name(name).read_bytes() for name in engine.files}
    # The engine itself computes the scores and features of the references.
    none = Score(*[np.empty(0)] * 8)
    made = described(model, INT8, pixels, none, files, model_id=model_id, tolerance=FEATURES_OFF)
    exported = replace(made, features=())
    _, seen = score_batches(exported.graph(), pixels, seen=True)
    return replace(exported, expected=coarse(score_all(exported, pixels)), features=tuple(seen))


def _scoring(model: Model, features: Features) -> Callable[[list[Any]], dict[str, Any]]:
    """The function that scores a backbone's maps by a fit."""
    usual = Usual(model.usual_mean, model.usual_std, model.usual_statistics)
    places = places_of(model.config, model.outside)
    given = _Given(features)
    # Not called as a Keras model: it is given maps in the place of pixels.
    return Scorer(model.config, model.network, model.eps, usual, maps=False, representation=given, places=places).call


class _Given:
    """Stands in for `Features` where a backbone's maps have been computed already."""

    def __init__(self, features: Features) -> None:
        self.gathered = features.gathered

    @staticmethod
    def maps(maps: list[Any]) -> list[Any]:
        """The maps as they are."""
        return maps


def in_order(numbers: NDArray[np.int64]) -> list[str]:
    """Names of variants that sort like their numbers; the model's own names do not: "10" comes before "2".

    >>> in_order(np.array([9, 1]))
    ['09', '01']
    """
    return [f"{number:02d}" for number in numbers.tolist()]


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """Rows from the first of n to the last, evenly."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))
