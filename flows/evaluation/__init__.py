"""Judgements on stored numbers: metrics, drift, comparisons, and which calibration becomes current."""
