"""How well a model sees simulated defects, at its current threshold."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import ndtr

from nelbo.data import SIMULATED_SCHEMA, InputError, read_table
from nelbo.data.defects.painting import OF_ITSELF
from nelbo.detectors import Interval, Sensitivity, sensitivity
from nelbo.detectors.interval import WIDTH
from nelbo.detectors.metrics.gate import LEVEL, Finding
from nelbo.detectors.metrics.sensitivity import CHANCE
from nelbo.flows.numbers import interval
from nelbo.flows.workspace.calibrations.calibration import Calibration, calibration_of
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import describe_model

log = logging.getLogger(__name__)

#: If the AUROCs of two models differ by less, simulated defects do not tell which sees real ones better.
MARGIN = 0.05

#: Names of the kinds in sentences.
KINDS = {
    "scratch": "scratches",
    "spot": "spots",
    "stain": "stains",
    "colour": "shifts of colour",
    "cut_paste": "pieces of the image pasted elsewhere",
    "blur": "blurred places",
}


@dataclass(frozen=True)
class Seen:
    """How well a model sees simulated defects.

    n_images: normal images that defects were painted on.
    whole: for all defects; pooled: for those made from the image itself, which reveal a blind model best.
    kinds, sizes, contrasts: for the defects of each kind, length in pixels of the original, and contrast.
    false_alarms: share of normal images that may be flagged; None where no rate is promised.
    judged: metrics on labelled images that did not choose the threshold, which say more than all this; or None.
    """

    n_images: int
    whole: Sensitivity
    pooled: Sensitivity
    kinds: Mapping[str, Sensitivity]
    sizes: Mapping[float, Sensitivity]
    contrasts: Mapping[float, Sensitivity]
    false_alarms: float | None
    judged: Mapping[str, Any] | None = None

    @property
    def blind(self) -> bool:
        """Whether the model is no better than chance on the defects that reveal a blind model best."""
        return self.pooled.is_blind(self.false_alarms)

    @property
    def cannot_see(self) -> str | None:
        """A sentence that the model is blind, and to which defects; None if it is not blind."""
        if not self.blind:
            return None
        sizes = " to ".join(f"{size:g}" for size in sorted({min(self.sizes), max(self.sizes)}))
        kinds = " and ".join(KINDS[name] for name in OF_ITSELF)
        if self.pooled.auroc.low <= CHANCE:
            how = f"score hardly higher than normal images (AUROC {interval(self.pooled.auroc)}, where 0.5 is chance)"
        else:
            how = "are flagged no more often than normal images"
        return (
            f"This model cannot see simulated defects: {kinds}, {sizes} pixels long, {how}. "
            "What it does not flag may be defective"
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as they are printed."""
        return {
            **({"judged": self.judged} if self.judged else {}),
            "blind": self.blind,
            "n_images": self.n_images,
            **_numbers(self.whole),
            "pooled": _numbers(self.pooled),
            "by_kind": {name: _numbers(one) for name, one in self.kinds.items()},
            "by_size_px": {f"{size:g}": _numbers(one) for size, one in self.sizes.items()},
            "by_contrast": {f"{contrast:g}": _numbers(one) for contrast, one in self.contrasts.items()},
        }


def seen(workspace: Workspace, model_id: str, calibration: Calibration | None = None) -> Seen | None:
    """How well a model sees the defects that were painted last; None where none were, or the model is gone.

    Damaged files raise no error here: ``verify`` reports damaged calibrations, a warning reports damaged rows.

    Args:
        calibration: the one whose threshold counts; by default the model's current one, if it has any.
    """
    path = workspace.simulated(model_id)
    if not path.exists():
        return None
    try:
        rows = read_table(path, [name for name in SIMULATED_SCHEMA.names if name != "thumbnail"])
    except InputError as error:
        log.warning("%s", error)
        return None
    if calibration is None or calibration.fit_id is not None:
        # The bundle's fit scored the rows, so only a calibration of that fit applies.
        calibration = None
        with suppress(UsageError):
            calibration = calibration_of(workspace, model_id)
    if calibration is not None:
        statistic = calibration.statistic
    elif (workspace.models / model_id).exists():
        statistic = Statistic(describe_model(workspace, model_id)["config"]["statistic"])
    else:
        return None
    try:
        return seen_of(rows, statistic, calibration)
    except (ValueError, LookupError, TypeError) as error:
        log.warning("%s holds rows that nelbo does not write (%s): the model's sensitivity is not known", path, error)
        return None


