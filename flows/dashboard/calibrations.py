"""Calibrations for pages that need one again and again: they never change, so each is read once."""

import streamlit as st

from flows.calibrations import Calibration, read_calibration
from flows.dashboard.tables import Tables
from flows.errors import UsageError


def known_calibration(tables: Tables, calibration_id: str) -> Calibration | None:
    """None where it is gone, or damaged."""
    try:
        return _read(tables, calibration_id)
    except UsageError:
        return None


@st.cache_resource(show_spinner=False, max_entries=1000)
def _read(_tables: Tables, calibration_id: str) -> Calibration:
    return read_calibration(_tables.workspace, calibration_id)
