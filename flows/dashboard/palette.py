"""Colours by their meaning, as in the report; safe for the colour-blind, with the contrast of WCAG AA."""

from typing import NamedTuple


class Palette(NamedTuple):
    """Colours of one theme.

    page, card, line: backgrounds and the lines between them.
    text, soft: text, and text of lesser importance.
    accent: what can be clicked, or has been chosen.
    batch, normal, mark: images of a batch, normal images of a calibration, and the threshold or an alarm.
    """

    page: str
    card: str
    line: str
    text: str
    soft: str
    accent: str
    batch: str
    normal: str
    mark: str


LIGHT = Palette("#f7f7f5", "#ffffff", "#dcdcd8", "#1c1d20", "#5b5e66", "#2c5a99", "#3b6fb6", "#6b6f76", "#b3261e")
DARK = Palette("#15161a", "#1f2126", "#363941", "#ececee", "#a9adb6", "#7fa8e0", "#7fa8e0", "#b4b8c0", "#ff8a80")
