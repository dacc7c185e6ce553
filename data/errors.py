"""Errors that a caller of this package would catch."""

#: A file that is no longer what its manifest says: it waits for the next batch.
CHANGED = "changed"


class InputError(ValueError):
    """The folder, manifest or file that was given cannot be used at all."""


class ImageError(ValueError):
    """One image cannot be used; ``reason`` is one of :data:`data.schemas.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
