"""What becomes of a new calibration: its model's current one, or a candidate that people may use anyway."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import CALIBRATION_SCHEMA
from nelbo.detectors import Threshold, evaluate, verdicts
from nelbo.detectors.metrics.evidence import KINDS, blind, too_few, worse
from nelbo.flows.evaluation.metrics import as_json
from nelbo.flows.options.settings import LabelSettings
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.calibrations.calibration import (
    REVIEWS,
    Calibration,
    calibration_of,
    not_choosing,
    part_rows,
    rows_of,
    write_calibration,
)
from nelbo.flows.workspace.calibrations.level import RegionLevel
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import without
from nelbo.vae_core import FLOAT32, INT8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proposal:
    """A calibration that is about to be written.

    batch_id: batch of the manifest of its images.
    rows: columns of ``CALIBRATION_SCHEMA``, and others.
    heatmap_top: upper end of the heatmaps' colour scale.
    region_level: the level that regions exceed, or why it is not known.
    labels, labels_from: how labels chose the threshold, and where they came from; None where normal images did.
    fit_id: the model's second fit, if it scored the rows; None where the bundle's fit did.
    """

    model_id: str
    batch_id: str
    rows: pa.Table
    statistic: Statistic
    threshold: Threshold
    heatmap_top: float
    region_level: RegionLevel | str
    labels: LabelSettings | None = None
    labels_from: str | None = None
    fit_id: str | None = None

    @property
    def precision(self) -> str:
        """The precision of the fit that scored the rows."""
        return FLOAT32 if self.fit_id is None else INT8

    def content(self) -> dict[str, Any]:
        """The content of ``calibration.json``."""
        rule, level = self.statistic.rule, self.region_level
        return {
            "model_id": self.model_id,
            "batch_id": self.batch_id,
            "heatmap_top": self.heatmap_top,
            "labels_from": self.labels_from,
            "statistic": self.statistic.name,
            # From version 0.1; calibrations by reviews keep it.
            "joint": {"rule": rule.rule, "statistics": list(rule.statistics)} if rule else None,
            "threshold": self.threshold.to_dict(),
            "judged": self._judged(),
            "region_level": {"why_not": level} if isinstance(level, str) else level.to_dict(),
            **({"levels": dict(self.statistic.levels)} if self.statistic.levels else {}),
            **({"fit_id": self.fit_id} if self.fit_id else {}),
        }

    def _judged(self) -> dict[str, Any] | None:
        """Metrics of the threshold on the labelled images that did not choose it."""
        others = part_rows(self.rows, "test")
        if not others.num_rows:
            return None
        scores = others["anomaly_score"].to_numpy()
        found = verdicts(scores, self.threshold.value, self.threshold.review)
        return as_json(evaluate(others["label"].to_numpy(), scores, found))


def keep(proposal: Proposal, workspace: Workspace, run: Run, take: bool = True) -> str:
    """Write a calibration, make it its model's current one unless something speaks against it, and return its id.

    It is compared with the calibration that it replaces, again if another one becomes current meanwhile.

    Args:
        take: False leaves it to the caller to make it current.
    """
    model_id, precision = proposal.model_id, proposal.precision
    log.info("%s%s", "int8: " if proposal.fit_id else "", proposal.threshold.describe())
    if isinstance(proposal.region_level, str):
        log.warning("flagged images will have no regions: %s", proposal.region_level)
    while True:
        before = pointers.current_calibration(workspace, model_id, precision)
        why_not = _why_not(proposal, _read(workspace, model_id, before), workspace)
        content = {**proposal.content(), "why_not": why_not}
        calibration_id = write_calibration(content, proposal.rows.select(CALIBRATION_SCHEMA.names), workspace, run)
        if calibration_id == before or not take:
            return calibration_id
        if why_not is not None:
            log.warning(
                "calibration %s is a candidate, and %s: %s. Use it anyway with: nelbo calibrate --model %s --use %s",
                calibration_id,
                f"{before} stays current" if before else "the model has no current one",
                why_not,
                model_id,
                calibration_id,
            )
            return calibration_id
        if pointers.replace_calibration(workspace, model_id, calibration_id, before, precision):
            return calibration_id


def objection(proposal: Proposal, workspace: Workspace) -> str | None:
    """Why a calibration would not become its model's current one; None if it would."""
    current = pointers.current_calibration(workspace, proposal.model_id, proposal.precision)
    return _why_not(proposal, _read(workspace, proposal.model_id, current), workspace)


