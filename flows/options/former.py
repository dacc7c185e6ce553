"""Settings of version 0.1 that are gone: accepted wherever settings come from, for one version, and passed over."""

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

log = logging.getLogger(__name__)

FORMER = ("joint", "joint_statistics")


def without_former(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that there still are; those that were given and are gone are warned of, once in a process.

    >>> without_former({"fpr": 0.01, "joint": None})
    {'fpr': 0.01}
    """
    if given := [name for name in FORMER if values.get(name) is not None]:
        _warn(" and ".join(given))
    return {name: value for name, value in values.items() if name not in FORMER}


@cache
def _warn(given: str) -> None:
    log.warning(
        "gone since 0.2 and without effect: %s. The statistic joint of features takes the place of rules; leave it out",
        given,
    )
