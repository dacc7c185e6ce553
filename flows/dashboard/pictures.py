"""Pictures of a scored image as pages show them: the original, and the heatmap on it."""

import io
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image

from nelbo.data import Place, Preprocessing
from nelbo.flows.dashboard.calibrations import tell_damaged
from nelbo.flows.dashboard.literal import literal
from nelbo.flows.dashboard.originals import SIDE_PX, NotShownError, located, original, preprocessing_of
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.inference.heatmap import OPACITY, colours, overlay
from nelbo.flows.workspace.calibrations.calibration import Calibration, read_calibration
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace

#: A row of ``scores`` or ``flagged``, by its columns.
Row = Mapping[Any, Any]

_HEIGHT_PX = 440

#: A picture, or why there is none.
Shown = Image.Image | str


def original_of(table: Place, row: Row, side_px: int = SIDE_PX) -> Shown:
    """The image behind a row.

    Args:
        table: the file that the row is of; see `located`.
        side_px: longer side at most.
    """
    try:
        return original(located(table, row), side_px)
    except NotShownError as error:
        return str(error)


def calibration_of(workspace: Workspace, row: Row) -> Calibration | None:
    """What decided on a row; None where nothing did, or where it is gone or, which the page says, damaged."""
    try:
        return read_calibration(workspace, row["calibration_id"]) if pd.notna(row["calibration_id"]) else None
    except UsageError as error:
        tell_damaged(workspace, row["calibration_id"], error)
        return None


def show(picture: Shown, described: str) -> None:
    """Draw a picture, or say why it is not there.

    Args:
        described: for those who do not see it.
    """
    if isinstance(picture, str):
        st.info(literal(picture))
    else:
        st.image(picture, alt=described, width=_width(picture))


def _width(picture: Image.Image) -> int | Literal["stretch"]:
    """Upright pictures are kept within a screen."""
    return "stretch" if picture.height <= picture.width else round(_HEIGHT_PX * picture.width / picture.height)


def show_heatmap(tables: Tables, row: Row, picture: Shown, calibration: Calibration | None) -> None:
    """Draw the heatmap that scoring kept, on the image if that is there, and the scale of its colours."""
    sql = "SELECT heatmap_png FROM flagged WHERE image_id = ? AND relative_path = ? LIMIT 1"
    batch = (row["model_id"], row["batch_id"])
    found = tables.query(sql, [row["image_id"], row["relative_path"]], [batch])["heatmap_png"].dropna()
    if found.empty:
        st.info("A heatmap is kept of images that are anomalous or for review.")
        return
    heatmap = Image.open(io.BytesIO(bytes(found.iloc[0])))
    try:
        how = preprocessing_of(tables.workspace, row["model_id"])
    except NotShownError as error:
        show(heatmap, f"heatmap of {row['relative_path']}")
        st.caption(literal(f"Not on the image: {error}"))
    else:
        if isinstance(picture, str):
            show(heatmap, f"heatmap of {row['relative_path']}")
        else:
            _overlay(picture, heatmap, how, row["relative_path"])
    if calibration is not None:
        _legend(calibration.heatmap_top)


@st.fragment
def _overlay(picture: Image.Image, heatmap: Image.Image, how: Preprocessing, path: str) -> None:
    """A fragment: moving the slider draws nothing else anew."""
    slot = st.empty()
    percent = st.slider("Opacity of the heatmap", 0, 100, round(100 * OPACITY), 5, format="%d %%", key="opacity")
    with slot:
        show(overlay(picture, heatmap, how, percent / 100), f"heatmap on {path}")


def _legend(top: float) -> None:
    stops = ", ".join(f"rgb{tuple(colour)}" for colour in colours(np.linspace(0, 1, 9), 1.0).tolist())
    st.html(
        '<div style="display: flex; gap: .5rem; align-items: center; font-size: .875rem">0'
        '<span role="img" aria-label="from black over purple and orange to pale yellow" '
        f'style="flex: 1; height: .8rem; border-radius: 3px; background: linear-gradient(to right, {stops})"></span>'
        f"{top:.3g} and more</div>"
    )
    st.caption("How unusual each place is: 0 is usual there; one scale for all images.")
