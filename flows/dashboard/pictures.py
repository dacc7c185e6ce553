"""Pictures of scored images on pages, drawn from rows of ``flagged``: as data URLs, so that a page is one answer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from nelbo.data import InputError, read_metadata
from nelbo.flows.dashboard.originals import Shown
from nelbo.flows.dashboard.tables import Batch, Tables
from nelbo.flows.inference.maps import Window, parse_window
from nelbo.flows.report.cards import Card, card
from nelbo.flows.report.normals import read_normals
from nelbo.flows.report.outlines import svg_path
from nelbo.flows.report.pictures import LOOKED_AT, data_url, heatmap_of, jpeg_url, opened, outline_of
from nelbo.flows.workspace.flagged import PICTURED

#: A row of ``scores`` or ``flagged``, by its columns.
Row = Mapping[Any, Any]

#: Bytes of one picture, and of one that fills a page.
_BYTES, _LARGE = 60_000, 400_000


class Thumbnail(NamedTuple):
    """An image as the model saw it, and lines around where it is unusual, as `nelbo.flows.report.cards.Card` has them.

    heatmap: in the place of an image that was not kept, by an earlier version.
    """

    original: str
    outline: str
    heatmap: str


def looked(tables: Tables, row: Row) -> Card:
    """A row of ``flagged`` with all its pictures."""
    return card(row, read_normals(tables.workspace, row["model_id"]), _BYTES)


def thumbnail(row: Row) -> Thumbnail:
    """A row of ``flagged`` as a page of hundreds of them shows it: as fast as it goes."""
    content = row["thumbnail"]
    if opened(content, "JPEG") is None:
        heatmap = heatmap_of(row)
        return Thumbnail("", "", jpeg_url(heatmap, _BYTES) if heatmap else "")
    return Thumbnail(data_url("image/jpeg", content), svg_path(outline_of(row)), "")


def looked_at(tables: Tables, row: Row) -> Row | None:
    """A row of ``scores`` with what scoring kept to look at it by.

    None of one that is neither flagged, nor nearly flagged, nor in the audit sample.
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
    """What of a batch's pixels its pictures show; None where they are shown as they are."""
    try:
        return parse_window(read_metadata(tables.workspace.scores(*batch)))
    except InputError:
        # Pruned just now, or damaged, which the page says elsewhere.
        return None


class Original(NamedTuple):
    """An image from where it was scored: a data URL; or why there is none."""

    url: str
    why_not: str


def as_url(shown: Shown) -> Original:
    """A picture for a page."""
    return Original("", shown) if isinstance(shown, str) else Original(jpeg_url(shown.convert("RGB"), _LARGE), "")
