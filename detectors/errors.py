"""Errors that a caller of this package would catch."""

from sklearn.exceptions import NotFittedError


class CalibrationError(ValueError):
    """The calibration set cannot support what was asked of it."""


class NotCalibratedError(NotFittedError):
    """A fitted detector has scores, but no threshold yet: give `NelboDetector.calibrate` normal images."""
