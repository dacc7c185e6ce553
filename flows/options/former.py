"""Settings of version 0.1 that are gone: accepted wherever settings come from, for one version, and passed over."""

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

log = logging.getLogger(__name__)

#: Nothing is as long that stands for a rule and its statistics.
_SHOWN = 100

FORMER = ("joint", "joint_statistics")


def without_former(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that there still are; those that were given and are gone are warned of, once in a process.

    >>> without_former({"fpr": 0.01, "joint": None})
    {'fpr': 0.01}
    """
    given = [f"{name}={_text(values[name])}" for name in FORMER if values.get(name) is not None]
    if given:
        _warn(" and ".join(given), several=len(given) > 1)
    return {name: value for name, value in values.items() if name not in FORMER}


def _text(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


@cache
def _warn(given: str, several: bool) -> None:
    are, have, them = ("are", "have", "them") if several else ("is", "has", "it")
    log.warning(
        "%s %s gone since 0.2 and %s no effect: the statistic joint of features takes the place of rules; leave %s out",
        given,
        are,
        have,
        them,
    )
