"""Image files in, Parquet out: manifests, decoding, splits, schemas, atomic publishing."""

from data.cache import Cache, CachedPixels, cache_images
from data.errors import CHANGED, ImageError, InputError, MissingError, SpaceError
from data.images import Images, Preprocessing, decode, prepare, read_image, read_images
from data.manifest import Manifest, ingest
from data.quality import image_quality
from data.schemas import (
    CALIBRATION_SCHEMA,
    FLAGGED_SCHEMA,
    MANIFEST_SCHEMA,
    MEASURES,
    QUALITY,
    RUNS_SCHEMA,
    SCHEMA_VERSION,
    SCORES_SCHEMA,
    SHARD_SCHEMA,
    STATISTICS,
)
from data.splits import split_by_content
from data.store import (
    atomic_path,
    iter_rows,
    read_metadata,
    read_rows,
    read_scores,
    read_table,
    remove_folder,
    table_writer,
    write_json,
    write_scores,
    write_table,
)

__all__ = [
    "CALIBRATION_SCHEMA",
    "CHANGED",
    "FLAGGED_SCHEMA",
    "MANIFEST_SCHEMA",
    "MEASURES",
    "QUALITY",
    "RUNS_SCHEMA",
    "SCHEMA_VERSION",
    "SCORES_SCHEMA",
    "SHARD_SCHEMA",
    "STATISTICS",
    "Cache",
    "CachedPixels",
    "ImageError",
    "Images",
    "InputError",
    "Manifest",
    "MissingError",
    "Preprocessing",
    "SpaceError",
    "atomic_path",
    "cache_images",
    "decode",
    "image_quality",
    "ingest",
    "iter_rows",
    "prepare",
    "read_image",
    "read_images",
    "read_metadata",
    "read_rows",
    "read_scores",
    "read_table",
    "remove_folder",
    "split_by_content",
    "table_writer",
    "write_json",
    "write_scores",
    "write_table",
]
