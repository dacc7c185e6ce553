"""Pages as HTML: the environment of the templates, and the format of addresses, times and colours."""

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any
from urllib.parse import urlencode

import jinja2
import pandas as pd
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from nelbo.flows.dashboard.palette import DARK, LIGHT
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.numbers import fixed, images, interval, number, percent

#: Where a visitor can go from any page: address, name.
PLACES = (("/", "Home"), ("/batch", "Batch"), ("/review", "Review"), ("/compare", "Compare"), ("/search", "Search"))
#: Parameters of addresses that name an image's row, and their columns.
_IMAGE = {"model": "model_id", "batch": "batch_id", "image": "image_id", "path": "relative_path"}


def page(name: str, title: str, status: int = 200, tables: Tables | None = None, **context: Any) -> HTMLResponse:
    """A whole page, or a part of one that has its own template.

    Args:
        tables: those that the page was drawn from: it lists their damaged files at the top, and ``line`` gives commands
            on their workspace.
    """
    known: dict[str, Any] = {"damaged": [], "line": partial(line, "")}
    if tables is not None:
        known = {"damaged": tables.damaged(), "line": partial(line, str(tables.workspace.root))}
    return HTMLResponse(_environment().get_template(name).render(title=title, **known, **context), status)


def line(workspace: str, *words: str) -> str:
    """A shell command on a workspace, which works in any folder.

    >>> line("/data/my line", "calibrate", "--model", "m1")
    "nelbo calibrate --model m1 --workspace '/data/my line'"
    """
    return shlex.join(["nelbo", *words, "--workspace", workspace])


@cache
def _environment() -> jinja2.Environment:
    """The environment of templates: a name that was not given is an error, and everything is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("nelbo.flows.dashboard"), jinja2.PackageLoader("nelbo.flows.report")]
        ),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {one.__name__: one for one in (fixed, images, interval, number, percent, moment)}
    environment.globals |= {"address": address, "image_at": image_at, "light": LIGHT, "dark": DARK, "places": PLACES}
    return environment


def address(place: str, **query: Any) -> str:
    """A place with its query; empty values are left out.

    >>> address("/batch", batch="b 1", text="", verdict=["review", "normal"])
    '/batch?batch=b+1&verdict=review&verdict=normal'
    """
    said = {name: value for name, value in query.items() if value not in ("", None, [])}
    return f"{place}?{urlencode(said, doseq=True)}" if said else place


def image_at(place: str, row: Mapping[Any, Any]) -> str:
    """The address of an image's row on the page at that place, which stays valid."""
    return address(place, **{name: row[column] for name, column in _IMAGE.items()})


def moment(when: Any) -> Markup:
    """A time in UTC, which the browser shows in the visitor's time zone.

    >>> print(moment(datetime(2026, 10, 1, 6, tzinfo=UTC)))
    <time datetime="2026-10-01T06:00:00Z" title="2026-10-01 06:00 UTC">2026-10-01 06:00 UTC</time>
    """
    if pd.isna(when):
        return Markup("—")
    at = pd.Timestamp(when)
    at = at.tz_localize(UTC) if at.tzinfo is None else at.tz_convert(UTC)
    return Markup(
        '<time datetime="{0:%Y-%m-%dT%H:%M:%S}Z" title="{0:%Y-%m-%d %H:%M} UTC">{0:%Y-%m-%d %H:%M} UTC</time>'
    ).format(at)


def ago(when: Any, now: datetime | None = None) -> str:
    """How long ago a time is, in the largest unit that fits.

    >>> ago(datetime(2026, 10, 1, 6, tzinfo=UTC), datetime(2026, 10, 1, 9, 30, tzinfo=UTC))
    '3 hours ago'
    """
    at = pd.Timestamp(when)
    at = at.tz_localize(UTC) if at.tzinfo is None else at
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if (n := int(seconds // length)) >= 1:
            return f"{n:,} {unit}{'' if n == 1 else 's'} ago"
    return "just now"
