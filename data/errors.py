"""Errors that a caller of this package would catch, and what is said of a file that has changed."""

#: A file that is no longer what its manifest says: it waits for the next batch.
CHANGED = "changed"

#: Decoding took too long, which the next try may not.
TIMEOUT = "timeout"


class InputError(ValueError):
    """The folder, manifest or file that was given cannot be used at all."""


class MissingError(InputError, FileNotFoundError):
    """A file of the workspace is not there, or not any more."""


class VersionError(InputError):
    """A file was written by a later version than this one."""


class SpaceError(OSError):
    """A file could not be written for lack of space; what was in its place is still there."""


class ImageError(ValueError):
    """One image cannot be used; ``reason`` is one of :data:`nelbo.data.schemas.REASONS`, or ``CHANGED``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
