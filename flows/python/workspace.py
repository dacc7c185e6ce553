"""The workspace as Python programs use it."""

from pathlib import Path
from typing import Any

import pandas as pd

from nelbo.flows.options.sources import check_options
from nelbo.flows.python.batch import Batch
from nelbo.flows.python.direct import as_text, carry_out
from nelbo.flows.python.model import Model
from nelbo.flows.python.scorer import Scorer, ScorerOptions
from nelbo.flows.workspace import catalog, layout
from nelbo.flows.workspace.errors import NotYetError, UsageError


class Workspace:
    """A folder, or a URL, of models and of the batches that they have scored.

    Each method runs the command of the same name in this process: it asks and starts no server, and does not read the
    settings of the command line (``nelbo.toml``, ``NELBO_*``). Options are keywords with the same names.

    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> folder, random = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    >>> (folder / "good").mkdir()
    >>> for i in range(60):
    ...     grey = random.normal(128, 10, (16, 16)).clip(0, 255).astype(np.uint8)
    ...     Image.fromarray(grey).save(folder / "good" / f"{i}.png")
    >>> ws = Workspace(folder / "ws")
    >>> model = ws.train(folder / "good", image_size=16, preset="conv_1x1x16", epochs=2, patience=2)
    >>> ws.score(folder / "good").scores.shape[0], ws.scorer()(np.zeros((16, 16), np.uint8)).verdict
    (60, 'anomalous')
    >>> ws.models["model_id"].tolist() == [model.model_id]
    True

    Args:
        place: a path or URL; it need not exist.
    """

    def __init__(self, place: str | Path = "./workspace") -> None:
        self._layout = layout.Workspace.at(as_text(place))

    def __repr__(self) -> str:
        return f"Workspace({self._place!r})"

    @property
    def _place(self) -> str:
        return str(self._layout.root)

    def train(self, normal: str | Path, **options: Any) -> Model:
        """Learn from normal images, and calibrate on some that are held back, as ``nelbo train --normal`` does.

        Args:
            normal: normal images: a folder, an archive, a table, a pattern, or the URL of one.
            options: the command's options, such as ``fpr``, ``image_size``, ``epochs``; see docs/reference/settings.md.

        Returns:
            The new model. It is the workspace's latest unless ``promote`` is False or a gate refused it.

        Raises:
            ValueError: an unknown option, a bad value, or images that are too few or cannot be used.
        """
        result = carry_out("train", normal=normal, workspace=self._place, **options)
        return Model(result["model_id"], self._layout)

    def score(self, images: str | Path, **options: Any) -> Batch:
        """Score every file of a batch, and write the batch's page, as ``nelbo score`` does.

        Args:
            images: a folder, an archive, a table, a pattern, or the URL of one.
            options: the command's options, such as ``model``, ``batch_id``, ``new``.

        Returns:
            The model's results on the batch.

        Raises:
            NotYetError: there is no model; or ``new`` is set, and nothing is new. It is a ValueError.
            ValueError: an unknown option, or a bad value.
        """
        result = carry_out("score", images=images, workspace=self._place, **options)
        if "skipped" in result:
            raise NotYetError(result["skipped"])
        return Batch(result["batch_id"], result["model_id"], self._layout)

    def scorer(self, **options: Any) -> Scorer:
        """A function of one image: a path or an array.

        Args:
            options: ``model``, ``calibration``, ``uncalibrated``, ``engine``, and how files are read.
        """
        return Scorer(check_options(ScorerOptions, {"workspace": self._place, **options}))

    @property
    def models(self) -> pd.DataFrame:
        """A row for each model: what it is, whether it is the latest, its calibration."""
        return catalog.models(self._layout).to_pandas()

    @property
    def batches(self) -> pd.DataFrame:
        """A row for each scored batch, the newest last: its model, and its number of images, in all and by verdict."""
        return catalog.batches(self._layout).to_pandas()

    def model(self, model_id: str = "latest") -> Model:
        """An existing model.

        Args:
            model_id: a model id, or its beginning; by default the latest.

        Raises:
            ValueError: there is no such model.
        """
        return Model(catalog.find_model(self._layout, model_id), self._layout)

    def batch(self, batch_id: str | None = None) -> Batch:
        """A batch, as it was scored last.

        Args:
            batch_id: a batch id, or its beginning; by default the batch that was scored last.

        Raises:
            NotYetError: no batch is scored yet. It is a ValueError.
            UsageError: there is no such batch. It is a ValueError.
        """
        batch_id = batch_id and catalog.find_scored(self._layout, "batch", batch_id)
        rows = catalog.published(self._layout, batch_id=batch_id).to_pylist()
        if rows:
            return Batch(rows[-1]["batch_id"], rows[-1]["model_id"], self._layout)
        if batch_id is None:
            raise NotYetError(f"no batch is scored yet in {self._place}. Score one with Workspace.score.")
        raise UsageError(f"batch {batch_id!r} is not scored in {self._place}. Workspace.batches lists those that are.")


def load(place: str | Path = "./workspace", model_id: str = "latest") -> Model:
    """A model of a workspace; by default the one last promoted.

    Args:
        place: a path or URL.
        model_id: as in `Workspace.model`.

    Raises:
        ValueError: there is no such workspace or model.

    >>> import tempfile
    >>> try:
    ...     load(tempfile.mkdtemp())
    ... except ValueError as error:
    ...     print(str(error).split()[-4:])
    ['nelbo', 'train', '--normal', 'DIR']
    """
    return Workspace(place).model(model_id)
