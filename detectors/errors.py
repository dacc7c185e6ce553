"""Errors that a caller of this package would catch."""


class CalibrationError(ValueError):
    """The calibration set cannot support what was asked of it."""
