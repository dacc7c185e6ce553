"""Images as the page shows them: embedded pictures, with the row of numbers of each image."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from nelbo.data import FLAGGED_SCHEMA
from nelbo.flows.report.normals import Normals
from nelbo.flows.report.outlines import svg_path
from nelbo.flows.report.pictures import SIDE_PX, data_url, heatmap_of, jpeg_url, original_of, outline_of

#: Most bytes of all pictures on a page: in base64 they are a third larger, and a page should stay below 5 MB.
_PAGE_BYTES = 3_000_000
#: Pictures of an image: itself, its heatmap, and the nearest normal image.
_PICTURES = 3
#: Number of images that come first, and how many times as many bytes as another each of them may take.
N_FIRST, _TIMES = 12, 4
_NOTHING = dict.fromkeys(FLAGGED_SCHEMA.names)


class Card(NamedTuple):
    """An image on the page.

    row: of ``flagged``; for an image without stored pictures it holds only the columns of its scores.
    original, heatmap, nearest: data URLs; empty where there is no such picture.
    shape: width over height of all three.
    outline: lines around unusual places, as the ``d`` of an SVG path in thousandths of width and height.
    nearest_path: path of the nearest normal image.
    """

    row: Mapping[str, Any]
    original: str
    heatmap: str
    nearest: str
    shape: float
    outline: str
    nearest_path: str | None


class Section(NamedTuple):
    """Images that belong together.

    name: anchor of the section on the page.
    n: number of images; not all of them need be shown.
    """

    name: str
    title: str
    said: str
    n: int
    cards: list[Card]


def sections(table: pa.Table, flagged: pa.Table, n_flagged: int, kept: pa.Table, normals: Normals) -> list[Section]:
    """The sections of the page: flagged and nearly flagged images, and by the labels missed ones and false alarms.

    Args:
        table: rows of scores.
        flagged: the strangest of the `n_flagged` rows of ``flagged``.
        kept: rows of other images whose pictures were kept.
    """
    normal = table.filter(pc.equal(table["verdict"], "normal"))
    missed, false = normal.filter(pc.equal(normal["label"], 1)), _false_alarms(table)
    near = _strangest(normal)
    found = [
        ("flagged", "The most unusual first", "", n_flagged, flagged),
        ("near", "Nearly flagged", "The highest scores that are not flagged.", near.num_rows, near),
        ("missed", "Missed", "Labelled anomalous, but not flagged.", missed.num_rows, _strangest(missed)),
        ("false", "False alarms", "Labelled normal, but flagged.", false.num_rows, _strangest(false)),
    ]
    pictured = {row["relative_path"]: row for rows in (kept, flagged) for row in rows.to_pylist()}
    groups = [[pictured.get(row["relative_path"], row) for row in rows.to_pylist()] for *_, rows in found]
    made = _cards(groups, normals)
    return [
        Section(name, title, said, n, some) for (name, title, said, n, _), some in zip(found, made, strict=True) if some
    ]


def _false_alarms(table: pa.Table) -> pa.Table:
    """The rows that are flagged and labelled normal."""
    is_flagged = pc.is_in(table["verdict"], pa.array(["anomalous", "review"]))
    return table.filter(pc.and_(is_flagged, pc.equal(table["label"], 0)))


def _strangest(rows: pa.Table) -> pa.Table:
    """The rows with the highest scores; of a million rows only the scores are sorted."""
    order = pc.sort_indices(rows["anomaly_score"], sort_keys=[("", "descending")])
    return rows.take(order[:N_FIRST])


def _cards(groups: Sequence[Sequence[Mapping[str, Any]]], normals: Normals) -> list[list[Card]]:
    """Cards of the rows, whose pictures share the bytes of a page; the first of the first group get more of them.

    Args:
        groups: rows of ``flagged``, in the order in which they are shown.
    """
    parts = [[1] * len(rows) for rows in groups]
    parts[0][:N_FIRST] = [_TIMES] * len(parts[0][:N_FIRST])
    n_bytes = _PAGE_BYTES // (_PICTURES * max(1, sum(map(sum, parts))))
    return [
        [card(row, normals, part * n_bytes) for row, part in zip(rows, some, strict=True)]
        for rows, some in zip(groups, parts, strict=True)
    ]


def card(known: Mapping[str, Any], normals: Normals, n_bytes: int) -> Card:
    """A row of ``flagged``, or of ``scores``, with its pictures of about so many bytes each."""
    row = {**_NOTHING, **known}
    original = original_of(row, SIDE_PX)
    heatmap = heatmap_of(row, original.size if original else None, SIDE_PX)
    nearest = normals.nearest(original)
    width, height = next((picture.size for picture in (original, heatmap) if picture), (1, 1))
    return Card(
        row,
        _original_url(row, original, n_bytes),
        # The colours of a map change slowly: a quarter of the pixels shows them.
        jpeg_url(heatmap.reduce(2), n_bytes) if heatmap else "",
        jpeg_url(nearest.picture, n_bytes) if nearest else "",
        width / height,
        svg_path(outline_of(row)),
        nearest and nearest.relative_path,
    )


def _original_url(row: Mapping[str, Any], original: Image.Image | None, n_bytes: int) -> str:
    if original is None:
        return ""
    # A small thumbnail is embedded unchanged, so that compressing it again loses nothing.
    as_it_is = len(row["thumbnail"]) <= n_bytes
    return data_url("image/jpeg", row["thumbnail"]) if as_it_is else jpeg_url(original, n_bytes)
