"""Keeps credentials out of options: object stores take theirs from the environment alone."""

from typing import Any

from nelbo.data.errors import InputError
from nelbo.data.sources.urls import check_urls
from nelbo.flows.workspace.errors import UsageError


def refuse_credentials(values: Any) -> None:
    """Refuse credentials in the URLs among options.

    Raises:
        UsageError: an option holds credentials; the message does not repeat them.
    """
    try:
        check_urls(values)
    except InputError as error:
        raise UsageError(str(error)) from None
