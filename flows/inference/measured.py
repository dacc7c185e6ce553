"""Rows of images with a model's measures, and numbers of what the images look like."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import MAP_PEAK, MEASURED, QUALITY, Manifest
from nelbo.flows.inference.pipeline import SCORED_SCHEMA, score_files
from nelbo.flows.inference.progress import progress
from nelbo.flows.options.settings import DecodingSettings
from nelbo.flows.workspace.tables import with_column


def measure(model: Any, manifest: Manifest, decoding: DecodingSettings, title: str, *, peaks: bool = False) -> pa.Table:
    """Rows of the readable files, with their measures and what they look like; `title` is that of the progress bar.

    Args:
        peaks: also compute the largest value of each image's map, which takes some time.
    """
    scored = [SCORED_SCHEMA.empty_table()]
    with progress(title, len(manifest)) as advance:
        for rows in score_files(model, manifest.files, decoding, peaks=peaks):
            scored.append(rows)
            advance(rows.num_rows)
    table = manifest.table.select(["relative_path", "image_id", "label", "split", "group"])
    found = pa.concat_tables(scored)
    for name in (*MEASURED, *QUALITY, MAP_PEAK, "drops_colour", "part"):
        table = table.append_column(name, found[name])
    return table.filter(pc.is_valid(table["nelbo_nats"]))


def with_quality(table: pa.Table, images: pa.Table) -> pa.Table:
    """The rows of a manifest with what the images look like; drift is later measured against these numbers."""
    place = pc.index_in(table["image_id"], images["image_id"].combine_chunks())
    for name in QUALITY:
        table = with_column(table, name, images[name].take(place))
    return table
