"""Scores in, decisions out: thresholds with a promise, p- and q-values, verdicts, metrics.

Works on any array of scores with the anomalous side up; no neural network is imported, until `NelboDetector`, the
scikit-learn estimator, is asked for.
"""

from typing import TYPE_CHECKING, Any

from detectors.errors import CalibrationError, NotCalibratedError
from detectors.interval import Interval, binomial_interval
from detectors.joint import Joint
from detectors.labelled import check_objective, labelled_threshold
from detectors.metrics import Evaluation, auroc, average_precision, evaluate
from detectors.parts import part_sizes
from detectors.promise import check_size, n_needed, supported_fpr
from detectors.threshold import Threshold, conformal_threshold, trim
from detectors.verdict import decision_function, p_values, q_values, verdicts

if TYPE_CHECKING:
    from detectors.estimator import NelboDetector

__all__ = [
    "CalibrationError",
    "Evaluation",
    "Interval",
    "Joint",
    "NelboDetector",
    "NotCalibratedError",
    "Threshold",
    "auroc",
    "average_precision",
    "binomial_interval",
    "check_objective",
    "check_size",
    "conformal_threshold",
    "decision_function",
    "evaluate",
    "labelled_threshold",
    "n_needed",
    "p_values",
    "part_sizes",
    "q_values",
    "supported_fpr",
    "trim",
    "verdicts",
]


def __getattr__(name: str) -> Any:
    """`NelboDetector` when it is first asked for."""
    if name != "NelboDetector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from detectors.estimator import NelboDetector

    return NelboDetector


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
