"""Image files in, Parquet out: manifests, decoding, splits, schemas, atomic publishing."""

from data.cache import Cache, CachedPixels, cache_images
from data.decoding import Images, Look, look_into, read_image, read_images, read_thumbnail
from data.errors import CHANGED, ImageError, InputError
from data.files import File
from data.limits import Limits
from data.manifest import Manifest, ingest
from data.places import COMMIT, Place, check_url, modified, open_place, publish_folder, remove_folder
from data.preprocessing import Preprocessing, prepare
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
from data.store import atomic_path, read_scores, read_table, write_json, write_scores, write_table

__all__ = [
    "CALIBRATION_SCHEMA",
    "CHANGED",
    "COMMIT",
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
    "File",
    "ImageError",
    "Images",
    "InputError",
    "Limits",
    "Look",
    "Manifest",
    "Place",
    "Preprocessing",
    "atomic_path",
    "cache_images",
    "check_url",
    "image_quality",
    "ingest",
    "look_into",
    "modified",
    "open_place",
    "prepare",
    "publish_folder",
    "read_image",
    "read_images",
    "read_scores",
    "read_table",
    "read_thumbnail",
    "remove_folder",
    "split_by_content",
    "write_json",
    "write_scores",
    "write_table",
]
