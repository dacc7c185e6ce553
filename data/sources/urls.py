"""Names of places that may be URLs: checks that none holds what logs, rows and servers must not keep."""

import re
from collections.abc import Mapping
from typing import Any

from nelbo.data.errors import InputError

#: The mark by which a text holds a URL; browsers take \ for /, and other programs skip line breaks.
_MARK = re.compile(r":[/\\]{2}")
_PASSED_OVER = re.compile(r"[\t\r\n]")

#: No user, query, parameters or second URL, nor what would be one once percent-encoding is undone.
_KEY = r"(?:(?!:[/\\]{2})[^\\?#;%]|%(?!(?:25)*(?:23|3[BbFf])))*"
_KEY_BESIDE_PORT = r"(?:(?!:[/\\]{2})[^\\?#;%@]|%(?!(?:25)*(?:23|3[BbFf]|40)))*"
#: A password with a slash in it looks like a port that is no number.
_REST = rf"(?:(?:[^/\\@:?#;%]*|arn:[A-Za-z0-9:_-]+)(?:/{_KEY})?|[^/\\@:?#;%]*:[0-9]{{1,5}}(?:/{_KEY_BESIDE_PORT})?)"
_LOCAL = r"(?:[A-Za-z]:|[^/\\@:?#;%]*)(?:/[^?#]*)?"
_PLAIN = re.compile(_REST)
_PLAIN_LOCAL = re.compile(_LOCAL)

#: A regular expression, valid in JSON Schema, too, for texts that `check_url` accepts; it may accept a little more.
HARMLESS = rf"^(?:(?![\s\S]*:[/\\]{{2}})[\s\S]*|(?:file|local)://{_LOCAL}|[^:]*://{_REST})$"

_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-"


def check_url(text: str) -> None:
    """Refuse credentials, queries and chains in a URL; the message repeats none of it. Other texts pass.

    Args:
        text: a URL, a path, or any other text.

    Raises:
        InputError: the URL has some: they belong in the environment, where logs and rows do not show them.

    >>> check_url("s3://bucket/a@b.png"), check_url("/in/a@b?c#d.png")
    (None, None)
    """
    text = _PASSED_OVER.sub("", text)
    found = _MARK.search(text)
    if found is None:
        return
    before, rest = text[: found.start()], text[found.end() :]
    scheme = before[len(before.rstrip(_CHARACTERS)) :].lower()
    plain = _PLAIN_LOCAL if scheme in ("file", "local") else _PLAIN
    is_chain = "::" in before or ("::" in rest and not rest.startswith("arn:"))
    if found[0] != "://" or is_chain or plain.fullmatch(rest) is None:
        raise InputError(
            "the URL has more in it than a place: a user, a password, a query, a fragment or another URL. Give it as "
            "s3://bucket/prefix, without @, ?, #, ; and without ::; credentials come from the environment of the "
            "store's own tools, such as AWS_PROFILE or AWS_ACCESS_KEY_ID, and signed URLs are not taken."
        )


def check_urls(values: Any) -> None:
    """Apply `check_url` to all texts in `values`: a text, or a collection of texts, such as a dictionary of options.

    Raises:
        InputError: a text is refused; the message names the key that it stands under.

    >>> check_urls({"images": ["in/a.png", "s3://bucket/b.png"]})
    >>> try:
    ...     check_urls({"images": ["in/a.png", "https://user:secret@host/b.png"]})
    ... except InputError as error:
    ...     print(str(error).split(":")[0])
    images
    """
    if isinstance(values, str):
        check_url(values)
    elif isinstance(values, Mapping):
        for name, value in values.items():
            try:
                check_urls(value)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
    elif isinstance(values, list | tuple | set | frozenset):
        for value in values:
            check_urls(value)
