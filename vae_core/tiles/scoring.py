"""Scores of images that are seen in tiles; nothing here needs Keras."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.scoring import Graph, Scorable, Score, check_finite, run_batches
from nelbo.vae_core.tiles.grid import Cut, Grid
from nelbo.vae_core.tiles.head import Said
from nelbo.vae_core.tiles.whole import Stitched, scores, stitch
from nelbo.vae_core.usual import Parts


def score_tiles(
    model: Scorable, wholes: Iterable[NDArray[Any]], graph: Graph | None = None
) -> tuple[Score, list[NDArray[np.float32]]]:
    """Score images at their own resolution, each by one map of all its tiles.

    Args:
        model: whose configuration has tiles.
        wholes: of each image (rows, columns), or with its colours behind, each side a tile or more; floats in [0, 1],
            or whole numbers over their type's whole range. One is looked at at a time.
        graph: that computes the tiles; by default the model's own.

    Returns:
        The scores of all; and of each its map, (gh, gw) nats.

    Raises:
        FloatingPointError: a score is NaN or infinite.
        ValueError: a model that sees whole images.
    """
    tiles = model.tiles
    if tiles is None:
        raise ValueError("this model sees images as a whole: score them with score")
    found, parts = [], []
    for whole in wholes:
        grid = Grid.of(whole.shape, model.config.height, model.config.tile_overlap or 0)
        stitched = stitch(
            _said(model, graph or model.graph(maps=False), whole, grid), grid, tiles.positions, model.config.of
        )
        found.append(stitched)
        parts.append(tiles.usual.parts(stitched.z[None], model.config.smoothing_px // model.config.stride_px))
    if not found:
        return Score(*(np.empty(0) for _ in range(8))), []
    score = scores(found, Parts(*map(np.concatenate, zip(*parts, strict=True))), model.config.statistic)
    for name in ("anomaly_score", "nelbo"):
        check_finite(name, getattr(score, name))
    return score, [map_of(one) for one in found]


def map_of(stitched: Stitched) -> NDArray[np.float32]:
    """(gh, gw) nats, the map for people."""
    return (stitched.distortion + stitched.rate).astype(np.float32)


def _said(model: Scorable, graph: Graph, whole: NDArray[Any], grid: Grid) -> Said:
    cut = Cut(whole, grid, model.config.height, model.config.channels)
    head = None if model.tiles is None else model.tiles.head
    wanted = ("tile_features",) if head else ("tile_distortion", "tile_rate", "z_mean_norm", "z_log_var_sum")
    columns = run_batches(graph, cut, wanted.__contains__)
    if head:
        return head(columns["tile_features"])
    return Said(
        columns["tile_distortion"],
        columns["tile_rate"],
        float(np.square(columns["z_mean_norm"], dtype=np.float64).sum()),
        float(columns["z_log_var_sum"].sum(dtype=np.float64)),
    )