def _read(workspace: Workspace, model_id: str, calibration_id: str | None) -> Calibration | None:
    if calibration_id is None:
        return None
    try:
        return calibration_of(workspace, model_id, calibration_id)
    except UsageError as error:
        # A new calibration is the remedy for a current one that is damaged or gone.
        log.warning("not compared with the current calibration: %s", error)
        return None


def _why_not(new: Proposal, current: Calibration | None, workspace: Workspace) -> str | None:
    """Why a calibration does not become current by itself; None if it does.

    A calibration from as many normal images as its promise needs becomes current, unless the labelled images that
    judge the current one show that it misses more. Its false alarms are not compared: its own promise limits them.
    """
    if new.labels is not None:
        return _against_labels(new, new.labels, current, workspace)
    if current is None:
        return None
    known = without(part_rows(rows_of(workspace, current), "test"), new.rows)
    if current.labels_from == REVIEWS:
        # Reviewed normal images are those that were flagged, so they say nothing of the rate over all normal images.
        known = known.filter(pc.equal(known["label"], 1))
    if not known.num_rows:
        return None
    labels, (flagged, by_current) = known["label"].to_numpy(), _both(known, new, current)
    # The requested rate limits how many anomalous images can be found.
    rate = new.threshold.asked_fpr
    return blind(labels, flagged) or worse(labels, flagged, by_current, "recall", rate)


def _against_labels(
    new: Proposal, labels: LabelSettings, current: Calibration | None, workspace: Workspace
) -> str | None:
    """What speaks against a threshold from labels: too few labels, or those that chose neither threshold."""
    judging = part_rows(new.rows, "test")
    said = _too_few(new) or blind(judging["label"].to_numpy(), flags(judging, new.statistic, new.threshold))
    if said is not None or current is None:
        return said
    known = not_choosing(judging, workspace, current)
    truth, (flagged, by_current) = known["label"].to_numpy(), _both(known, new, current)
    said = worse(truth, flagged, by_current, labels.objective, labels.target, labels.costs)
    if said is not None or new.labels_from != REVIEWS:
        return said
    # Nobody reviews images that were not flagged, so only the held-out normal images tell of false alarms.
    normal = part_rows(new.rows, "normal")
    said = worse(np.zeros(normal.num_rows, int), *_both(normal, new, current))
    return said and f"{said}, all of them held out and picked by nobody"


def _too_few(new: Proposal) -> str | None:
    # Reviews label few normal images, so false alarms are compared on the held-out ones.
    kinds = ("anomalous",) if new.labels_from == REVIEWS else ("anomalous", "normal")
    for kind in kinds:
        of_kind = new.rows.filter(pc.equal(new.rows["label"], KINDS.index(kind)))
        n_judging = part_rows(of_kind, "test").num_rows
        if said := too_few(kind, of_kind.num_rows - n_judging, n_judging):
            return said
    return None


def _both(rows: pa.Table, new: Proposal, current: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """Which of the rows the new calibration calls anomalous, and which the current one; each (n,) booleans."""
    return flags(rows, new.statistic, new.threshold), flags(rows, current.statistic, current.threshold)


def flags(rows: pa.Table, statistic: Statistic, threshold: Threshold) -> np.ndarray:
    """Which of the rows are called anomalous; (n,) booleans."""
    return verdicts(statistic.scores(rows), threshold.value) == "anomalous"
