"""Pictures of scored images on pages, drawn from rows of ``flagged``, as data URLs, so that a page is one response."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from nelbo.data import InputError, read_metadata
from nelbo.flows.dashboard.originals import Shown
from nelbo.flows.dashboard.tables import Batch, Tables
from nelbo.flows.inference.maps import Window, parse_window
from nelbo.flows.report.cards import Card, card
from nelbo.flows.report.normals import read_normals
from nelbo.flows.report.outlines import outline_of_masks, svg_path
from nelbo.flows.report.pictures import LOOKED_AT, data_url, heatmap_of, jpeg_url, opened, outline_of
from nelbo.flows.workspace.flagged import PICTURED

#: A row of ``scores`` or ``flagged``, by its columns.
Row = Mapping[Any, Any]

#: Most bytes of a picture, and of one that fills a page.
_BYTES, _LARGE = 60_000, 400_000


class Thumbnail(NamedTuple):
    """An image as the model saw it, and lines around its unusual places, as in `nelbo.flows.report.cards.Card`.

    heatmap: shown instead if an earlier version of nelbo kept no image.
    """

    original: str
    outline: str
    heatmap: str


def looked(tables: Tables, row: Row) -> Card:
    """A row of ``flagged`` with all its pictures."""
    return card(row, read_normals(tables.workspace, row["model_id"]), _BYTES)


def thumbnail(row: Row) -> Thumbnail:
    """A row of ``flagged`` as a small picture, drawn fast, because a page shows hundreds of them."""
    content = row["thumbnail"]
    if opened(content, "JPEG") is None:
        heatmap = heatmap_of(row)
        return Thumbnail("", "", jpeg_url(heatmap, _BYTES) if heatmap else "")
    return Thumbnail(data_url("image/jpeg", content), svg_path(outline_of(row)), "")


def looked_at(tables: Tables, row: Row) -> Row | None:
    """A row of ``scores`` with the pictures that scoring kept of it.

    None if the image is neither flagged, nor nearly flagged, nor in the audit sample.
    """
    columns = f"{', '.join(LOOKED_AT)}, image_id, relative_path"
    sql = f"""
        SELECT * FROM ({" UNION ALL ".join(f"SELECT {columns} FROM {kind}" for kind in PICTURED)})
        WHERE image_id = ? AND relative_path = ? LIMIT 1
    """  # noqa: S608 - columns of ours
    batch = (row["model_id"], row["batch_id"])
    found = tables.records(sql, [row["image_id"], row["relative_path"]], [batch])
    return {**row, **found[0]} if found else None


def window_of(tables: Tables, batch: Batch) -> Window | None:
    """The window that a batch's pictures are shown by; None where they are shown as they are."""
    try:
        return parse_window(read_metadata(tables.workspace.scores(*batch)))
    except InputError:
        # The batch was pruned just now, or is damaged, which the page says elsewhere.
        return None


class Original(NamedTuple):
    """The data URL of an image from the place where it was scored, or why there is none.

    outline: lines around its regions, as in `nelbo.flows.report.cards.Card`.
    """

    original: str
    why_not: str
    outline: str = ""


def as_url(shown: Shown, outline: str = "") -> Original:
    """An original, or the reason why it is not shown, for a page."""
    if isinstance(shown, str):
        return Original("", shown)
    return Original(jpeg_url(shown.convert("RGB"), _LARGE), "", outline)


def regions_outline(tables: Tables, row: Row) -> str:
    """Lines around the regions of a row of ``scores`` on its upright original."""
    sql = """
        SELECT mask, upright_width_px, upright_height_px FROM regions
        WHERE image_id = ? AND relative_path = ? AND upright_width_px > 0 AND upright_height_px > 0
    """
    batch = (row["model_id"], row["batch_id"])
    found = tables.records(sql, [row["image_id"], row["relative_path"]], [batch])
    sizes = {(one["upright_width_px"], one["upright_height_px"]) for one in found}
    if len(sizes) != 1:
        return ""
    return svg_path(outline_of_masks([one["mask"] for one in found], sizes.pop()))
