"""Folders that cannot be listed, also by root."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest


def shut(monkeypatch: pytest.MonkeyPatch, *names: str, error: OSError | None = None) -> None:
    """From now on folders of these names cannot be listed: for lack of rights, or with another error."""
    scandir = os.scandir

    def listed(path: Any = ".") -> Any:
        # A number is a descriptor of whoever removes or copies folders.
        if not isinstance(path, int) and Path(path).name in names:
            raise error or PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listed)
