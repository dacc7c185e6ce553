"""What a model's training images look like, place by place and as a whole; kept beside the model."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nelbo.data import LOOKS_SCHEMA, CachedPixels, InputError, Place, modified, read_table, write_table
from nelbo.data.looks import Look, look_of
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run
from nelbo.vae_core.pixels import PixelRows, to_unit

log = logging.getLogger(__name__)

#: Most images that are looked at: more would hardly change means and quantiles.
MOST_IMAGES = 2000
#: Quantiles between which images usually lie; for up to 200 images these are the extremes.
_USUAL = (0.005, 0.995)
#: Least standard deviations: a difference that nobody sees is not worth telling.
_LEAST_DEVIATION = {"brightness": 0.02, "detail": 0.05, "red_green": 0.01, "yellow_blue": 0.01}
#: Images read at a time.
_CHUNK = 64

Plane = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Looks:
    """What the training images of one variant look like.

    n_images: number of images that were looked at.
    local: by the names of `data.looks.Look.local`, the mean and the standard deviation of each cell, each (gh, gw).
    whole: by the names of `data.looks.Look.whole`, the two numbers between which images usually lie.
    """

    n_images: int
    local: Mapping[str, tuple[Plane, Plane]]
    whole: Mapping[str, tuple[float, float]]

    def deviations(self, look: Look) -> dict[str, Plane]:
        """(gh, gw) by how many standard deviations each cell of an image differs from the mean at its place."""
        return {
            name: (look.local[name] - mean) / deviation
            for name, (mean, deviation) in self.local.items()
            if name in look.local and look.local[name].shape == mean.shape
        }


def learn_looks(pixels: CachedPixels, variants: Sequence[str | None], seed: int) -> dict[str | None, Looks]:
    """What the images of each variant have in common; variants with a single image are left out.

    Args:
        pixels: n images as the model takes them.
        variants: (n,) names.
        seed: of the choice of ``MOST_IMAGES`` of a variant.
    """
    random, names = np.random.default_rng(seed), np.array(variants, object)
    chosen = {
        name: np.sort(random.permutation(np.flatnonzero(names == name))[:MOST_IMAGES]) for name in dict.fromkeys(names)
    }
    return {name: looks_of(pixels.take(rows)) for name, rows in chosen.items() if len(rows) > 1}


def looks_of(pixels: PixelRows) -> Looks:
    """What some images have in common.

    Args:
        pixels: n images as the model takes them, two at least.

    >>> looks = looks_of(np.uint8([[[[51]]], [[[102]]]]) * np.ones((1, 4, 4, 1), np.uint8))
    >>> looks.n_images, [round(end, 3) for end in looks.whole["brightness"]]
    (2, [0.2, 0.4])
    """
    found = [
        look_of(image) for start in range(0, len(pixels), _CHUNK) for image in to_unit(pixels[start : start + _CHUNK])
    ]
    local = {}
    for name in found[0].local:
        values = np.stack([one.local[name] for one in found]).astype(np.float64)
        local[name] = values.mean(axis=0), np.maximum(values.std(axis=0, ddof=1), _LEAST_DEVIATION[name])
    return Looks(len(found), local, {name: _range([one.whole[name] for one in found]) for name in found[0].whole})


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = _USUAL
    return float(np.quantile(values, low, method="lower")), float(np.quantile(values, high, method="higher"))


def keep_looks(looks: Mapping[str | None, Looks], workspace: Workspace, model_id: str, run: Run) -> None:
    """Write what the images of each variant look like beside the model.

    Args:
        looks: by the variant's name; the name is None for a model without variants.
    """
    rows = [
        {
            "variant": variant,
            "measure": measure,
            "n_images": one.n_images,
            **dict(zip(("mean", "deviation"), map(_nested, one.local.get(measure, (None, None))), strict=True)),
            **dict(zip(("low", "high"), one.whole.get(measure, (None, None)), strict=True)),
        }
        for variant, one in looks.items()
        for measure in dict.fromkeys((*one.local, *one.whole))
    ]
    table = pa.Table.from_pylist(rows, LOOKS_SCHEMA)
    write_table(table, workspace.looks(model_id), LOOKS_SCHEMA, run.metadata, workspace.staging)


def _nested(plane: Plane | None) -> list[list[float]] | None:
    return None if plane is None else plane.tolist()


def read_looks(workspace: Workspace, model_id: str) -> Mapping[str | None, Looks]:
    """What the training images of each variant look like; empty where the file is missing or damaged."""
    path = workspace.looks(model_id)
    try:
        return _read(path, modified(path))
    except FileNotFoundError:
        # The model is of an earlier version.
        return {}


@lru_cache(maxsize=16)
def _read(path: Place, when: float) -> Mapping[str | None, Looks]:  # noqa: ARG001 - a key
    """Cached, so that a batch reads the file once for all shards, and a damaged file is warned of only once."""
    try:
        rows = read_table(path, LOOKS_SCHEMA.names).to_pylist()
        variants = dict.fromkeys(row["variant"] for row in rows)
        return {name: _parsed([row for row in rows if row["variant"] == name]) for name in variants}
    except (InputError, pa.ArrowException, ValueError, TypeError) as error:
        log.warning("%s (%s): what is flagged is not compared with training images", path, error)
        return {}


def _parsed(rows: Sequence[Mapping[str, Any]]) -> Looks:
    local = {
        row["measure"]: (np.array(row["mean"], float), np.array(row["deviation"], float))
        for row in rows
        if row["mean"] is not None
    }
    if not all(mean.shape == deviation.shape and (deviation > 0).all() for mean, deviation in local.values()):
        raise ValueError("not what nelbo writes")
    whole = {row["measure"]: (row["low"], row["high"]) for row in rows if row["low"] is not None}
    return Looks(rows[0]["n_images"], local, whole)
