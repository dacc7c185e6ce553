"""Drift of a batch: what it is compared with, and how the result is kept with its scores."""

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import QUALITY, InputError, read_table
from nelbo.detectors import detect_drift
from nelbo.flows.evaluation.differences import differences
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.calibrations.calibration import Calibration, rows_of, scored_in, scored_rows
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.tables import with_column

log = logging.getLogger(__name__)

_KEY = "nelbo.drift"

#: Numbers of what images look like, by which a batch is compared with normal ones.
_LOOKS = (*QUALITY, "size")


def find_drift(
    rows: pa.Table, calibration: Calibration, workspace: Workspace, batch_id: str, options: ScoreOptions
) -> dict[str, Any]:
    """Compare a batch with its calibration, with earlier batches, and with the look of the calibration's images.

    Each variant is compared with its own normal images: other shares of the variants in a batch are not drift.

    Args:
        rows: of the scored images: ``anomaly_score``, ``QUALITY``, ``variant``, size, and ``image_id`` or a number
            that sorts like it.

    Returns:
        ``alarm``; ``alpha``; ``differs``, a name and a sentence for each number of the look that differs; ``findings``,
        a sentence for each other test that fired; ``tests``, all of them.
    """
    rows = _without_order(rows)
    earlier = _earlier(calibration, workspace, batch_id, options.drift_batches)
    reference = _reference(calibration, workspace)
    names: list[str | None] = [
        name for name in calibration.normal_scores_of if pc.any(pc.equal(rows["variant"], name)).as_py()
    ]
    # So all variants together raise a false alarm as rarely as one would.
    alpha = options.drift_alpha / max(1, len(names))
    promised = calibration.threshold.value if calibration.threshold.fpr is not None else None
    findings: list[str] = []
    differs: list[dict[str, str]] = []
    tests: list[dict[str, Any]] = []
    for name in names or [None]:
        own = _of(rows, name)
        look, usual = _look(own), {} if reference is None else _look(_of(reference, name))
        found = detect_drift(
            own["anomaly_score"].to_numpy(),
            calibration.against(name),
            threshold=promised,
            earlier=[calibration.statistic.scores(one) for batch in earlier if len(one := _of(batch, name))],
            statistics={one: look[one] for one in _LOOKS},
            reference={one: usual[one] for one in _LOOKS if usual},
            alpha=alpha,
        )
        said = "" if name is None else f"variant {name}: "
        findings += [f"{said}{test.finding}" for test in found.fired if test.name not in _LOOKS]
        seen = differences([test.name for test in found.fired if test.name in _LOOKS], look, usual)
        differs += [one._replace(sentence=f"{said}{one.sentence}")._asdict() for one in seen]
        tests += [test._asdict() | {"name": f"{said}{test.name}", "fired": test in found.fired} for test in found.tests]
    alarm = any(test["fired"] for test in tests)
    return {
        "alarm": alarm,
        "alpha": options.drift_alpha,
        "differs": differs,
        "findings": findings,
        "tests": tests,
    }


def _of(rows: pa.Table, variant: str | None) -> pa.Table:
    """The rows of a variant; all rows if it is None."""
    return rows if variant is None else rows.filter(pc.equal(rows["variant"], variant))


def drift_facts(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a run's row says of drift."""
    if found is None or not found["tests"]:
        return {}
    return {
        "drift": found["alarm"],
        "drift_tests": ",".join(test["name"] for test in found["tests"] if test["fired"]),
        "drift_p_value": min(test["adjusted_p_value"] for test in found["tests"]),
    }


def write_drift(found: Mapping[str, Any] | None) -> dict[str, str]:
    """The finding as metadata of the file of scores."""
    return {} if found is None else {_KEY: json.dumps(found)}


def read_drift(table: pa.Table) -> dict[str, Any] | None:
    """The finding in the metadata of the file of scores; None if the batch was scored without a calibration."""
    text = (table.schema.metadata or {}).get(_KEY.encode())
    return None if text is None else json.loads(text)


def _earlier(calibration: Calibration, workspace: Workspace, batch_id: str, limit: int) -> list[pa.Table]:
    """Scored rows of the batches that the same fit of the model published last, the oldest first.

    Only batches since the calibration was made count, because it says what is normal now. Batches with drift are left
    out, or one odd batch would raise the alarm for all that follow.
    """
    since = datetime.fromisoformat(calibration.made_at_utc).timestamp()
    found = catalog.published(workspace, model_id=calibration.model_id)
    found = found.filter((pc.field("batch_id") != batch_id) & (pc.field("modified") >= since))
    batches: list[pa.Table] = []
    for path in reversed(found["path"].to_pylist()):
        if len(batches) == limit:
            break
        try:
            if scored_in(workspace.root / path) != calibration.precision:
                continue
            rows = scored_rows(workspace.root / path)
        except InputError as error:
            log.warning("drift detection leaves out one of the earlier batches: %s", error)
            continue
        drift = read_drift(rows)
        if drift is None or not drift["alarm"]:
            batches.insert(0, _without_order(rows))
    return batches


def _without_order(rows: pa.Table) -> pa.Table:
    """Rows in an arbitrary order: sorted by path, all defects of a batch may come last, which would look like drift."""
    return rows.sort_by("image_id")


def _reference(calibration: Calibration, workspace: Workspace) -> pa.Table | None:
    """The manifest rows of the calibration's normal images, with their look; at first this is training's manifest.

    With several variants only the images whose scores the calibration holds, because their variants are known.
    """
    path = workspace.manifest(calibration.batch_id)
    if not path.exists():
        log.warning("%s does not exist: brightness, contrast, sharpness and size are not compared with it", path)
        return None
    table = read_table(path)
    table = table.filter(pc.and_(pc.not_equal(table["label"], 1), pc.is_null(table["reason"])))
    if not calibration.normal_scores_of:
        return table
    own = rows_of(workspace, calibration)
    place = pc.index_in(table["image_id"], own["image_id"].combine_chunks())
    variants = own["variant"].combine_chunks().take(place.combine_chunks())
    return with_column(table, "variant", variants)


def _look(table: pa.Table) -> dict[str, np.ndarray]:
    """Simple statistics of images, each (n,); NaN for an image that was not decoded."""
    names = (*QUALITY, "width_px", "height_px")
    look = {name: np.asarray(table[name].to_numpy(), np.float64) for name in names}
    return {**look, "size": np.sqrt(look["width_px"] * look["height_px"])}
