"""Scores in, decisions out: thresholds with a promise, p- and q-values, verdicts, metrics.

Works on any array of scores with the anomalous side up; no neural network is imported, until `NelboDetector`, the
scikit-learn estimator, is asked for.
"""

from typing import TYPE_CHECKING, Any

from detectors.calibration import variant_levels
from detectors.delong import PairedTest, delong_interval, delong_test
from detectors.drift import Drift, DriftTest, detect_drift, holm, martingale
from detectors.errors import CalibrationError
from detectors.gate import Finding, Gate, Judged, gate
from detectors.interval import Interval, binomial_interval
from detectors.labelled import check_objective, labelled_threshold
from detectors.mcnemar import mcnemar_test
from detectors.metrics import (
    Confusion,
    Evaluation,
    VerdictCounts,
    auroc,
    average_precision,
    evaluate,
    f1,
    f1_all_anomalous,
    recall_at_fpr,
)
from detectors.parts import HELD_OUT_FROM, images_of_variant, part_sizes
from detectors.pixels import aupro, pixel_auroc
from detectors.promise import check_size, false_alarm_interval, n_needed, supported_fpr
from detectors.threshold import APPROXIMATE, Threshold, conformal_threshold, trim
from detectors.verdict import decision_function, p_values, q_values, verdicts

if TYPE_CHECKING:
    from detectors.estimator import NelboDetector, NotCalibratedError

__all__ = [
    "APPROXIMATE",
    "HELD_OUT_FROM",
    "CalibrationError",
    "Confusion",
    "Drift",
    "DriftTest",
    "Evaluation",
    "Finding",
    "Gate",
    "Interval",
    "Judged",
    "NelboDetector",
    "NotCalibratedError",
    "PairedTest",
    "Threshold",
    "VerdictCounts",
    "aupro",
    "auroc",
    "average_precision",
    "binomial_interval",
    "check_objective",
    "check_size",
    "conformal_threshold",
    "decision_function",
    "delong_interval",
    "delong_test",
    "detect_drift",
    "evaluate",
    "f1",
    "f1_all_anomalous",
    "false_alarm_interval",
    "gate",
    "holm",
    "images_of_variant",
    "labelled_threshold",
    "martingale",
    "mcnemar_test",
    "n_needed",
    "p_values",
    "part_sizes",
    "pixel_auroc",
    "q_values",
    "recall_at_fpr",
    "supported_fpr",
    "trim",
    "variant_levels",
    "verdicts",
]


def __getattr__(name: str) -> Any:
    """The estimator and its error when they are first asked for."""
    if name not in ("NelboDetector", "NotCalibratedError"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from detectors import estimator

    return getattr(estimator, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
