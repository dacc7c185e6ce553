"""Scores in, decisions out: thresholds with a promise, p- and q-values, verdicts, metrics.

Works on any array of scores with the anomalous side up; no neural network is imported.
"""

from detectors.errors import CalibrationError
from detectors.interval import Interval, binomial_interval
from detectors.metrics import Evaluation, auroc, average_precision, evaluate
from detectors.promise import supported_fpr
from detectors.threshold import Threshold, check_size, conformal_threshold, labelled_threshold, n_needed
from detectors.verdict import p_values, q_values, verdicts

__all__ = [
    "CalibrationError",
    "Evaluation",
    "Interval",
    "Threshold",
    "auroc",
    "average_precision",
    "binomial_interval",
    "check_size",
    "conformal_threshold",
    "evaluate",
    "labelled_threshold",
    "n_needed",
    "p_values",
    "q_values",
    "supported_fpr",
    "verdicts",
]
