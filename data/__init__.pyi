from .cache import Cache, CachedPixels, cache_images
from .decoder.colour import is_coloured, may_have_colour
from .decoder.decoding import (
    Images,
    Look,
    first_coloured,
    float_range,
    image_of,
    iter_images,
    look_for_parts,
    look_into,
    read_image,
    read_images,
    read_thumbnail,
)
from .decoder.limits import Limits
from .decoder.preprocessing import Preprocessing, prepare, prepare_with_part
from .decoder.samples import is_float
from .duplicates import near_duplicates
from .errors import CHANGED, TIMEOUT, ImageError, InputError, MissingError, SpaceError
from .groups import first_rows, n_groups, with_united_groups
from .part.frame import Frame, Part
from .path_rules import names_in_paths
from .places import COMMIT, Place, modified, open_place, publish_folder, read_unchanged, remove_folder
from .quality import image_quality, part_quality
from .schemas import (
    CALIBRATION_SCHEMA,
    DECISIONS,
    FLAGGED_SCHEMA,
    IN_DEVIATIONS,
    JOINT,
    JOINT_PARTS,
    MANIFEST_SCHEMA,
    MEASURED,
    MEASURES,
    PICTURED_SCHEMA,
    QUALITY,
    REVIEWS_SCHEMA,
    RUNS_SCHEMA,
    SCHEMA_VERSION,
    SCORES_SCHEMA,
    SHARD_SCHEMA,
    STATISTICS,
)
from .sources.contents import Contents
from .sources.digest import read_as_written, rows_digest
from .sources.files import File
from .sources.listing import list_source
from .sources.manifest import Known, Manifest, Scan, ingest
from .sources.names import is_url
from .sources.roots import is_there
from .sources.urls import HARMLESS, check_url, check_urls
from .splits import folds, split_by_content
from .store import (
    atomic_path,
    iter_rows,
    read_metadata,
    read_rows,
    read_scores,
    read_table,
    table_writer,
    write_json,
    write_scores,
    write_table,
)

__all__ = [
    "CALIBRATION_SCHEMA",
    "CHANGED",
    "COMMIT",
    "DECISIONS",
    "FLAGGED_SCHEMA",
    "HARMLESS",
    "IN_DEVIATIONS",
    "JOINT",
    "JOINT_PARTS",
    "MANIFEST_SCHEMA",
    "MEASURED",
    "MEASURES",
    "PICTURED_SCHEMA",
    "QUALITY",
    "REVIEWS_SCHEMA",
    "RUNS_SCHEMA",
    "SCHEMA_VERSION",
    "SCORES_SCHEMA",
    "SHARD_SCHEMA",
    "STATISTICS",
    "TIMEOUT",
    "Cache",
    "CachedPixels",
    "Contents",
    "File",
    "Frame",
    "ImageError",
    "Images",
    "InputError",
    "Known",
    "Limits",
    "Look",
    "Manifest",
    "MissingError",
    "Part",
    "Place",
    "Preprocessing",
    "Scan",
    "SpaceError",
    "atomic_path",
    "cache_images",
    "check_url",
    "check_urls",
    "first_coloured",
    "first_rows",
    "float_range",
    "folds",
    "image_of",
    "image_quality",
    "ingest",
    "is_coloured",
    "is_float",
    "is_there",
    "is_url",
    "iter_images",
    "iter_rows",
    "list_source",
    "look_for_parts",
    "look_into",
    "may_have_colour",
    "modified",
    "n_groups",
    "names_in_paths",
    "near_duplicates",
    "open_place",
    "part_quality",
    "prepare",
    "prepare_with_part",
    "publish_folder",
    "read_as_written",
    "read_image",
    "read_images",
    "read_metadata",
    "read_rows",
    "read_scores",
    "read_table",
    "read_thumbnail",
    "read_unchanged",
    "remove_folder",
    "rows_digest",
    "split_by_content",
    "table_writer",
    "with_united_groups",
    "write_json",
    "write_scores",
    "write_table",
]
