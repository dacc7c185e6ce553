"""Errors that a caller of this package would catch, and the reasons of files that may be usable later."""

#: The reason of a file that no longer matches its manifest: it waits for the next batch.
CHANGED = "changed"

#: The reason of a file that took too long to decode; the next try may succeed.
TIMEOUT = "timeout"


class InputError(ValueError):
    """The folder, manifest or file that was given cannot be used at all."""


class MissingError(InputError, FileNotFoundError):
    """A file of the workspace does not exist, or no longer exists."""


class VersionError(InputError):
    """A file was written by a later version than this one."""


class SpaceError(OSError):
    """A file could not be written for lack of space; what was in its place is still there."""


class ImageError(ValueError):
    """One image cannot be used.

    Args:
        reason: one of :data:`nelbo.data.schemas.REASONS`, or ``CHANGED``.
        detail: what was wrong, for logs.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
