"""Scores in, decisions out: thresholds with a promise, p- and q-values, verdicts, metrics.

Works on any array of scores with the anomalous side up; no neural network is imported, until `NelboDetector`, the
scikit-learn estimator, is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nelbo.detectors.calibration import levelled, variant_levels, variant_p_values
from nelbo.detectors.drift import Drift, DriftTest, detect_drift, holm, martingale
from nelbo.detectors.errors import CalibrationError
from nelbo.detectors.interval import Interval, binomial_interval
from nelbo.detectors.metrics.delong import PairedTest, delong_interval, delong_test
from nelbo.detectors.metrics.gate import Finding, Gate, Judged, gate
from nelbo.detectors.metrics.labelled import check_objective, labelled_threshold
from nelbo.detectors.metrics.mcnemar import mcnemar_test
from nelbo.detectors.metrics.metrics import (
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
from nelbo.detectors.metrics.pixels import aupro, pixel_auroc
from nelbo.detectors.parts import HELD_OUT_FROM, images_of_variant, part_sizes
from nelbo.detectors.promise import check_size, false_alarm_interval, n_needed, supported_fpr
from nelbo.detectors.threshold import APPROXIMATE, Threshold, conformal_threshold, trim
from nelbo.detectors.verdict import decision_function, p_values, q_values, verdicts

if TYPE_CHECKING:
    from nelbo.detectors.estimator.estimator import NelboDetector, NotCalibratedError

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
    "levelled",
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
    "variant_p_values",
    "verdicts",
]


def __getattr__(name: str) -> Any:
    """The estimator and its error when they are first asked for."""
    if name not in ("NelboDetector", "NotCalibratedError"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("nelbo.detectors.estimator.estimator"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
