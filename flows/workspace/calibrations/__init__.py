"""Calibrations: what is kept of each, its id, and the statistic that it thresholds."""
