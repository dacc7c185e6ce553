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
        model: a model whose configuration has tiles.
        wholes: images as (rows, columns) or (rows, columns, 3), each side a tile or more; floats in [0, 1], or whole
            numbers over their type's whole range. They are taken one at a time.
        graph: what computes the tiles; by default the model's own.

    Returns:
        The scores of all images; and the map of each, (gh, gw) nats, NaN where it is ignored.

    Raises:
        FloatingPointError: a score is NaN or infinite.
        ValueError: the model sees whole images.

    >>> from nelbo.vae_core import VAEConfig, train_tiles
    >>> wholes = np.random.default_rng(0).integers(0, 256, (10, 64, 90), np.uint8)
    >>> config = VAEConfig(64, 64, backbone="filters", tile_overlap=8)
    >>> model = train_tiles(wholes, config, preprocessing={"tile_scale": 1.0}, folds=[0, 1] * 5).model
    >>> scored, maps = score_tiles(model, wholes[:2])
    >>> scored.anomaly_score.shape, maps[0].ndim
    ((2,), 2)
    """
    found = [LookedAt(model, whole, graph).stitched for whole in wholes]
    return _score(model, found), [map_of(one) for one in found]


class LookedAt:
    """An image whose tiles have been computed: after a change, only the tiles that it reaches are computed again.

    Args:
        model, graph: as in `score_tiles`.
        whole: (rows, columns) or (rows, columns, channels) the image at its own resolution, as `score_tiles` takes it.

    Raises:
        ValueError: the model sees whole images.
    """

    def __init__(self, model: Scorable, whole: NDArray[Any], graph: Graph | None = None) -> None:
        if model.tiles is None:
            raise ValueError("this model sees images as a whole: score them with score")
        self._model, self._tiles, self._graph = model, model.tiles, graph or model.graph(maps=False)
        self.grid = Grid(whole.shape, model.config.height, model.config.tile_overlap or 0, self._tiles.outside)
        self._said = self._look(whole, None)

    @property
    def stitched(self) -> Stitched:
        """The one map of the image."""
        return stitch(self._said, self.grid, self._tiles.positions, self._model.config.of)

    def score(self) -> Score:
        """The score of the image as it is."""
        return _score(self._model, [self.stitched])

    def score_changed(self, whole: NDArray[Any], box: tuple[int, int, int, int]) -> Score:
        """The score of the same image with other pixels.

        Args:
            whole: all of it, of the same shape (rows, columns) or with channels.
            box: upper, left, lower and right edge of the part that has changed, in pixels.
        """
        upper, left, lower, right = box
        tile = self._model.config.height
        origins = np.array(self.grid.origins)
        reached = (origins > np.array([upper, left]) - tile) & (origins < np.array([lower, right]))
        numbers = np.flatnonzero(reached.all(axis=1))
        said = self._said.with_tiles(numbers, self._look(whole, numbers)) if len(numbers) else self._said
        stitched = stitch(said, self.grid, self._tiles.positions, self._model.config.of)
        return _score(self._model, [stitched])

    def _look(self, whole: NDArray[Any], numbers: NDArray[np.integer[Any]] | None) -> Said:
        config, head = self._model.config, self._tiles.head
        cut = Cut(whole, self.grid, config.height, config.channels, numbers)
        wanted = ("tile_features",) if head else ("tile_distortion", "tile_rate", "z_mean_norm", "z_log_var_sum")
        columns = run_batches(self._graph, cut, wanted.__contains__)
        if head:
            return head(columns["tile_features"], numbers)
        return Said(
            columns["tile_distortion"],
            columns["tile_rate"],
            np.square(columns["z_mean_norm"], dtype=np.float64),
            columns["z_log_var_sum"].astype(np.float64),
        )


def _score(model: Scorable, found: list[Stitched]) -> Score:
    if not found or model.tiles is None:
        return Score(*(np.empty(0) for _ in range(8)))
    side = model.config.smoothing_px // model.config.stride_px
    parts = [model.tiles.usual.parts(one.z[None], side) for one in found]
    score = scores(found, Parts(*map(np.concatenate, zip(*parts, strict=True))), model.config.statistic)
    for name in ("anomaly_score", "nelbo"):
        check_finite(name, getattr(score, name))
    return score


def map_of(stitched: Stitched) -> NDArray[np.float32]:
    """(gh, gw) nats, the map for people."""
    return (stitched.distortion + stitched.rate).astype(np.float32)
