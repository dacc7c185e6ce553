"""Pages as HTML: one environment of templates, and how addresses, times and colours are written on them."""

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
#: The row of an image as addresses name it.
_IMAGE = {"model": "model_id", "batch": "batch_id", "image": "image_id", "path": "relative_path"}


def page(name: str, title: str, status: int = 200, tables: Tables | None = None, **context: Any) -> HTMLResponse:
    """A whole page, or the part of one that a template of its own draws.

    Args:
        tables: those that it was drawn from, to the end: what is damaged of them stands at its head, and ``line`` gives
            commands on their workspace.
    """
    known: dict[str, Any] = {"damaged": [], "line": partial(line, "")}
    if tables is not None:
        known = {"damaged": tables.damaged(), "line": partial(line, str(tables.workspace.root))}
    return HTMLResponse(_environment().get_template(name).render(title=title, **known, **context), status)


def line(workspace: str, *words: str) -> str:
    """A command as a shell takes it, on a workspace wherever it is typed.

    >>> line("/data/my line", "calibrate", "--model", "m1")
    "nelbo calibrate --model m1 --workspace '/data/my line'"
    """
    return shlex.join(["nelbo", *words, "--workspace", workspace])


@cache
def _environment() -> jinja2.Environment:
    """What templates know; a name that a template uses and nobody gave is an error, and everything is escaped."""
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
    """A place with what is asked of it; what is empty is left out.

    >>> address("/batch", batch="b 1", text="", verdict=["review", "normal"])
    '/batch?batch=b+1&verdict=review&verdict=normal'
    """
    said = {name: value for name, value in query.items() if value not in ("", None, [])}
    return f"{place}?{urlencode(said, doseq=True)}" if said else place


def image_at(place: str, row: Mapping[Any, Any]) -> str:
    """The address of an image's row on the page at that place; it can be kept."""
    return address(place, **{name: row[column] for name, column in _IMAGE.items()})


def moment(when: Any) -> Markup:
    """A time: in UTC here, and the browser writes it in the visitor's zone.

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
    """How long ago a time is, in its largest unit.

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
