"""Images as the page shows them: pictures that hold themselves, beside the row that says the rest."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from nelbo.data import FLAGGED_SCHEMA
from nelbo.flows.report.normals import Normals
from nelbo.flows.report.outlines import svg_path
from nelbo.flows.report.pictures import SIDE_PX, data_url, heatmap_of, jpeg_url, original_of, outline_of

#: What all pictures of a page take at most; in base64 they are a third larger, and a page should stay below 5 MB.
_PAGE_BYTES = 3_000_000
#: Of an image: itself, its heatmap, and the nearest normal image.
_PICTURES = 3
#: Images that stand first, and how much more than another each of them may take.
N_FIRST, _TIMES = 12, 4
_NOTHING = dict.fromkeys(FLAGGED_SCHEMA.names)


class Card(NamedTuple):
    """An image on the page.

    row: of ``flagged``; of an image that no pictures were kept of, with nothing but what its scores say.
    original, heatmap, nearest: data URLs; empty where there is no such picture.
    shape: width over height of all three.
    outline: lines around where it is unusual, the ``d`` of an SVG path in thousandths of width and height.
    nearest_path: of the nearest normal image.
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

    name: of its place on the page.
    n: how many there are; not all of them need be shown.
    """

    name: str
    title: str
    said: str
    n: int
    cards: list[Card]


def sections(table: pa.Table, flagged: pa.Table, n_flagged: int, kept: pa.Table, normals: Normals) -> list[Section]:
    """What to look at: the flagged, the nearly flagged, and what labels say was missed, or flagged for nothing.

    Args:
        table: rows of scores.
        flagged: the strangest rows of ``flagged``, of `n_flagged`.
        kept: rows of others that pictures were kept of.
    """
    normal = table.filter(pc.equal(table["verdict"], "normal")).sort_by([("anomaly_score", "descending")])
    missed, false = normal.filter(pc.equal(normal["label"], 1)), _false_alarms(table)
    near = normal.slice(0, N_FIRST)
    found = [
        ("flagged", "The most unusual first", "", n_flagged, flagged),
        ("near", "Nearly flagged", "The highest scores that are not flagged.", near.num_rows, near),
        ("missed", "Missed", "Labelled anomalous, and not flagged.", missed.num_rows, missed.slice(0, N_FIRST)),
        ("false", "False alarms", "Labelled normal, and flagged.", false.num_rows, false.slice(0, N_FIRST)),
    ]
    pictured = {row["relative_path"]: row for rows in (kept, flagged) for row in rows.to_pylist()}
    groups = [[pictured.get(row["relative_path"], row) for row in rows.to_pylist()] for *_, rows in found]
    made = _cards(groups, normals)
    return [
        Section(name, title, said, n, some) for (name, title, said, n, _), some in zip(found, made, strict=True) if some
    ]


def _false_alarms(table: pa.Table) -> pa.Table:
    """All that is flagged and labelled normal, the strangest first."""
    is_flagged = pc.is_in(table["verdict"], pa.array(["anomalous", "review"]))
    false = table.filter(pc.and_(is_flagged, pc.equal(table["label"], 0)))
    return false.sort_by([("anomaly_score", "descending")])


def _cards(groups: Sequence[Sequence[Mapping[str, Any]]], normals: Normals) -> list[list[Card]]:
    """Rows with their pictures, which share what a page may take; the first of the first group have more of it.

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
    # As it is, where it is small: nothing is lost by packing it again.
    as_it_is = len(row["thumbnail"]) <= n_bytes
    return data_url("image/jpeg", row["thumbnail"]) if as_it_is else jpeg_url(original, n_bytes)
