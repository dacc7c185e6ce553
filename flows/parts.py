"""Training images in parts that share no content: train, validation, calibration."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from data import InputError, split_by_content
from detectors import CalibrationError, check_size, n_needed, part_sizes, trim
from detectors.joint import MIN_REFERENCE
from flows.settings import CalibrationSettings, TrainOptions

MIN_NORMALS = 20


def without_test(table: pa.Table) -> pa.Table:
    """The rows that are not for testing, and no copies of those either."""
    for_test = pc.equal(pc.fill_null(table["split"], ""), "test")
    contents = table.filter(for_test)["image_id"].drop_null()
    copies = pc.is_in(table["image_id"], contents.combine_chunks())
    return table.filter(pc.invert(pc.or_(for_test, copies)))


def check_parts(source: str, table: pa.Table) -> None:
    """The same content in two parts would let a threshold be judged on what the model has seen."""
    part_of: dict[str, str] = {}
    rows = zip(*(table[name].to_pylist() for name in ("relative_path", "image_id", "split")), strict=True)
    for path, image_id, split in rows:
        if image_id and split and part_of.setdefault(image_id, split) != split:
            raise InputError(
                f"{source}: {path} is in part {split!r}, and the same image in {part_of[image_id]!r}. "
                "Leave one of the two out."
            )


def check_enough(source: str, n_distinct: int, n_listed: int) -> None:
    """Too few images are an error."""
    if n_distinct < MIN_NORMALS:
        raise InputError(
            f"{source} holds {n_distinct} different usable normal images among {n_listed} files, "
            f"and training needs at least {MIN_NORMALS}. Add normal images."
        )


def first_of_each(table: pa.Table) -> dict[str, int]:
    """Content hash -> row number of the first usable file with that content."""
    first: dict[str, int] = {}
    rows = zip(table["image_id"].to_pylist(), table["reason"].to_pylist(), strict=True)
    for row, (image_id, reason) in enumerate(rows):
        if reason is None:
            first.setdefault(image_id, row)
    return first


def assign_parts(table: pa.Table, usable: list[str], options: TrainOptions) -> dict[str, str]:
    """Content hash -> part, of the contents that are usable.

    Validation and calibration images that the manifest names are kept; a part that it does not name is drawn by
    content from the others.

    Raises:
        InputError: the parts named leave too few images for another.
    """
    ids = table["image_id"].to_pylist()
    named = {image_id: part for image_id, part in zip(ids, table["split"].to_pylist(), strict=True) if part}
    part_of = {image_id: named[image_id] for image_id in usable if named.get(image_id, "train") != "train"}
    free = [image_id for image_id in usable if image_id not in part_of]
    sizes = part_sizes(len(free), calibration_needs(options), have=set(part_of.values()))
    part_of |= dict(zip(free, split_by_content(free, sizes, "train", options.seed), strict=True))
    counts = Counter(part_of.values())
    n_least = {"train": 1, "validation": 1, "calibration": calibration_needs(options) if counts["calibration"] else 0}
    for part, least in n_least.items():
        if counts[part] < least:
            raise InputError(
                f"{options.normal}: the split leaves {counts[part]} usable images for {part}, "
                f"and at least {least} are needed. Name fewer images for the other parts, or add images."
            )
    return part_of


def with_parts(table: pa.Table, part_of: dict[str, str], unreadable: dict[str, str]) -> pa.Table:
    """The manifest with what decoding found (content hash -> reason), and each usable file's part."""
    ids = table["image_id"].to_pylist()
    reasons = [
        reason or unreadable.get(image_id) for image_id, reason in zip(ids, table["reason"].to_pylist(), strict=True)
    ]
    parts = [None if reason else part_of.get(image_id) for image_id, reason in zip(ids, reasons, strict=True)]
    for name, values in (("reason", reasons), ("split", parts)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return table


def calibration_needs(options: CalibrationSettings) -> int:
    """Calibration images that the promise needs, with those that are trimmed or make a joint statistic's tails.

    >>> calibration_needs(CalibrationSettings()), calibration_needs(CalibrationSettings(joint="fisher"))
    (19, 42)
    """
    n = n_needed(options.fpr, options.confidence)
    while len(trim(range(n), options.contamination)) < n_needed(options.fpr, options.confidence):
        n += 1
    return n if options.joint is None else 2 * max(n, MIN_REFERENCE)


def check_calibration_size(n: int, options: CalibrationSettings) -> None:
    """Refuse n calibration images if they are too few.

    Raises:
        CalibrationError: how many are needed, and for what.
    """
    if options.joint is None and not options.contamination:
        check_size(n, options.fpr, options.confidence)
    elif n < calibration_needs(options):
        why = ["" if options.confidence is None else f" at confidence={options.confidence}"]
        why += [f" after contamination={options.contamination} is trimmed" if options.contamination else ""]
        why += [f" with joint={options.joint}, which takes half of the images," if options.joint else ""]
        raise CalibrationError(
            f"fpr={options.fpr}{''.join(why)} needs at least {calibration_needs(options)} calibration images, got {n}. "
            "Add normal images, or ask for a larger fpr."
        )
