"""Groups: images that are not independent, such as views of one part. They stay on one side of every split."""

from collections.abc import Iterable, Sequence

import pyarrow as pa


def united(image_ids: Sequence[str | None], groups: Sequence[str | None]) -> list[str | None]:
    """The group of each image, after groups that share a content have been united.

    Args:
        image_ids: content hashes; None for a file that was not read, whose content is unknown.
        groups: names; None for an image without one.

    Returns:
        For each image, the alphabetically first name among the groups united with its own; an image without a group
        has that of its copies. None where there is no group.

    >>> united(["x", "y", "y", "z", "z"], ["b", "b", "a", "c", None])
    ['a', 'a', 'a', 'c', 'c']
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while (upper := above.setdefault(name, name)) != name:
            above[name] = name = above[upper]
        return name

    group_of: dict[str, str] = {}
    for image_id, group in zip(image_ids, groups, strict=True):
        if group is not None and image_id is not None:
            one, other = sorted((top(group), top(group_of.setdefault(image_id, group))))
            above[other] = one
    rows = zip(image_ids, groups, strict=True)
    names = (group if image_id is None else group_of.get(image_id) for image_id, group in rows)
    return [None if name is None else top(name) for name in names]


def first_rows(keys: Iterable[str | None]) -> dict[str, int]:
    """The number of the first row that has each of the `keys`, in their order; None is no key.

    >>> first_rows(["b", None, "a", "b"])
    {'b': 0, 'a': 2}
    """
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        if key is not None:
            first.setdefault(key, row)
    return first


def members(image_ids: Iterable[str], groups: Sequence[str | None] | None) -> list[list[str]]:
    """The distinct images of each group, by content hash, sorted; an image without a group is a group of its own.

    >>> members(["x", "y", "x", "z"], ["a", None, None, "a"])
    [['x', 'z'], ['y']]
    """
    image_ids = list(image_ids)
    if groups is None:
        return [[image_id] for image_id in dict.fromkeys(image_ids)]
    found: dict[tuple[str | None, str], set[str]] = {}
    for image_id, group in zip(image_ids, united(image_ids, groups), strict=True):
        found.setdefault((group, "" if group is not None else image_id), set()).add(image_id)
    return [sorted(group) for group in found.values()]


def n_groups(image_ids: Sequence[str], groups: Sequence[str | None]) -> int | None:
    """How many groups there are, counting an image without a group as one; None where no image has a group.

    Args:
        image_ids: content hash of each image; copies count once.
        groups: name of each image's group, or None.

    >>> n_groups(["x", "y", "z"], ["a", "a", None]), n_groups(["x", "y"], [None, None])
    (2, None)
    """
    return None if all(group is None for group in groups) else len(members(image_ids, groups))


def with_united_groups(table: pa.Table) -> pa.Table:
    """The rows, with groups that share a content united: any selection of rows then still shows what is independent.

    Args:
        table: manifest rows.

    >>> rows = [{"image_id": "x", "group": "a"}, {"image_id": "x", "group": "b"}, {"image_id": "y", "group": "b"}]
    >>> with_united_groups(pa.Table.from_pylist(rows))["group"].to_pylist()
    ['a', 'a', 'a']
    """
    groups = united(table["image_id"].to_pylist(), table["group"].to_pylist())
    return table.set_column(table.schema.get_field_index("group"), "group", pa.array(groups, pa.string()))
