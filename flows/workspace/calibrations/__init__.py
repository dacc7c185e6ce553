"""Calibrations: what each of them keeps, its id, and the statistic that it thresholds."""
