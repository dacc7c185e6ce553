"""One image at a time, for whoever asks."""

import os
from itertools import islice
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from nelbo.data import SCORES_SCHEMA, File, InputError, list_source
from nelbo.flows.inference.engines import choose_engine
from nelbo.flows.inference.models import load_model
from nelbo.flows.inference.pipeline import score_files, score_image
from nelbo.flows.inference.why.looks import read_looks
from nelbo.flows.options.options import ModelOptions
from nelbo.flows.options.settings import DecodingSettings
from nelbo.flows.options.types import AUTO, EngineName, Text
from nelbo.flows.python.direct import as_text
from nelbo.flows.steps.score import calibration_for
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.calibrations.calibration import read_calibration
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.layout import Workspace


class ScorerOptions(ModelOptions, DecodingSettings):
    """Options of a scorer: those of the command ``score`` that mean something for one image."""

    calibration: Text | None = None
    uncalibrated: bool = False
    engine: Literal["auto", EngineName] = AUTO


class Scorer:
    """Scores an image with a model that stays loaded, and judges it by a calibration as that was when this was made.

    Any number of threads may call it at once. For a file it gives the numbers that ``nelbo score`` gives, to the bit
    with the same engine; for an array those of a file that holds these values and loses nothing, such as PNG or TIFF.

    Attributes:
        model_id, calibration_id, engine: what it scores with; without a calibration there are numbers only.
    """

    def __init__(self, options: ScorerOptions) -> None:
        workspace = Workspace.at(options.workspace)
        self.model_id = catalog.find_model(workspace, options.model)
        self.calibration_id = calibration_for(workspace, self.model_id, options.calibration, options.uncalibrated)
        self.engine = choose_engine(workspace, self.model_id, options.engine)
        self._model = load_model(workspace, self.model_id, self.engine)
        self._calibration = read_calibration(workspace, self.calibration_id) if self.calibration_id else None
        self._looks = read_looks(workspace, self.model_id)
        self._decoding = options

    def __call__(self, image: Any) -> pd.Series:
        """The columns of ``scores`` that one image has; one that cannot be read is ``not_scored``, with the reason.

        Args:
            image: a path or URL; or an array (rows, columns), or with 1 or 3 channels behind, of whole numbers over the
                range of their type, or of floats as in the files that the model was trained on.

        Raises:
            InputError: there is no such file.
            ValueError: an array of another shape or type.
        """
        if isinstance(image, str | os.PathLike):
            files = [_file(as_text(image))]
            rows = pa.concat_tables(score_files(self._model, files, self._decoding, self._calibration, self._looks))
        else:
            rows = score_image(self._model, np.asarray(image), self._calibration, self._looks)
        judged = self._judged(rows)
        schema = pa.schema([field for field in SCORES_SCHEMA if field.name in judged.column_names])
        return judged.select(schema.names).cast(schema).to_pandas().iloc[0].rename(None)

    def _judged(self, rows: pa.Table) -> pa.Table:
        """The same row, with a score and a verdict."""
        decided = dict.fromkeys(("anomaly_score", "threshold", "p_value", "verdict"))
        if rows["reason"][0].is_valid:
            decided["verdict"] = "not_scored"
        elif self._calibration is None:
            (decided["anomaly_score"],) = Statistic(self._model.config.statistic).scores(rows)
        else:
            judged = self._calibration.judge(rows)
            decided = {name: getattr(judged, name)[0] for name in ("anomaly_score", "p_value", "verdict")}
            decided["threshold"] = self._calibration.threshold.value
        for name, value in decided.items():
            rows = rows.append_column(name, pa.array([value]))
        return rows


def _file(path: str) -> File:
    listing = list_source(path)
    found = list(islice(listing.entries, 2))
    if len(found) != 1:
        raise InputError(
            f"{path} holds several files, or none: expected one image. Score a folder with Workspace.score."
        )
    return File(listing.root, found[0].entry.path)
