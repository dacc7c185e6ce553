"""Calibrations on pages: each is read once, unless its files change, and its promise stands beside its threshold."""

from pathlib import Path

import pandas as pd
import streamlit as st

from nelbo.data import COMMIT, Place
from nelbo.flows.dashboard.literal import literal
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.evaluation.sensitivity import seen
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.calibrations.calibration import FILES, Calibration, promise, read_calibration
from nelbo.flows.workspace.errors import UsageError


def known_calibration(tables: Tables, calibration_id: str | None) -> Calibration | None:
    """None where there is none, or it is gone; or it is damaged or changed, which the page says."""
    found = _found(tables, calibration_id)
    if not isinstance(found, UsageError):
        return found
    # One that was deleted is no news.
    if calibration_id in catalog.calibration_ids(tables.workspace):
        st.error(literal(str(found)))
    return None


def _found(tables: Tables, calibration_id: str | None) -> Calibration | UsageError | None:
    """A calibration, or why it cannot be read."""
    if pd.isna(calibration_id):
        return None
    try:
        return _read(tables, calibration_id, _stamps(tables.workspace.calibrations / calibration_id))
    except UsageError as error:
        return error


def show_promise(calibration: Calibration | None) -> None:
    """Beside a threshold: the rate that it promises, and between what it may lie; nothing if it is gone.

    And what spoke against it, if it did not become current when it was made.
    """
    if calibration is None:
        return
    said = promise(calibration)
    st.caption(literal(f"{said[0].upper()}{said[1:]}."))
    if calibration.why_not is not None:
        st.caption(
            literal(f"Made as a candidate, which became current only if somebody took it: {calibration.why_not}.")
        )


def warn_if_blind(tables: Tables, model_id: str, calibration_id: str | None) -> bool:
    """Say that a model cannot see, where simulated defects show that; whether it is so."""
    path, calibration = tables.workspace.simulated(model_id), _found(tables, calibration_id)
    if isinstance(calibration, UsageError):
        # That it cannot be read, the page says elsewhere.
        return False
    stamps = (path.stat().st_mtime_ns,) if isinstance(path, Path) and path.exists() else ()
    said = _blindness(tables, model_id, calibration, stamps, calibration_id)
    if said is not None:
        st.warning(literal(f"{said}."), icon=":material/visibility_off:")
    return said is not None


@st.cache_resource(show_spinner=False, max_entries=1000)
def _blindness(
    _tables: Tables,
    model_id: str,
    _calibration: Calibration | None,
    stamps: tuple[int, ...],  # noqa: ARG001 - a key, as the next is
    calibration_id: str | None,  # noqa: ARG001
) -> str | None:
    sees = seen(_tables.workspace, model_id, _calibration)
    return None if sees is None else sees.cannot_see


@st.cache_resource(show_spinner=False, max_entries=1000)
def _read(_tables: Tables, calibration_id: str, stamps: tuple[int, ...]) -> Calibration:  # noqa: ARG001 - a key
    return read_calibration(_tables.workspace, calibration_id)


def _stamps(folder: Place) -> tuple[int, ...]:
    """When the files of a calibration were last changed, on a disk; objects would have to be asked for one by one."""
    if not isinstance(folder, Path):
        return ()
    return tuple(file.stat().st_mtime_ns for name in (COMMIT, *FILES) if (file := folder / name).exists())
