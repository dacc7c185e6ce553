"""Splits training images into parts that share no content and no group: train, validation, calibration."""

import logging
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import InputError, first_rows, n_groups, names_in_paths, split_by_content, with_united_groups
from nelbo.detectors import HELD_OUT_FROM, part_sizes
from nelbo.flows.evaluation.thresholds import calibration_needs
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.options.types import AUTO
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.tables import with_column

log = logging.getLogger(__name__)

MIN_NORMALS = 20

#: Fewest groups of which some can be kept apart: with fewer, one group more or less in a part would change everything.
MIN_GROUPS = 5

_PARTS = ("train", "validation", "calibration")
#: Digits of a content hash in the name of a group of near-duplicates.
_NAME_DIGITS = 12


def with_groups(source: str, table: pa.Table, group_by: str | None) -> pa.Table:
    """The rows with the groups that a rule finds in their paths; without a rule, with the groups that they have.

    Raises:
        InputError: the rule takes too long.
    """
    if group_by is None:
        return table
    table = _named_by_paths(source, table, "group", group_by)
    alone = table.filter(pc.is_null(table["group"]))
    if alone.num_rows:
        log.warning(
            "%s: group_by=%s finds nothing in the paths of %d of %d files (first: %s); each is a group of its own",
            source,
            group_by,
            alone.num_rows,
            table.num_rows,
            alone["relative_path"][0],
        )
    return table


def with_variants(source: str, table: pa.Table, variant_by: str | None) -> pa.Table:
    """The rows with the variants that a rule finds in their paths; without a rule, with the variants that they have.

    Raises:
        InputError: the rule takes too long, or some usable images have a variant and others have none.
    """
    if variant_by is not None:
        table = _named_by_paths(source, table, "variant", variant_by)
    usable = table.filter(pc.is_null(table["reason"]))
    unnamed = usable.filter(pc.is_null(usable["variant"]))
    if 0 < len(unnamed) < len(usable) or (variant_by is not None and len(unnamed)):
        raise InputError(
            f"{source}: {len(unnamed)} of {len(usable)} usable images have no variant (first: "
            f"{unnamed['relative_path'][0]}). Name one for every image, in the column 'variant' or by a rule that "
            "finds it in every path (--variant-by), or for none."
        )
    return table


def _named_by_paths(source: str, table: pa.Table, column: str, rule: str) -> pa.Table:
    if table[column].null_count < len(table):
        log.warning("%s: its column '%s' is ignored, because %s_by=%s is given", source, column, column, rule)
    return with_column(table, column, names_in_paths(table["relative_path"].to_pylist(), rule, f"{column}_by"))


def without_test(table: pa.Table) -> pa.Table:
    """The rows that are not for testing, and share no content or group with rows that are."""
    for_test = pc.equal(pc.fill_null(table["split"], ""), "test")
    whole = with_united_groups(table)
    for name in ("image_id", "group"):
        tested = whole.filter(for_test)[name].drop_null().combine_chunks()
        for_test = pc.or_(for_test, pc.is_in(whole[name], tested))
    return table.filter(pc.invert(for_test))


def check_parts(source: str, table: pa.Table) -> None:
    """Refuse the same content or group in two parts: a threshold would be judged on images that the model has seen."""
    whole = with_united_groups(table)
    parts = [split and f"in part {split!r}" for split in whole["split"].to_pylist()]
    _check_one(source, whole, "image_id", parts, "the same image")
    _check_one(source, whole, "group", parts, "another image of its group {!r}")


def check_normal(source: str, table: pa.Table, remedy: str) -> None:
    """Refuse images that are labelled anomalous, which cannot show what is normal."""
    anomalous = table.filter(pc.equal(table["label"], 1))
    if anomalous.num_rows:
        raise InputError(
            f"{source}: {anomalous.num_rows} images are labelled anomalous (first: {anomalous['relative_path'][0]}), "
            f"and --normal takes normal ones. {remedy}"
        )


def check_labels(source: str, table: pa.Table) -> None:
    """Refuse the same content with two labels, which would judge either way; an image without a label is normal."""
    kinds = ["labelled anomalous" if label == 1 else "taken for normal" for label in table["label"].to_pylist()]
    _check_one(source, table, "image_id", kinds, "the same image")


def _check_one(source: str, table: pa.Table, key: str, said: Sequence[str | None], other: str) -> None:
    """Check that all rows with the same key say the same; None says nothing."""
    first: dict[str, str] = {}
    for path, name, word in zip(table["relative_path"].to_pylist(), table[key].to_pylist(), said, strict=True):
        if name and word and first.setdefault(name, word) != word:
            raise InputError(
                f"{source}: {path} is {word}, and {other.format(name)} {first[name]}. Leave one of the two out."
            )


def count_groups(table: pa.Table) -> int | None:
    """How many groups the usable images form; None if no row has one."""
    usable = each_once(with_united_groups(table))
    return n_groups(usable["image_id"].to_pylist(), usable["group"].to_pylist())


