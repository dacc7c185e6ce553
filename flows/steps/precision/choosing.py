"""Whether a second fit is used: it must agree with the bundle's fit, within that fit's own uncertainty."""

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import spearmanr

from nelbo.data import remove_folder
from nelbo.detectors import chance_changes
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.options.types import AUTO
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.calibrations.calibration import Calibration, part_rows, read_calibration, rows_of
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.tables import only
from nelbo.vae_core import FLOAT32, INT8

log = logging.getLogger(__name__)

#: Least rank correlation of the two fits' scores for which `auto` takes the second one.
LEAST_CORRELATION = 0.98


@dataclass(frozen=True)
class Chosen:
    """Which precision scores, and how the two fits compare on the calibration images.

    calibration_id: the second fit's calibration; None if there is none.
    correlation: Spearman's correlation of their scores.
    n_images: number of images, of which `n_changed` get another verdict from the second fit.
    n_by_chance: most verdicts that differ between two calibrations of the first fit in 19 of 20 draws.
    """

    precision: str
    why: str
    calibration_id: str | None = None
    correlation: float | None = None
    n_images: int = 0
    n_changed: int = 0
    n_by_chance: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The choice as an object for JSON."""
        return asdict(self)


def choose_precision(options: TrainOptions, model_id: str, ids: tuple[str, str] | None) -> Chosen:
    """Take the second fit; or remove it, if the precision is `auto` and it does not agree.

    Args:
        ids: the calibrations of both fits, the bundle's first; None if there are none.
    """
    workspace = Workspace.at(options.workspace)
    found = _compared(workspace, ids)
    # A second fit that does not agree deserves a warning, even if it was requested.
    say = log.info if found.precision == INT8 else log.warning
    say("precision=%s: %s", options.precision, found.why)
    chosen = found if options.precision == AUTO else replace(found, precision=INT8, why=f"asked for; {found.why}")
    if chosen.precision == INT8:
        if chosen.calibration_id is not None:
            pointers.use_calibration(workspace, model_id, chosen.calibration_id, INT8)
    else:
        drop_second(workspace, model_id)
    return chosen


def drop_second(workspace: Workspace, model_id: str) -> None:
    """Remove a model's second fit, if it has one; its calibrations then belong to nothing."""
    pointers.forget(workspace, model_id, [INT8])
    remove_folder(workspace.engine(model_id, INT8))


def _compared(workspace: Workspace, ids: tuple[str, str] | None) -> Chosen:
    if ids is None:
        return Chosen(FLOAT32, "there is no calibration to compare int8 and float32 on")
    first, second = (read_calibration(workspace, name) for name in ids)
    return compared(first, second, *(rows_of(workspace, one) for one in (first, second)))


def compared(first: Calibration, second: Calibration, rows: pa.Table, others: pa.Table) -> Chosen:
    """How two fits compare on the images that calibrated both, and whether the second may replace the first.

    Args:
        first, second: their calibrations; rows, others: the rows of these calibrations.
    """
    rows, others = part_rows(rows, "calibration"), part_rows(others, "calibration")
    both = only(rows, others)
    place = pc.index_in(both["image_id"], others["image_id"].combine_chunks())
    scores, again = (table["anomaly_score"].to_numpy() for table in (both, others.take(place)))
    # Equal scores have no ranks.
    ranked = np.ptp(scores) > 0 and np.ptp(again) > 0
    correlation = float(spearmanr(scores, again).statistic) if ranked else None
    ranks = "none" if correlation is None else f"{correlation:.3f}"
    n_changed = int((first.verdicts(scores) != second.verdicts(again)).sum())
    limits = [value for value in (first.threshold.value, first.threshold.review) if value is not None]
    n_by_chance = sum(chance_changes(scores, value) for value in limits)
    agrees = correlation is not None and correlation >= LEAST_CORRELATION and n_changed <= n_by_chance
    why = (
        f"int8 {'agrees' if agrees else 'does not agree'} with float32: rank correlation {ranks} of the scores of "
        f"{len(scores):,} calibration images (at least {LEAST_CORRELATION} is expected), and {n_changed} verdicts "
        f"change (at most {n_by_chance} are expected, as between two calibrations of float32)"
    )
    numbers = (second.calibration_id, correlation, len(scores), n_changed, n_by_chance)
    return Chosen(INT8 if agrees else FLOAT32, why, *numbers)
