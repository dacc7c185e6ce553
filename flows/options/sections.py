"""The sections of a command's help, and the settings without an option that it shows."""

#: Heading -> fields of options models and of the command line alone; every option stands below a heading.
SECTIONS = {
    "What to read": (
        *("images", "normal", "labels", "masks", "on", "gate", "root", "new", "min_age_s"),
        *("model", "batch", "batch_id", "group_by", "variant_by"),
    ),
    "What decides verdicts": (
        *("calibration", "uncalibrated", "use", "statistic", "fpr", "confidence", "contamination", "review_fpr"),
        *("objective", "target", "costs", "review_recall", "fdr", "tolerance"),
    ),
    "How it runs": (
        *("candidates", "defect_px", "seed", "precision", "promote", "engine", "runner", "dask_address", "compare"),
        *("batch_images", "batch_minutes"),
        *("format", "out", "csv", "fail_on_anomaly", "older_than", "apply", "models", "host", "port"),
        *("line", "keep", "limit", "pool", "prefect"),
    ),
    "Everywhere": ("workspace", "as_json", "verbose", "config", "assignments"),
}

_OF_FILES = ("max_pixels", "max_bytes", "max_seconds", "workers")
_OF_MODELS = ("image_size", "preset", "backbone", "channels", "locate", "calibrate_on", "seed")

#: Command -> the settings without an option that are set most often; docs/reference/settings.md has all.
SETTINGS = {
    "ingest": ("min_side_px", *_OF_FILES),
    "train": _OF_MODELS,
    "calibrate": ("promise_per", "max_seconds", "workers"),
    "score": ("shard_size", "drift_alpha", "drift_batches", *_OF_FILES),
    "watch": ("settle_ms", "list_s", *_OF_FILES),
    "export": ("max_seconds", "workers"),
    "sensitivity": ("max_seconds", "workers"),
    "report": ("fdr",),
    "evaluate": _OF_FILES,
    "serve": _OF_MODELS,
    "deploy": _OF_MODELS,
    "demo": _OF_MODELS,
}