def check_enough(source: str, n_distinct: int, n_listed: int) -> None:
    """Refuse too few images."""
    if n_distinct < MIN_NORMALS:
        raise InputError(
            f"{source} holds {n_distinct} different usable normal images among {n_listed} files, "
            f"and training needs at least {MIN_NORMALS}. Add normal images."
        )


def first_of_each(table: pa.Table) -> dict[str, int]:
    """Content hash -> row number of the first usable file with that content."""
    rows = zip(table["image_id"].to_pylist(), table["reason"].to_pylist(), strict=True)
    return first_rows(image_id if reason is None else None for image_id, reason in rows)


def each_once(table: pa.Table) -> pa.Table:
    """The usable rows, one for each content."""
    return table.take(pa.array(first_of_each(table).values(), pa.int64()))


def n_draws(image_ids: Sequence[str], groups: Sequence[str | None]) -> int:
    """How many independent images there are: the images of one group count as one.

    >>> n_draws(["x", "y", "z"], ["a", "a", None]), n_draws(["x", "y"], [None, None])
    (2, 2)
    """
    found = n_groups(image_ids, groups)
    return len(image_ids) if found is None else found


def with_alike(table: pa.Table, image_ids: Sequence[str], numbers: Sequence[int]) -> pa.Table:
    """The rows with near-duplicates as groups, each named by the content of its first image.

    Args:
        table: rows of a manifest without groups.
        image_ids, numbers: images and the numbers of their groups, from `data.near_duplicates`; a group of one image
            gets no name.
    """
    first = dict(zip(reversed(numbers), reversed(image_ids), strict=True))
    sizes = Counter(numbers)
    name_of = {
        image_id: f"alike-{first[number][:_NAME_DIGITS]}"
        for image_id, number in zip(image_ids, numbers, strict=True)
        if sizes[number] > 1
    }
    return with_column(table, "group", [name_of.get(image_id) for image_id in table["image_id"].to_pylist()])


def is_enough(n_found: int, options: TrainOptions, solved: bool) -> bool:
    """Whether so many groups are enough to keep some apart, and to set the threshold that the options ask for."""
    crossed = solved and options.calibrate_on != "held_out" and options.confidence is None
    return n_found >= max(MIN_GROUPS, calibration_needs(options) * (1 if crossed else 2))


def crosses(table: pa.Table, n_found: int, options: TrainOptions, solved: bool) -> bool:
    """Whether the training images also set the threshold, by scores of models that have not seen them.

    Args:
        n_found: number of independent images, see `n_draws`.
        solved: whether the network is solved; only then are there such scores.

    Raises:
        UsageError: the options ask for it, and the network is trained.
    """
    if options.calibrate_on == "cross" and not solved:
        raise UsageError(
            "calibrate_on=cross goes with the heads linear and linear_image, which are solved in seconds; this "
            "network is trained, and only once. Leave it out."
        )
    if options.calibrate_on != AUTO or not solved or options.confidence is not None:
        return options.calibrate_on == "cross"
    named = "calibration" in table["split"].to_pylist()
    size = part_sizes(n_found, calibration_needs(options))["calibration"]
    return not named and size < HELD_OUT_FROM


def assign_parts(table: pa.Table, usable: list[str], options: TrainOptions, solved: bool = False) -> dict[str, str]:
    """Content hash -> part, for the usable contents.

    A network that is solved needs no validation images, and with cross-fitting no separate ones for calibration.

    Validation and calibration images that the manifest names keep their parts, along with the images of their groups;
    a part that it does not name is drawn by content from the others, in whole groups.

    Raises:
        InputError: the named parts leave too few images for another, or there are too few groups, or too large ones.
    """
    whole = with_united_groups(table)
    rows = list(zip(*(whole[name].to_pylist() for name in ("image_id", "group", "split")), strict=True))
    group_of = {image_id: group for image_id, group, _ in rows if image_id}
    found = n_groups(usable, [group_of[image_id] for image_id in usable])
    if found is not None and found < MIN_GROUPS:
        raise InputError(
            f"{options.normal}: {len(usable)} usable images make {found} groups, and training needs at least "
            f"{MIN_GROUPS}: groups stay whole, and each part needs some. Add images of other groups, name smaller ones "
            "(--group-by, or the column 'group' of a manifest), or leave the groups out if the images are independent."
        )
    named = {image_id: part for image_id, _, part in rows if part}
    named_groups = {group: part for _, group, part in rows if group and part}
    part_of = {}
    for image_id in usable:
        part = named.get(image_id) or named_groups.get(group_of[image_id], "train")
        if part != "train":
            part_of[image_id] = part
    free = [image_id for image_id in usable if image_id not in part_of]
    have = set(part_of.values()) | ({"validation"} if solved else set())
    if crosses(table, n_draws(usable, [group_of[x] for x in usable]), options, solved):
        have.add("calibration")
    part_of |= dict(zip(free, _draw(free, [group_of[x] for x in free], have, options), strict=True))
    _check_sizes(part_of, group_of, options, solved)
    return part_of


