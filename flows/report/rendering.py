"""Templates and Markdown of pages for people."""

import base64
import hashlib
from functools import cache
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from nelbo.flows.numbers import fixed, images, interval, number, percent


def template(name: str, **how: Any) -> jinja2.Template:
    """A template of ``report/templates``; what it prints is escaped for HTML unless `how` says otherwise.

    A name that a template uses but was not given is an error.
    """
    return _environment(**how).get_template(name)


@cache
def _environment(**how: Any) -> jinja2.Environment:
    """An environment that compiles each template only once, because that takes longer than rendering."""
    environment = jinja2.Environment(  # noqa: S701 - ruff cannot see it
        loader=jinja2.PackageLoader("nelbo.flows.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **{"autoescape": True, **how},
    )
    environment.filters |= {function.__name__: function for function in (fixed, images, interval, number, percent)}
    return environment


def script(name: str) -> tuple[Markup, str]:
    """A script of ``report/templates``, not escaped, and the hash that allows it in a page's security policy."""
    text = template(name, autoescape=False).render()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"  # noqa: S704 - it holds nothing of others


def markdown(text: str, level: int) -> Markup:
    """Markdown with tables as self-contained HTML: only pictures in data URLs become links.

    Args:
        text: HTML in it is shown as text.
        level: of a first-level heading, h1 to h6.

    >>> print(markdown("# A <b>\\n[b](http://c)", level=3))
    <h3>A &lt;b&gt;</h3>
    <p>[b](http://c)</p>
    <BLANKLINE>
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.validateLink = lambda url: url.startswith("data:image/")  # type: ignore[method-assign]
    tokens = reader.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + level - 1}"
    return Markup(reader.renderer.render(tokens, reader.options, {}))  # noqa: S704 - escaped by the reader
