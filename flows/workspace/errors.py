"""Errors that the caller can correct, which end a command with exit code 2 and one line; and which others may pass."""

import errno
import re
import sys

#: Errors of a disk that do not pass within a minute.
_FINAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)


class UsageError(ValueError):
    """A command, an option, the configuration or the workspace cannot be used as given."""


class NotYetError(UsageError):
    """There is nothing to work with yet: no model, or no scored batch. A scheduled run reports it and succeeds."""


def bad_input() -> tuple[type[Exception], ...]:
    """All errors that the caller can correct. They are imported only here, which keeps the command line's help fast."""
    from nelbo.data import InputError
    from nelbo.detectors import CalibrationError
    from nelbo.vae_core import BundleError, EngineError

    return (UsageError, InputError, CalibrationError, BundleError, EngineError)


def store_errors() -> tuple[type[Exception], ...]:
    """The errors of disks and object stores; a store's package that is not loaded cannot have raised any."""
    found: list[type[Exception]] = [OSError]
    for module, name in (
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("aiohttp", "ClientError"),
        ("google.auth.exceptions", "GoogleAuthError"),
    ):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def is_transient(error: BaseException) -> bool:
    """Whether storage may answer if it is asked again: it was busy, slow or cut off, and did not refuse."""
    from nelbo.data import SpaceError

    said_no = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError, SpaceError)
    if not isinstance(error, store_errors()) or isinstance(error, (*said_no, *bad_input())):
        return False
    if isinstance(error, OSError) and error.errno in _FINAL:
        return False
    # botocore keeps the store's answer here; 4xx is a refusal, except for timeouts and "slow down".
    answer = getattr(error, "response", None)
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) if isinstance(answer, dict) else 500
    return status >= 500 or status in (408, 429)


def without_credentials(text: str) -> str:
    """A message without the users, passwords and queries of URLs in it, which a store's address may hold.

    >>> without_credentials("no answer: http://me:secret@host/bucket?token=abc")
    'no answer: http://host/bucket'
    """
    first, *others = re.split(r"(:[/\\]{2})", text)
    return first + "".join(part if i % 2 == 0 else _plain(part) for i, part in enumerate(others))


def _plain(rest: str) -> str:
    """What follows ``scheme://`` in a message, up to the next URL."""
    end = re.search(r"[\s\"'<>]", rest)
    address, after = (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])
    address = re.sub(r"%(?:25)*40", "@", re.split(r"[?#;]", address, maxsplit=1)[0])
    host, slash, path = address.partition("/")
    if "@" in host:
        host = host.rpartition("@")[2]
    elif re.search(r":(?!\d*$)", host) and "@" in path:
        host, slash, path = path.rpartition("@")[2].partition("/")
    return host + slash + path + after
