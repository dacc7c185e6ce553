"""What stands together in a command's help, and which settings it shows that have no option."""

#: Heading -> fields of options models, and what the command line alone has; those of no heading do not exist.
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
        *("candidates", "defect_px", "seed", "promote", "engine", "runner", "dask_address", "compare"),
        *("csv", "fail_on_anomaly", "older_than", "apply", "models", "host", "port"),
        *("line", "keep", "limit", "pool", "prefect"),
    ),
    "Everywhere": ("workspace", "as_json", "verbose", "config", "assignments"),
}

_OF_FILES = ("max_pixels", "max_bytes", "max_seconds", "workers")
_OF_MODELS = ("image_size", "preset", "backbone", "channels", "locate", "calibrate_on", "seed")

#: Of each command, those without an option that are set most often; docs/settings.md has all.
SETTINGS = {
    "ingest": ("min_side_px", *_OF_FILES),
    "train": _OF_MODELS,
    "calibrate": ("promise_per", "max_seconds", "workers"),
    "score": ("shard_size", "drift_alpha", "drift_batches", *_OF_FILES),
    "export": ("max_seconds", "workers"),
    "sensitivity": ("max_seconds", "workers"),
    "report": ("fdr",),
    "evaluate": _OF_FILES,
    "serve": _OF_MODELS,
    "deploy": _OF_MODELS,
    "demo": _OF_MODELS,
}
