"""What scores the files of a batch: a model on one engine, its calibration, and what explains flagged images."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from nelbo.data import CHANGED, Manifest, Preprocessing, ingest
from nelbo.flows.evaluation.sensitivity import seen
from nelbo.flows.inference.engines import calibrations_for, choose_engine
from nelbo.flows.inference.kept.audit import Draw, audit_keys
from nelbo.flows.inference.kept.near import Near
from nelbo.flows.inference.maps import Window, read_window
from nelbo.flows.inference.models import load_model
from nelbo.flows.inference.pipeline import SCORED_SCHEMA, score_files
from nelbo.flows.inference.publishing import level_of, warn_of
from nelbo.flows.inference.verdicts import judged
from nelbo.flows.inference.why.looks import Looks, read_looks
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.steps.score import with_scores
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.calibrations.calibration import Calibration, read_calibration
from nelbo.flows.workspace.layout import Workspace
from nelbo.vae_core import Scorable, precision_of

_SIDE_PX, _GREY = 256, 128


@dataclass(frozen=True)
class Scoring:
    """Everything that turns files into rows, loaded; the options name the engine.

    calibrations: those of the fits that may score, see `nelbo.flows.inference.engines.calibrations_for`.
    """

    options: ScoreOptions
    model_id: str
    calibrations: Mapping[str, str | None]
    model: Scorable
    calibration: Calibration | None
    looks: Mapping[str | None, Looks]
    window: Window | None

    @classmethod
    def load(cls, options: ScoreOptions) -> "Scoring":
        """Load what the options mean now.

        Raises:
            UsageError: there is no such model, calibration or engine.
        """
        workspace, (model_id, calibrations) = Workspace.at(options.workspace), meant(options)
        engine = choose_engine(workspace, model_id, options.engine, calibrations)
        options = options.model_copy(update={"engine": engine})
        calibration_id = calibrations[precision_of(engine)]
        made = cls(
            options,
            model_id,
            calibrations,
            load_model(workspace, model_id, options.engine),
            read_calibration(workspace, calibration_id) if calibration_id else None,
            read_looks(workspace, model_id),
            read_window(workspace, model_id),
        )
        made.warm_up()
        made.warn()
        return made

    @property
    def calibration_id(self) -> str | None:
        """The calibration of the fit that scores."""
        return None if self.calibration is None else self.calibration.calibration_id

    def warn(self) -> None:
        """Say once what holds for each batch."""
        sees = seen(Workspace.at(self.options.workspace), self.model_id, self.calibration)
        _, no_regions = level_of(self.calibration, self.model)
        warn_of(no_regions, None if sees is None else sees.cannot_see, self.calibration is not None)

    def warm_up(self) -> None:
        """Score a plain grey picture: decoders start and the network is prepared before a file waits for them."""
        area = Preprocessing(**self.model.preprocessing).area
        # A picture whose size does not suit the area would not be scored.
        size = (_SIDE_PX, _SIDE_PX) if area is None else area.size
        with tempfile.TemporaryDirectory(prefix="nelbo-") as aside:
            Image.new("L", size, _GREY).save(Path(aside) / "grey.png")
            files = ingest(aside, limits=self.options.limits, workers=self.options.workers).files
            for _ in score_files(self.model, files, self.options, self.calibration, self.looks):
                pass


def meant(options: ScoreOptions) -> tuple[str, dict[str, str | None]]:
    """The ids of the model, and of the calibrations of its fits, that the options mean now."""
    workspace = Workspace.at(options.workspace)
    model_id = catalog.find_model(workspace, options.model)
    return model_id, calibrations_for(workspace, model_id, options.calibration, options.uncalibrated)


class Scorer:
    """Scores the files of one batch, as they come."""

    def __init__(self, scoring: Scoring, batch_id: str) -> None:
        self._scoring, self._batch_id = scoring, batch_id
        self._audit, self._near = Draw([np.empty(0, np.uint64)], scoring.options.audit), Near()

    def rows(self, listed: pa.Table, root: str) -> tuple[pa.Table, pa.Table]:
        """The listed files that have a row, and their rows as in a shard, both in the files' order.

        Files that have changed or gone since they were listed have no row.
        """
        found = pa.concat_tables([SCORED_SCHEMA.empty_table(), *self._found(listed, root)])
        scored = with_scores(listed, found)
        stays = pc.invert(pc.equal(pc.fill_null(scored["reason"], ""), CHANGED))
        return listed.filter(stays), scored.filter(stays)

    def judged(self, scored: pa.Table) -> pa.Table:
        """The verdicts on such rows; see `nelbo.flows.inference.verdicts`."""
        return judged(scored, self._scoring.calibration, self._scoring.model.config.statistic)

    def _found(self, listed: pa.Table, root: str) -> Iterator[pa.Table]:
        usable = listed.filter(pc.is_null(listed["reason"]))
        if not len(usable):
            return
        of, options = self._scoring, self._scoring.options
        self._audit.add(audit_keys(usable["relative_path"].to_pylist(), self._batch_id, options.audit_seed))
        files = Manifest(usable, root).files
        with closing(
            score_files(
                of.model,
                files,
                options,
                of.calibration,
                of.looks,
                lambda eligible, scores: self._audit(eligible) | self._near(eligible, scores),
                of.window,
            )
        ) as scored:
            yield from scored
