"""Pictures of a scored image as pages show them: the original, lines around where it is unusual, and its heatmap."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from nelbo.flows.dashboard.literal import literal
from nelbo.flows.dashboard.originals import Shown
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.report.heatmap import colours
from nelbo.flows.report.normals import read_normals
from nelbo.flows.report.pictures import LOOKED_AT, original_of, pictures

#: A row of ``scores`` or ``flagged``, by its columns.
Row = Mapping[Any, Any]

_HEIGHT_PX = 440


def show(picture: Shown, described: str) -> None:
    """Draw a picture, or say why it is not there.

    Args:
        described: for those who do not see it.
    """
    if isinstance(picture, str):
        st.info(literal(picture))
    else:
        # Upright pictures are kept within a screen.
        width = max(1, round(_HEIGHT_PX * picture.width / picture.height))
        st.image(picture, alt=described, width="stretch" if picture.height <= picture.width else width)


def show_heatmap(tables: Tables, row: Row) -> None:
    """Draw what scoring kept of a flagged image, and the scale of its colours."""
    looked_at = _looked_at(tables, row)
    if looked_at is None:
        st.info("A map is kept of images that are anomalous or for review.")
        return
    drawn = pictures(looked_at)
    if drawn.outlined is not None:
        show(drawn.outlined, f"outline on {row['relative_path']}")
    show(drawn.heatmap or drawn.original or "No map was kept of this image.", f"heatmap of {row['relative_path']}")
    _legend()


def show_nearest(tables: Tables, row: Row) -> None:
    """Draw the training image that looks most like a flagged one, if some were kept with the model."""
    looked_at = _looked_at(tables, row)
    found = looked_at and read_normals(tables.workspace, row["model_id"]).nearest(original_of(looked_at))
    if not found:
        st.info("None was kept: images that are not flagged have none, nor have models of older versions.")
        return
    show(found.picture, f"normal image {found.relative_path}")
    st.text(found.relative_path)


def _looked_at(tables: Tables, row: Row) -> Row | None:
    """What scoring kept of an image to be looked at by; None of one that is not flagged."""
    sql = f"SELECT {', '.join(LOOKED_AT)} FROM flagged WHERE image_id = ? AND relative_path = ? LIMIT 1"  # noqa: S608
    found = tables.query(sql, [row["image_id"], row["relative_path"]], [(row["model_id"], row["batch_id"])])
    return None if found.empty else found.to_dict("records")[0]


def _legend() -> None:
    stops = ", ".join(f"rgb{tuple(colour)}" for colour in colours(np.linspace(0, 1, 9)).tolist())
    st.html(
        '<div style="display: flex; gap: .5rem; align-items: center; font-size: .875rem">usual'
        '<span role="img" aria-label="from black over purple and orange to pale yellow" '
        f'style="flex: 1; height: .8rem; border-radius: 3px; background: linear-gradient(to right, {stops})"></span>'
        "very unusual</div>"
    )
    st.caption("How unusual each place is, on one scale for all images.")
