"""Thresholds of a calibration: from normal images for a requested rate, or from labels."""

import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa

from nelbo.data import MAP_PEAK
from nelbo.detectors import CalibrationError, Threshold, check_size, n_needed, trim, variant_levels
from nelbo.flows.options.settings import CalibrationSettings, LabelSettings
from nelbo.flows.workspace.calibrations.calibration import part_rows
from nelbo.flows.workspace.calibrations.level import RegionLevel
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.errors import UsageError

log = logging.getLogger(__name__)


def threshold_of_normals(
    rows: pa.Table, statistic: Statistic, options: CalibrationSettings, cross: bool, in_groups: bool = False
) -> tuple[Statistic, Threshold]:
    """The threshold that keeps the promise, and the statistic with a level for each variant.

    With these levels one threshold flags the promised share of each variant's normal images.

    Args:
        rows: of normal images, with the columns of ``MEASURED``.
        cross: whether the images were measured by cross-fitting.
        in_groups: whether each row was drawn from its group.
    """

    def found(scores: np.ndarray) -> Threshold:
        return Threshold.from_normals(
            scores,
            options.fpr,
            confidence=options.confidence,
            contamination=options.contamination,
            review_fpr=options.review_fpr,
            cross=cross,
            per=options.promise_per if in_groups else None,
        )

    scores = statistic.scores(rows)
    common = found(scores)
    if rows["variant"].null_count:
        return statistic, common
    variants, least = np.array(rows["variant"].to_pylist()), calibration_needs(options)
    if statistic.name != MAP_PEAK:
        # The warning is given for anomaly scores, and not repeated for maps.
        _warn_of_few(variants, least)
    levels = variant_levels(scores, variants, common.value, lambda own: found(own).value, least)
    if not levels:
        return statistic, common
    statistic = replace(statistic, levels={str(name): level for name, level in levels.items()})
    threshold = found(statistic.scores(rows))
    # Ranks over all variants together may come out one lower than those of each variant.
    review = threshold.review if threshold.review is not None and threshold.review < common.value else None
    return statistic, replace(threshold, value=common.value, review=review)


def level_of_normals(
    rows: pa.Table, options: CalibrationSettings, cross: bool, in_groups: bool = False
) -> RegionLevel | str:
    """The level that the largest value of a normal image's map exceeds as seldom as promised; or why it is not known.

    It is found as the threshold is. Nothing on a map exceeds its largest value, so a normal image shows a region no
    more often.

    Args:
        rows, cross, in_groups: see `threshold_of_normals`; the rows have the column ``MAP_PEAK`` without nulls.
    """
    if not rows.num_rows:
        return "no maps of normal images are known: calibrate again on normal images, with an engine that makes maps"
    asked = options.model_copy(update={"review_fpr": None})
    try:
        statistic, threshold = threshold_of_normals(rows, Statistic(MAP_PEAK), asked, cross, in_groups)
    except CalibrationError as error:
        return f"the maps of too few normal images are known: {error}".rstrip(".")
    return RegionLevel(threshold, statistic.levels)


def threshold_of_labels(rows: pa.Table, statistic: Statistic, labels: LabelSettings) -> Threshold:
    """The threshold that the labelled images for calibration choose.

    Raises:
        UsageError: they cannot choose one; the message counts the images of each kind.
    """
    chosen = part_rows(rows, "calibration")
    try:
        return Threshold.from_labels(
            chosen["label"].to_numpy(),
            statistic.scores(chosen),
            str(labels.objective),
            target=labels.target,
            costs=labels.costs,
            review_recall=labels.review_recall,
        )
    except ValueError as error:
        counts = Counter(chosen["label"].to_pylist())
        raise UsageError(
            f"{error} (Of the labelled images {counts[0]} normal and {counts[1]} anomalous ones choose the threshold; "
            f"{part_rows(rows, 'test').num_rows} judge it.)"
        ) from error


def _warn_of_few(variants: np.ndarray, least: int) -> None:
    for name, n in zip(*np.unique(variants, return_counts=True), strict=True):
        if n < least:
            log.warning(
                "variant %s has %d calibration images, and its own promise needs %d: it is judged by the threshold of "
                "all variants together. Add normal images of it",
                name,
                n,
                least,
            )


def calibration_needs(options: CalibrationSettings) -> int:
    """The number of calibration images that the promise needs, including those that are trimmed.

    >>> calibration_needs(CalibrationSettings()), calibration_needs(CalibrationSettings(contamination=0.1))
    (19, 22)
    """
    n = n_needed(options.fpr, options.confidence)
    while len(trim(range(n), options.contamination)) < n_needed(options.fpr, options.confidence):
        n += 1
    return n


def check_calibration_size(n: int, options: CalibrationSettings) -> None:
    """Check that n calibration images are enough.

    Raises:
        CalibrationError: they are too few; the message says how many are needed, and for what.
    """
    if not options.contamination:
        check_size(n, options.fpr, options.confidence)
    elif n < calibration_needs(options):
        raise CalibrationError(
            f"fpr={options.fpr} after contamination={options.contamination} is trimmed needs at least "
            f"{calibration_needs(options)} calibration images, got {n}. Add normal images, or ask for a larger fpr."
        )
