"""What is the caller's to mend: exit code 2 and one line."""

import errno
import re
import sys

#: Of a disk that will not be otherwise in a minute.
_FINAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)


class UsageError(ValueError):
    """A command, an option, the configuration or the workspace cannot be used as given."""


class NotYetError(UsageError):
    """There is nothing to work with yet: no model, or no scored batch. A scheduled run says so and ends well."""


def bad_input() -> tuple[type[Exception], ...]:
    """All errors of that kind. They are imported when one is at hand: the command line's help stays fast."""
    from nelbo.data import InputError
    from nelbo.detectors import CalibrationError
    from nelbo.vae_core import BundleError, EngineError

    return (UsageError, InputError, CalibrationError, BundleError, EngineError)


def store_errors() -> tuple[type[Exception], ...]:
    """What disks and object stores raise; the packages of stores that are not loaded have raised nothing."""
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
    """Whether storage may answer if it is asked again: it was busy, slow or cut off, and did not say no."""
    from nelbo.data import SpaceError

    said_no = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError, SpaceError)
    if not isinstance(error, store_errors()) or isinstance(error, (*said_no, *bad_input())):
        return False
    if isinstance(error, OSError) and error.errno in _FINAL:
        return False
    # botocore's way to say what the store answered; 4xx is an answer, but for "slow down".
    answer = getattr(error, "response", None)
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) if isinstance(answer, dict) else 500
    return status >= 500 or status in (408, 429)


def without_credentials(text: str) -> str:
    """A message without users, passwords and queries of the URLs in it: a store's address may hold some.

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
