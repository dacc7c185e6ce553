"""Drift of a batch: what it is compared with, and how the verdict is kept beside its scores."""

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data import QUALITY, InputError, Place, modified, read_table
from detectors import detect_drift
from flows.calibrations import Calibration, scored_rows
from flows.settings import ScoreOptions
from flows.workspace import Workspace

log = logging.getLogger(__name__)

_KEY = "nelbo.drift"


def find_drift(
    rows: pa.Table, calibration: Calibration, workspace: Workspace, batch_id: str, options: ScoreOptions
) -> dict[str, Any]:
    """A batch against its calibration, the batches before it, and the look of the images behind the calibration.

    Args:
        rows: of the scored images: ``anomaly_score``, ``QUALITY``, size, and ``image_id`` or what sorts like it.

    Returns:
        ``alarm``; ``alpha``; ``findings``, a sentence for each test that fired; ``tests``, all of them.
    """
    scored = _without_order(rows)
    promised = calibration.threshold.fpr is not None
    found = detect_drift(
        scored["anomaly_score"].to_numpy(),
        calibration.normal_scores,
        threshold=calibration.threshold.value if promised else None,
        earlier=_earlier(calibration, workspace, batch_id, options.drift_batches),
        statistics=_look(scored),
        reference=_reference(calibration, workspace),
        alpha=options.drift_alpha,
    )
    return {
        "alarm": found.alarm,
        "alpha": found.alpha,
        "findings": [test.finding for test in found.fired],
        "tests": [{**test._asdict(), "fired": test in found.fired} for test in found.tests],
    }


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
    """As metadata of the file of scores."""
    return {} if found is None else {_KEY: json.dumps(found)}


def read_drift(table: pa.Table) -> dict[str, Any] | None:
    """From the metadata of the file of scores; None where the batch was scored without a calibration."""
    text = (table.schema.metadata or {}).get(_KEY.encode())
    return None if text is None else json.loads(text)


def _earlier(calibration: Calibration, workspace: Workspace, batch_id: str, limit: int) -> list[np.ndarray]:
    """Anomaly scores of the batches published last under the same model, the oldest first.

    Only of those since the calibration was made, which says what is normal now; and without those that raised the
    alarm, or one odd batch would raise it for all that follow.
    """
    published = workspace.scores(calibration.model_id, batch_id)
    since = datetime.fromisoformat(calibration.made_at_utc).timestamp()
    times = {path: _modified(path) for path in published.parents[1].glob("batch_id=*/scores.parquet")}
    paths = (path for path, time in times.items() if path != published and time >= since)
    scores: list[np.ndarray] = []
    for path in sorted(paths, key=lambda path: times[path], reverse=True):
        if len(scores) == limit:
            break
        try:
            rows = scored_rows(path)
        except InputError as error:
            log.warning("drift is looked for without one of the earlier batches: %s", error)
            continue
        found = read_drift(rows)
        if found is None or not found["alarm"]:
            scores.insert(0, calibration.statistic.scores(_without_order(rows)))
    return scores


def _without_order(rows: pa.Table) -> pa.Table:
    """Rows in an order that says nothing: by path, all defects of a batch may come last, which is no drift."""
    return rows.sort_by("image_id")


def _modified(path: Place) -> float:
    try:
        return modified(path)
    except FileNotFoundError:
        # Pruned meanwhile.
        return 0.0


def _reference(calibration: Calibration, workspace: Workspace) -> dict[str, np.ndarray]:
    """What the normal images behind the calibration look like: its manifest, which training's is for a start."""
    path = workspace.manifest(calibration.batch_id)
    if not path.exists():
        log.warning("%s is not here: brightness, contrast, sharpness and size are not compared with it", path)
        return {}
    table = read_table(path)
    return _look(table.filter(pc.and_(pc.not_equal(table["label"], 1), pc.is_null(table["reason"]))))


def _look(table: pa.Table) -> dict[str, np.ndarray]:
    """Simple statistics of images; NaN where one was not decoded."""
    look = {name: np.asarray(table[name].to_numpy(), np.float64) for name in QUALITY}
    pixels = pc.multiply(table["width_px"].cast(pa.int64()), table["height_px"].cast(pa.int64()))
    return {**look, "size": np.sqrt(np.asarray(pixels.to_numpy(), np.float64))}
