"""Scores one image at a time."""

import os
from itertools import islice
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from nelbo.data import SCORES_SCHEMA, File, InputError, list_source
from nelbo.flows.inference.engines import calibrations_for, choose_engine
from nelbo.flows.inference.models import load_model
from nelbo.flows.inference.pipeline import score_files, score_image
from nelbo.flows.inference.verdicts import judged
from nelbo.flows.inference.why.looks import read_looks
from nelbo.flows.options.options import ModelOptions
from nelbo.flows.options.settings import DecodingSettings
from nelbo.flows.options.types import AUTO, EngineName, Text
from nelbo.flows.python.direct import as_text
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.calibrations.calibration import read_calibration
from nelbo.flows.workspace.layout import Workspace
from nelbo.vae_core import precision_of


class ScorerOptions(ModelOptions, DecodingSettings):
    """Options of a scorer: those of the command ``score`` that apply to a single image."""

    calibration: Text | None = None
    uncalibrated: bool = False
    engine: Literal["auto", EngineName] = AUTO


class Scorer:
    """Scores single images with a model that stays loaded, and judges them by the calibration of when it was made.

    Any number of threads may call it at once. For a file it gives the numbers that ``nelbo score`` gives, bit for bit
    with the same engine; for an array it gives those of a lossless file with these values, such as PNG or TIFF.

    Args:
        options: options of the command ``score``; `Workspace.scorer` makes them from its keywords.

    Attributes:
        model_id, calibration_id, engine: what it scores with; without a calibration it gives scores only.
    """

    def __init__(self, options: ScorerOptions) -> None:
        workspace = Workspace.at(options.workspace)
        self.model_id = catalog.find_model(workspace, options.model)
        calibrations = calibrations_for(workspace, self.model_id, options.calibration, options.uncalibrated)
        self.engine = choose_engine(workspace, self.model_id, options.engine, calibrations)
        self.calibration_id = calibrations[precision_of(self.engine)]
        self._model = load_model(workspace, self.model_id, self.engine)
        self._calibration = read_calibration(workspace, self.calibration_id) if self.calibration_id else None
        self._looks = read_looks(workspace, self.model_id)
        self._decoding = options

    def __call__(self, image: Any) -> pd.Series:
        """The columns of ``scores`` for one image; an image that cannot be read is ``not_scored``, with the reason.

        Args:
            image: a path or URL; or an array (rows, columns) or (rows, columns, channels) with 1 or 3 channels, of
                integers over the range of their type, or of floats as in the files that the model was trained on.

        Raises:
            InputError: there is no such file.
            ValueError: an array of another shape or type.
        """
        if isinstance(image, str | os.PathLike):
            files = [_file(as_text(image))]
            rows = pa.concat_tables(score_files(self._model, files, self._decoding, self._calibration, self._looks))
        else:
            rows = score_image(self._model, np.asarray(image), self._calibration, self._looks)
        found = judged(rows, self._calibration, self._model.config.statistic)
        for name in found.column_names:
            rows = rows.append_column(name, found[name])
        schema = pa.schema([field for field in SCORES_SCHEMA if field.name in rows.column_names])
        return rows.select(schema.names).cast(schema).to_pandas().iloc[0].rename(None)


def _file(path: str) -> File:
    listing = list_source(path)
    found = list(islice(listing.entries, 2))
    if len(found) != 1:
        raise InputError(
            f"{path} holds several files, or none: expected one image. Score a folder with Workspace.score."
        )
    return File(listing.root, found[0].entry.path)
