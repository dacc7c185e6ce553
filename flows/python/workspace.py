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

    Methods are the commands of the same name, and run in this process: no server is asked or started, and settings of
    the command line (``nelbo.toml``, ``NELBO_*``) are not read. Their options are keywords with the same names.

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
            normal: images; a folder, an archive, a table, a pattern, or the URL of one.
            options: of the command, such as ``fpr``, ``image_size``, ``epochs``; see docs/settings.md.

        Raises:
            ValueError: an unknown option, a bad value, or images that are too few or cannot be used.
        """
        result = carry_out("train", normal=normal, workspace=self._place, **options)
        return Model(result["model_id"], self._layout)

    def score(self, images: str | Path, **options: Any) -> Batch:
        """Give every file of a batch its row, and write the page, as ``nelbo score`` does.

        Args:
            images: as in `train`.
            options: of the command, such as ``model``, ``batch_id``, ``new``.

        Raises:
            NotYetError: there is no model; or ``new`` is asked for, and nothing is new. A ValueError.
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
        """A row for each scored batch, the newest last: its model, how many images there are and of which verdict."""
        return catalog.batches(self._layout).to_pandas()

    def model(self, model_id: str = "latest") -> Model:
        """A model that is there."""
        return Model(catalog.find_model(self._layout, model_id), self._layout)

    def batch(self, batch_id: str | None = None) -> Batch:
        """A batch as it was scored last; by default the one that was."""
        batch_id = batch_id and catalog.find_scored(self._layout, "batch", batch_id)
        rows = catalog.published(self._layout, batch_id=batch_id).to_pylist()
        if rows:
            return Batch(rows[-1]["batch_id"], rows[-1]["model_id"], self._layout)
        if batch_id is None:
            raise NotYetError(f"no batch is scored yet in {self._place}. Score one with Workspace.score.")
        raise UsageError(f"batch {batch_id!r} is not scored in {self._place}. Workspace.batches lists those that are.")


def load(place: str | Path = "./workspace", model_id: str = "latest") -> Model:
    """A model of a workspace; by default the one last promoted."""
    return Workspace(place).model(model_id)
