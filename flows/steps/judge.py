"""Steps of ``train --gate``: a new model is promoted only if held-out images do not show it to be worse."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from nelbo.data import Manifest, labels_in
from nelbo.detectors import Judged, gate
from nelbo.detectors.metrics.gate import MIN_NORMAL
from nelbo.flows.evaluation.sensitivity import seen, sees_no_less
from nelbo.flows.evaluation.thresholds import calibration_needs
from nelbo.flows.inference.measured import measure
from nelbo.flows.inference.models import load_model
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.steps.ingest import content_id, publish_manifest, read_manifest, scan_source
from nelbo.flows.steps.parts import assign_parts, check_labels, each_once, first_of_each
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.calibrations.calibration import calibration_of
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import unseen_in_training
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import only, without


@dataclass(frozen=True)
class Gated:
    """What the gate found about a candidate.

    findings: a sentence for each rule; failed: those that keep the candidate out.
    serving_id: the model it was compared with; None if there was none.
    n_normal, n_anomalous: held-out images that both models scored.
    n_left_out: how many others there were, by reason.
    """

    passed: bool
    findings: list[str]
    failed: list[str] = field(default_factory=list)
    serving_id: str | None = None
    n_normal: int = 0
    n_anomalous: int = 0
    n_left_out: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The object that is printed; failed rules are among the findings."""
        return {name: value for name, value in asdict(self).items() if name != "failed"}

    def to_markdown(self) -> str:
        """The findings as Markdown, for people."""
        heading = f"# {'Passed' if self.passed else 'Not passed'}"
        return "\n".join([heading, "", *(f"- {finding}" for finding in self.findings)])


def freeze_gate(options: TrainOptions, batch_id: str, run: Run) -> str:
    """Ingest the held-out images, check that they can decide, and publish their manifest; returns its id.

    Everything that can be known before an hour of training is checked here.

    Args:
        batch_id: the manifest of the normal images to train on.
    """
    source = str(options.gate)
    # The root belongs to a manifest's paths, and not to a folder.
    root = options.root if source.lower().endswith((".csv", ".parquet")) else None
    manifest = scan_source(source, options.model_copy(update={"root": root}), find=labels_in).manifest()
    check_labels(source, manifest.table)
    workspace = Workspace.at(options.workspace)
    serving_id = _serving(workspace)
    if serving_id is not None:
        # Find a damaged model now, too.
        load_model(workspace, serving_id)
        normals = _to_train_on(options, read_manifest(workspace, batch_id))
        _held_out(source, manifest, workspace, (serving_id,), normals)
    gate_id = content_id("g", manifest.content_hash())
    publish_manifest(manifest, workspace, gate_id, run)
    return gate_id


def judge_candidate(options: TrainOptions, gate_id: str, model_id: str) -> Gated:
    """Score the held-out images with the candidate and with the model that serves, and apply the rules."""
    workspace = Workspace.at(options.workspace)
    serving_id = _serving(workspace)
    if serving_id is None:
        return Gated(True, ["there was no model before"])
    if serving_id == model_id:
        return Gated(True, ["it is the model that serves already: nothing to compare"], serving_id=serving_id)
    both = (model_id, serving_id)
    held_out, left_out = _held_out(str(options.gate), read_manifest(workspace, gate_id), workspace, both)
    new, old = (
        measure(load_model(workspace, name), held_out, options, f"scoring held-out images with {name}") for name in both
    )
    # Compare only images that both can score. Each content occurs once: both tables are in the same order.
    new, old = only(new, old), only(old, new)
    left_out["unusable"] += len(held_out) - len(new)
    _check_enough(str(options.gate), new, left_out)
    labels = _labels(new)
    result = gate(labels, _judged(workspace, model_id, new), _judged(workspace, serving_id, old))
    result = result.further(sees_no_less(*(seen(workspace, name) for name in both)))
    n_anomalous = int(labels.sum())
    findings, failed = (list(map(str, some)) for some in (result.findings, result.failed))
    return Gated(
        result.passed, findings, failed, serving_id, len(labels) - n_anomalous, n_anomalous, n_left_out=left_out
    )


def _serving(workspace: Workspace) -> str | None:
    """The model that ``latest`` refers to, if any."""
    name = pointers.promoted(workspace)
    return None if name is None else catalog.find_model(workspace, name)


def _to_train_on(options: TrainOptions, normals: Manifest) -> pa.Table:
    """The images that the candidate will be made from, including those of the calibration."""
    usable = list(first_of_each(normals.table))
    if "calibration" not in assign_parts(normals.table, usable, options).values():
        raise UsageError(
            f"fpr={options.fpr} needs {calibration_needs(options)} calibration images, more than half of the "
            f"{len(usable)} normals, and a model without calibration never passes the gate. Add normal images, "
            "ask for a larger fpr, or leave --gate out."
        )
    return each_once(normals.table)


def _held_out(
    source: str, manifest: Manifest, workspace: Workspace, model_ids: Iterable[str], to_train_on: pa.Table | None = None
) -> tuple[Manifest, dict[str, int]]:
    """The usable rows, each content once, that the models have not used; and how many are left out, by reason.

    Raises:
        UsageError: too few are left.
    """
    table = each_once(manifest.table)
    left_out = Counter(unusable=len(manifest) - len(table), trained_on=0, calibrated_on=0)
    for model_id in model_ids:
        unseen = unseen_in_training(table, workspace, model_id)
        calibration = calibration_of(workspace, model_id)
        kept = unseen if calibration is None else calibration.unseen(unseen)
        left_out.update(trained_on=len(table) - len(unseen), calibrated_on=len(unseen) - len(kept))
        table = kept
    if to_train_on is not None:
        kept = without(table, to_train_on)
        left_out.update(trained_on=len(table) - len(kept))
        table = kept
    _check_enough(source, table, left_out)
    return Manifest(table, manifest.root), dict(left_out)


def _check_enough(source: str, table: pa.Table, left_out: Mapping[str, int]) -> None:
    n_normal = len(table) - int(_labels(table).sum())
    if n_normal < MIN_NORMAL:
        raise UsageError(
            f"{source} leaves {n_normal} normal images to judge a new model on, and at least {MIN_NORMAL} are needed. "
            f"Of the others, {left_out['trained_on']} are for training or were used to train or stop a model, "
            f"{left_out['calibrated_on']} are in a calibration, {left_out['unusable']} are copies or cannot be used. "
            "Give normal images that neither model has seen."
        )


def _labels(table: pa.Table) -> np.ndarray:
    """(n,) 1 if an image is labelled anomalous, otherwise 0."""
    return (np.asarray(table["label"]) == 1).astype(np.int64)


def _judged(workspace: Workspace, model_id: str, rows: pa.Table) -> Judged:
    """A model's scores by its current calibration's statistic; by the model's own if it has no calibration."""
    calibration = calibration_of(workspace, model_id)
    if calibration is None:
        return Judged(Statistic(load_model(workspace, model_id).config.statistic).scores(rows), None)
    return Judged(calibration.statistic.scores(rows), calibration.threshold)