def _check_sizes(part_of: dict[str, str], group_of: dict[str, str | None], options: TrainOptions, solved: bool) -> None:
    members_of = {part: [x for x, found in part_of.items() if found == part] for part in _PARTS}
    n_found = {part: n_draws(ids, [group_of[x] for x in ids]) for part, ids in members_of.items()}
    n_least = {
        "train": 1,
        "validation": 0 if solved else 1,
        "calibration": calibration_needs(options) if members_of["calibration"] else 0,
    }
    what = "images" if n_draws(list(part_of), [group_of[x] for x in part_of]) == len(part_of) else "groups of images"
    for part, least in n_least.items():
        if n_found[part] < least:
            raise InputError(
                f"{options.normal}: the split leaves {n_found[part]} usable {what} for {part}, "
                f"and at least {least} are needed. Name fewer images for the other parts, or add images."
            )


def _draw(free: list[str], groups: list[str | None], have: set[str], options: TrainOptions) -> list[str]:
    """The parts of images for which no part is named."""
    least = calibration_needs(options)
    sizes = part_sizes(len(free), least, have)
    # Calibration takes half at most, and the promise counts groups.
    if "calibration" in sizes and 2 * least > n_draws(free, groups):
        sizes["calibration"] = 0
    within = {"calibration": (least, len(free) // 2), "validation": (1, len(free))}
    try:
        return split_by_content(free, sizes, "train", options.seed, groups, within)
    except ValueError as error:
        raise InputError(
            f"{options.normal}: {error}. Groups stay whole: add images of other groups, or name smaller ones."
        ) from error


def halved(image_ids: Sequence[str], groups: Sequence[str | None], labels: Sequence[int]) -> list[str]:
    """The use of labelled images: half of each kind choose a threshold, and the other half judge it.

    Args:
        groups: the group of each; groups that share a content are united, see `with_united_groups`.
        labels: 0 or 1 for each.

    Returns:
        "calibration" or "test" for each; images of one group are in one half, even if they are of both kinds.

    Raises:
        InputError: there are so few groups that a half has no image of one kind.

    >>> halved(["a", "b", "c", "d"], [None, None, "p", "q"], [0, 0, 1, 1])
    ['test', 'calibration', 'calibration', 'test']
    """
    rows = list(zip(image_ids, groups, labels, strict=True))
    part_of: dict[str, str] = {}
    part_of_group: dict[str | None, str] = {}
    for label, kind in ((1, "anomalous"), (0, "normal")):
        of_kind = [(image_id, group) for image_id, group, found in rows if found == label]
        part_of |= {image_id: part_of_group[group] for image_id, group in of_kind if group in part_of_group}
        free = {image_id: group for image_id, group in of_kind if group not in part_of_group}
        size = len(of_kind) // 2 - sum(part_of.get(image_id) == "test" for image_id, _ in of_kind)
        sizes = {"test": min(max(size, 0), len(free))}
        part_of |= dict(
            zip(free, split_by_content(list(free), sizes, "calibration", 0, list(free.values())), strict=True)
        )
        part_of_group |= {group: part_of[image_id] for image_id, group in free.items() if group is not None}
        if len(of_kind) > 1 and len({part_of[image_id] for image_id, _ in of_kind}) == 1:
            raise InputError(
                f"{len(of_kind)} {kind} images are in too few groups for two halves, one that chooses a threshold and "
                "one that judges it. Label images of other groups too, or name smaller groups."
            )
    return [part_of[image_id] for image_id in image_ids]


def with_halves(rows: pa.Table) -> pa.Table:
    """Labelled images with the use of each: as the table says, otherwise by `halved`."""
    ids, groups, labels, named = (rows[name].to_pylist() for name in ("image_id", "group", "label", "split"))
    if "test" in named or "calibration" in named:
        # The table names parts: an image that is not in "calibration", nor in a group that is, is for testing.
        choosing = {group for group, part in zip(groups, named, strict=True) if group and part == "calibration"}
        parts = [
            "calibration" if part == "calibration" or group in choosing else "test"
            for group, part in zip(groups, named, strict=True)
        ]
    else:
        parts = halved(ids, groups, labels)
    return with_column(rows, "split", parts)


def with_parts(table: pa.Table, part_of: dict[str, str], unreadable: dict[str, str]) -> pa.Table:
    """The manifest with what decoding found (content hash -> reason), and each usable file's part."""
    ids = table["image_id"].to_pylist()
    reasons = [
        reason or unreadable.get(image_id) for image_id, reason in zip(ids, table["reason"].to_pylist(), strict=True)
    ]
    parts = [None if reason else part_of.get(image_id) for image_id, reason in zip(ids, reasons, strict=True)]
    return with_column(with_column(table, "reason", reasons), "split", parts)
