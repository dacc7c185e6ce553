"""Arrow schemas of the Parquet files: names, types and units that readers rely on.

``docs/reference/data_contract.md`` describes them for people; a test checks that the two agree.
"""

import pyarrow as pa

from nelbo.data.errors import TIMEOUT

SCHEMA_VERSION = 9

#: Why a file has no score.
REASONS = (
    "unreadable",
    "truncated",
    "too_large",
    "too_small",
    "other_size",
    "unsupported",
    "not_an_image",
    "non_finite",
    TIMEOUT,
)

#: The four verdicts; a batch scored without a calibration has null instead of the first three.
VERDICTS = ("normal", "review", "anomalous", "not_scored")

_word = pa.dictionary(pa.int32(), pa.string())
_utc = pa.timestamp("us", tz="UTC")

#: What an image looks like before any model, if it was decoded; see `nelbo.data.quality`.
QUALITY = ("brightness", "contrast", "sharpness", "part_area", "part_x", "part_y", "part_degrees")

#: One row for each file of a batch.
MANIFEST_SCHEMA = pa.schema(
    [
        ("relative_path", pa.string()),
        ("image_id", pa.string()),
        ("size_bytes", pa.int64()),
        ("modified_ns", pa.int64()),
        ("changed_ns", pa.int64()),
        ("inode", pa.uint64()),
        ("etag", pa.string()),
        ("format", pa.string()),
        ("mode", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("label", pa.int8()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("variant", pa.string()),
        ("reason", pa.string()),
        ("duplicate_of", pa.string()),
        *((name, pa.float64()) for name in QUALITY),
        ("n_timeouts", pa.int8()),
    ]
)

#: What the model says of an image, before any threshold.
MEASURES = (
    "nelbo_nats",
    "distortion_nats",
    "rate_nats",
    "bits_per_dim",
    "z_mean_norm",
    "z_log_var_sum",
    "worst_pixels_nats",
    "peak",
    "peak_z",
    "worst_z",
    "mean_z",
    "size_z",
    "variant_z",
)

#: All that a model says of an image: these numbers, and the name of the variant that it is nearest to, null where the
#: model has no variants.
MEASURED = (*MEASURES, "variant")

#: The statistic that is a sum, and the columns that add up to it; null where the model has no such statistic.
JOINT = "joint"
JOINT_PARTS = ("peak_z", "worst_z", "mean_z")

#: Statistics that can be thresholded, and their columns; higher = more anomalous.
STATISTICS = {
    "nelbo": "nelbo_nats",
    "distortion": "distortion_nats",
    "rate": "rate_nats",
    "z_mean_norm": "z_mean_norm",
    "z_log_var_sum": "z_log_var_sum",
    "worst_pixels": "worst_pixels_nats",
    "peak": "peak",
}

#: Those in standard deviations, to which `size_z` is added where parts are looked for, and `variant_z` where there are
#: several variants.
IN_DEVIATIONS = (JOINT, "peak")

#: One row for each file of a batch, with its verdict.
SCORES_SCHEMA = pa.schema(
    [
        ("relative_path", pa.string()),
        ("image_id", pa.string()),
        ("anomaly_score", pa.float64()),
        *((name, pa.float64()) for name in MEASURES),
        ("threshold", pa.float64()),
        ("p_value", pa.float64()),
        ("q_value", pa.float64()),
        ("verdict", _word),
        ("reason", _word),
        ("why", _word),
        ("statistic", _word),
        ("likelihood", _word),
        ("engine", _word),
        ("part", _word),
        ("variant", _word),
        ("label", pa.int8()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("scored_at_utc", _utc),
        ("run_id", pa.string()),
        ("calibration_id", pa.string()),
    ]
)

#: What people look at of a flagged image: its map in nats, on the map's own grid; the nats drawn black and pale yellow,
#: and those above which a place belongs to a region; a JPEG; and the size of the upright original.
PICTURED_SCHEMA = pa.schema(
    [
        ("map", pa.list_(pa.list_(pa.float16()))),
        ("map_low", pa.float64()),
        ("map_high", pa.float64()),
        ("map_level", pa.float64()),
        ("thumbnail", pa.binary()),
        ("upright_width_px", pa.int32()),
        ("upright_height_px", pa.int32()),
    ]
)

#: The rows that are anomalous or for review. Until version 5 they had a picture of the map instead.
FLAGGED_SCHEMA = pa.schema([*SCORES_SCHEMA, *PICTURED_SCHEMA, ("heatmap_png", pa.binary())])

#: A connected place where an image's map exceeds its calibrated level, in pixels of the upright original.
REGION = pa.struct(
    [
        ("x_px", pa.int32()),
        ("y_px", pa.int32()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("area_px", pa.int64()),
        ("peak", pa.float64()),
        ("mask", pa.string()),
    ]
)
#: All regions of an image; null where no level is known.
REGIONS = pa.list_(REGION)

#: The regions of the flagged images of a batch, numbered in each from 0; `mask` is COCO's compressed run lengths over
#: the upright image.
REGIONS_SCHEMA = pa.schema(
    [
        ("relative_path", pa.string()),
        ("image_id", pa.string()),
        ("region_id", pa.int32()),
        *REGION,
        ("upright_width_px", pa.int32()),
        ("upright_height_px", pa.int32()),
        ("run_id", pa.string()),
    ]
)

#: A shard of an unfinished batch: what is known of an image before the batch is complete.
SHARD_SCHEMA = pa.schema(
    [
        ("relative_path", pa.string()),
        ("image_id", pa.string()),
        *((name, pa.float64()) for name in (*MEASURES, *QUALITY)),
        ("reason", pa.string()),
        ("why", pa.string()),
        ("drops_colour", pa.bool_()),
        ("part", pa.string()),
        ("variant", pa.string()),
        ("label", pa.int8()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("scored_at_utc", _utc),
        *PICTURED_SCHEMA,
        ("regions", REGIONS),
    ]
)

#: The largest value of an image's map, in units above what is usual: what the level of regions is calibrated on.
MAP_PEAK = "map_peak"

#: The held-out images that a calibration was made of: `split` says what each was for.
CALIBRATION_SCHEMA = pa.schema(
    [
        ("relative_path", pa.string()),
        ("image_id", pa.string()),
        ("label", pa.int8()),
        ("split", pa.string()),
        ("variant", pa.string()),
        ("anomaly_score", pa.float64()),
        *((name, pa.float64()) for name in MEASURES),
        (MAP_PEAK, pa.float64()),
    ]
)

#: What a model says of normal images that it has not seen, unchanged (`kind` is null) and with simulated defects, some
#: with a JPEG. `x` and `y` are shares of the picture's width and height, `length` of its width.
SIMULATED_SCHEMA = pa.schema(
    [
        ("relative_path", pa.string()),
        ("image_id", pa.string()),
        ("kind", pa.string()),
        ("size_px", pa.float64()),
        ("contrast", pa.float64()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("length", pa.float64()),
        ("variant", pa.string()),
        *((name, pa.float64()) for name in MEASURES),
        ("thumbnail", pa.binary()),
    ]
)

#: How well a batch's scores find the defects in labels and masks: one row for each kind of defect and measure.
EVALUATION_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("measure", pa.string()),
        ("area_from_px", pa.int64()),
        ("area_to_px", pa.int64()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n_normal", pa.int64()),
        ("n_anomalous", pa.int64()),
        ("n_regions", pa.int64()),
        ("interval", pa.string()),
    ]
)

#: What a model's training images look like, one row for each variant and measure: place by place on a grid, or the
#: range in which nearly all of them lie as a whole.
LOOKS_SCHEMA = pa.schema(
    [
        ("variant", pa.string()),
        ("measure", pa.string()),
        ("n_images", pa.int64()),
        ("mean", pa.list_(pa.list_(pa.float32()))),
        ("deviation", pa.list_(pa.list_(pa.float32()))),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)

#: Some of a model's training images as it sees them, JPEG.
NORMALS_SCHEMA = pa.schema([("relative_path", pa.string()), ("image_id", pa.string()), ("thumbnail", pa.binary())])

#: One row for each execution of a command or flow.
RUNS_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("command", pa.string()),
        ("started_at_utc", _utc),
        ("seconds", pa.float64()),
        ("code_version", pa.string()),
        ("config_hash", pa.string()),
        ("batch_id", pa.string()),
        ("model_id", pa.string()),
        ("calibration_id", pa.string()),
        ("n_images", pa.int64()),
        ("n_scored", pa.int64()),
        ("n_not_scored", pa.int64()),
        ("n_waiting", pa.int64()),
        ("n_folders_unlisted", pa.int64()),
        ("n_anomalous", pa.int64()),
        ("n_review", pa.int64()),
        ("n_regions", pa.int64()),
        ("no_regions", pa.string()),
        ("fpr", pa.float64()),
        ("images_per_s", pa.float64()),
        ("drift", pa.bool_()),
        ("drift_tests", pa.string()),
        ("drift_p_value", pa.float64()),
    ]
)

#: Takes back a decision of the same reviewer on the image, which the row names.
WITHDRAWN = "withdrawn"

#: What a reviewer decides about an image, in the words of the verdicts confirmed or overruled, in the order of labels.
DECISIONS = ("normal", "anomalous", WITHDRAWN)

#: One row for each decision of a person on an image; `kind` is of the defect, and `verdict` what the row had said.
REVIEWS_SCHEMA = pa.schema(
    [
        ("review_id", pa.string()),
        ("reviewed_at_utc", _utc),
        ("reviewer", pa.string()),
        ("decision", pa.string()),
        ("withdraws", pa.string()),
        ("kind", pa.string()),
        ("note", pa.string()),
        ("image_id", pa.string()),
        ("relative_path", pa.string()),
        ("model_id", pa.string()),
        ("batch_id", pa.string()),
        ("calibration_id", pa.string()),
        ("verdict", pa.string()),
        ("anomaly_score", pa.float64()),
    ]
)