def seen_of(rows: pa.Table, statistic: Statistic, calibration: Calibration | None) -> Seen:
    """What rows of ``SIMULATED_SCHEMA`` say by a statistic; without a calibration no defect counts as found or not."""
    scores = statistic.scores(rows)
    flagged = None if calibration is None else calibration.verdicts(scores) == "anomalous"
    painted = np.asarray(pc.is_valid(rows["kind"]))
    of = _images(rows["image_id"].to_pylist(), painted)

    def among(wanted: np.ndarray) -> Sensitivity:
        some = np.flatnonzero(painted & wanted)
        return sensitivity(scores[~painted], scores[some], of[some], None if flagged is None else flagged[some])

    columns = {name: np.array(rows[name].to_pylist(), object) for name in ("kind", "size_px", "contrast")}
    each = {name: {value: among(column == value) for value in _present(column)} for name, column in columns.items()}
    return Seen(
        int((~painted).sum()),
        among(painted),
        among(np.isin(columns["kind"], OF_ITSELF)),
        each["kind"],
        each["size_px"],
        each["contrast"],
        None if calibration is None else calibration.threshold.fpr,
        None if calibration is None else calibration.judged,
    )


def sees_no_less(candidate: Seen | None, serving: Seen | None) -> Finding:
    """The gate's rule "sensitivity": whether a new model sees simulated defects as well as the one that serves.

    It fails if the new model's AUROC is lower by more than ``MARGIN``, one-sided at ``LEVEL``: simulated defects cannot
    tell closer models apart.
    """
    if candidate is None or serving is None:
        return Finding("sensitivity", None, "no defects were painted for one of the two models")
    if list(candidate.sizes) != list(serving.sizes):
        return Finding("sensitivity", None, "defects of other sizes were painted for the two models")
    new, old = candidate.whole.auroc, serving.whole.auroc
    text = f"AUROC of simulated defects {interval(new)}, the serving model's {interval(old)}"
    return Finding("sensitivity", p_value_of_less(new, old, MARGIN) >= LEVEL, text)


def best_of(tried: Sequence[Seen | None]) -> int:
    """The index of the model to keep: 0, unless another model is better beyond noise."""
    if tried[0] is None:
        return 0
    first, chance = tried[0].whole.auroc, LEVEL / max(1, len(tried) - 1)
    areas = {row: sees.whole.auroc for row, sees in enumerate(tried) if sees is not None}
    better = [row for row, area in areas.items() if p_value_of_less(first, area) < chance]
    return max(better, key=lambda row: areas[row].value, default=0)


def p_value_of_less(one: Interval, other: Interval, margin: float = 0.0) -> float:
    """The probability that an AUROC lies this far below another by chance, if it is truly lower by at most `margin`.

    The two AUROCs are of different images, with 95 % intervals.

    >>> round(p_value_of_less(Interval(0.7, 0.65, 0.75), Interval(0.8, 0.75, 0.85)), 4)
    0.0028
    """
    here, there = ((area.high - area.low) / (2 * WIDTH) for area in (one, other))
    return float(ndtr((one.value - other.value + margin) / max(float(np.hypot(here, there)), 1e-9)))


def _images(image_ids: list[str], painted: np.ndarray) -> np.ndarray:
    """(n,) for each row, the number of the unpainted image that it shows."""
    place = {image_ids[row]: number for number, row in enumerate(np.flatnonzero(~painted))}
    return np.array([place[image_id] for image_id in image_ids])


def _present(column: np.ndarray) -> list[Any]:
    """The distinct values of a column: words in order of first use, numbers sorted."""
    values = list(dict.fromkeys(value for value in column if value is not None))
    return values if values and isinstance(values[0], str) else sorted(values)


def _numbers(one: Sensitivity) -> dict[str, Any]:
    found = one.found
    return {
        "n": one.n,
        "found": found and found.value,
        "found_low": found and found.low,
        "found_high": found and found.high,
        "auroc": one.auroc.value,
        "auroc_low": one.auroc.low,
        "auroc_high": one.auroc.high,
    }
