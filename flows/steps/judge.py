"""Steps of ``train --gate``: a new model is promoted only if held-out images do not show it to be worse."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import Manifest
from nelbo.detectors import Judged, gate
from nelbo.detectors.metrics.gate import MIN_NORMAL
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

#: Why a held-out image is not taken.
UNUSABLE, TRAINED_ON, CALIBRATED_ON = "unusable", "trained_on", "calibrated_on"

#: Rows in, those of them that may judge a model out.
_Sieve = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Gated:
    """What the gate said of a candidate.

    findings: a sentence for each rule; failed: those that keep the candidate out.
    serving_id: the model it was compared with; None if there was none.
    n_normal, n_anomalous: held-out images that both models scored.
    left_out: how many others there were, by the reason.
    """

    passed: bool
    findings: tuple[str, ...]
    failed: tuple[str, ...] = ()
    serving_id: str | None = None
    n_normal: int = 0
    n_anomalous: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As it is printed."""
        return {
            "passed": self.passed,
            "findings": list(self.findings),
            "serving_id": self.serving_id,
            "n_normal": self.n_normal,
            "n_anomalous": self.n_anomalous,
            "n_left_out": self.left_out,
        }

    def to_markdown(self) -> str:
        """For people to look at."""
        heading = f"# {'Passed' if self.passed else 'Not passed'}"
        return "\n".join([heading, "", *(f"- {finding}" for finding in self.findings)])


def freeze_gate(options: TrainOptions, batch_id: str, run: Run) -> str:
    """Ingest the held-out images, see that they can decide anything, and publish their manifest; its id.

    All that can be known before an hour of training is checked here.

    Args:
        batch_id: of the normal images that are about to be trained on.
    """
    source = str(options.gate)
    # What a manifest's paths start from says nothing of a folder.
    root = options.root if source.lower().endswith((".csv", ".parquet")) else None
    manifest = scan_source(source, options.model_copy(update={"root": root})).manifest()
    check_labels(source, manifest.table)
    workspace = Workspace.at(options.workspace)
    serving_id = _serving(workspace)
    if serving_id is not None:
        # A damaged one is found now, too.
        load_model(workspace, serving_id)
        to_train_on = _to_train_on(options, read_manifest(workspace, batch_id))
        _held_out(source, manifest, [*_sieves(workspace, serving_id), (TRAINED_ON, partial(_without, to_train_on))])
    gate_id = content_id("g", manifest)
    publish_manifest(manifest, workspace, gate_id, run)
    return gate_id


def judge_candidate(options: TrainOptions, gate_id: str, model_id: str) -> Gated:
    """Score the held-out images with the candidate and with the model that serves, and apply the rules."""
    workspace = Workspace.at(options.workspace)
    serving_id = _serving(workspace)
    if serving_id is None:
        return Gated(True, ("there was no model before",))
    if serving_id == model_id:
        return Gated(True, ("it is the model that serves already: nothing to compare",), serving_id=serving_id)
    sieves = [sieve for name in (model_id, serving_id) for sieve in _sieves(workspace, name)]
    held_out, left_out = _held_out(str(options.gate), read_manifest(workspace, gate_id), sieves)
    new, old = (
        measure(load_model(workspace, name), held_out, options, f"scoring held-out images with {name}")
        for name in (model_id, serving_id)
    )
    # An image that one of the two cannot score compares nothing. Each content is there once: both are in one order.
    new, old = _also_in(new, old), _also_in(old, new)
    left_out[UNUSABLE] += len(held_out) - len(new)
    _check_enough(str(options.gate), new, left_out)
    labels = _labels(new)
    result = gate(labels, _judged(workspace, model_id, new), _judged(workspace, serving_id, old))
    n_anomalous = int(labels.sum())
    return Gated(
        result.passed,
        tuple(map(str, result.findings)),
        tuple(map(str, result.failed)),
        serving_id,
        len(labels) - n_anomalous,
        n_anomalous,
        left_out,
    )


def _serving(workspace: Workspace) -> str | None:
    """The model that ``latest`` means, if it means any."""
    name = pointers.promoted(workspace)
    return None if name is None else catalog.find_model(workspace, name)


def _to_train_on(options: TrainOptions, normals: Manifest) -> pa.Array:
    """Content hashes of the images that the candidate will be made of, the calibration's included."""
    usable = list(first_of_each(normals.table))
    if "calibration" not in assign_parts(normals.table, usable, options).values():
        raise UsageError(
            f"fpr={options.fpr} needs {calibration_needs(options)} calibration images, more than half of the "
            f"{len(usable)} normals, and a model without calibration never passes the gate. Add normal images, "
            "ask for a larger fpr, or leave --gate out."
        )
    return pa.array(usable, pa.string())


def _sieves(workspace: Workspace, model_id: str) -> list[tuple[str, _Sieve]]:
    """What takes out the images that had a part in a model or in its current calibration."""
    calibration = calibration_of(workspace, model_id)
    trained = (TRAINED_ON, partial(unseen_in_training, workspace=workspace, model_id=model_id))
    return [trained] if calibration is None else [trained, (CALIBRATED_ON, calibration.unseen)]


def _without(image_ids: pa.Array, table: pa.Table) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["image_id"], image_ids)))


def _held_out(source: str, manifest: Manifest, sieves: Sequence[tuple[str, _Sieve]]) -> tuple[Manifest, dict[str, int]]:
    """The usable rows, each content once, that pass all sieves; and how many do not, by the reason.

    Raises:
        UsageError: too few are left.
    """
    table = each_once(manifest.table)
    left_out = {UNUSABLE: len(manifest) - len(table), TRAINED_ON: 0, CALIBRATED_ON: 0}
    for reason, sieve in sieves:
        kept = sieve(table)
        left_out[reason] += len(table) - len(kept)
        table = kept
    _check_enough(source, table, left_out)
    return Manifest(table, manifest.root), left_out


def _check_enough(source: str, table: pa.Table, left_out: Mapping[str, int]) -> None:
    n_normal = len(table) - int(_labels(table).sum())
    if n_normal < MIN_NORMAL:
        n_unusable, n_trained, n_calibrated = (left_out[reason] for reason in (UNUSABLE, TRAINED_ON, CALIBRATED_ON))
        raise UsageError(
            f"{source} leaves {n_normal} normal images to judge a new model on, and at least {MIN_NORMAL} are needed. "
            f"Of the others, {n_trained} are for training or were trained or stopped on, {n_calibrated} are in a "
            f"calibration, {n_unusable} are copies or cannot be used. Give normal images that neither model has seen."
        )


def _labels(table: pa.Table) -> np.ndarray:
    """(n,) 1 where an image is labelled anomalous, else 0."""
    return (np.asarray(table["label"]) == 1).astype(np.int64)


def _also_in(rows: pa.Table, others: pa.Table) -> pa.Table:
    return rows.filter(pc.is_in(rows["image_id"], others["image_id"].combine_chunks()))


def _judged(workspace: Workspace, model_id: str, rows: pa.Table) -> Judged:
    """A model's scores by its current calibration; by its own statistic if it has none."""
    calibration = calibration_of(workspace, model_id)
    if calibration is None:
        return Judged(Statistic(load_model(workspace, model_id).config.statistic).scores(rows), None)
    return Judged(calibration.statistic.scores(rows), calibration.threshold)
