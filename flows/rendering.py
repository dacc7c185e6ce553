"""Templates of what people read."""

from typing import Any

import jinja2


def template(name: str, **how: Any) -> jinja2.Template:
    """A template of ``flows/templates``; what it prints is escaped for HTML unless `how` says otherwise.

    A name that a template uses and nobody gave is an error.
    """
    environment = jinja2.Environment(  # noqa: S701 - ruff cannot see it
        loader=jinja2.PackageLoader("flows"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **{"autoescape": True, **how},
    )
    return environment.get_template(name)
