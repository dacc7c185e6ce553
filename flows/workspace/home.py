"""The user's home folder: what ``~`` stands for in paths, and what libraries get if there is none."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from nelbo.flows.workspace.errors import UsageError

#: Beginning of a stand-in's name.
_STAND_IN = "nelbo-home-"

#: Variable that names another place -> what libraries keep in a home folder. Keras finds a place by itself.
_KEPT = {"PREFECT_HOME": ".prefect", "XDG_CACHE_HOME": ".cache"}


def expand_home(path: str) -> str:
    """The path, with the home folder for ``~`` or ``~user`` at its beginning; ``./~`` is a folder of that name.

    Raises:
        UsageError: there is no such user, or this one has no home.

    >>> expand_home("./~/images"), expand_home("s3://bucket/~")
    ('./~/images', 's3://bucket/~')
    """
    if not path.startswith("~"):
        return path
    user, expanded = path.partition("/")[0], os.path.expanduser(path)  # noqa: PTH111 - a text with patterns
    if user == "~" and (expanded == path or is_stand_in(os.environ.get("HOME", ""))):
        raise UsageError(f"{path}: ~ stands for the home folder, and HOME is not set. Set it, or give the whole path.")
    if expanded == path:
        raise UsageError(
            f"{path}: there is no user {user[1:]} with a home folder. Give the whole path, or write ./{path} for a "
            "name that begins with ~."
        )
    return expanded


def provide_home() -> None:
    """Give libraries a place to write to if the user has no home folder, or one that is not writable.

    Without it, Prefect does not start for a container's numeric user, which the system's list of users does not name.
    """
    # An empty HOME would make ~/images mean /images.
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    if not home.is_absolute():
        os.environ["HOME"] = _stand_in()
    elif not os.access(home, os.W_OK | os.X_OK):
        for variable, name in _KEPT.items():
            # Path.exists raises if the home folder may not be searched.
            if variable not in os.environ and not os.path.exists(home / name):  # noqa: PTH110
                os.environ[variable] = f"{_stand_in()}/{name}"


def _stand_in() -> str:
    """A private folder; the same one each time, unless somebody else has taken its name."""
    folder = Path(tempfile.gettempdir()) / f"{_STAND_IN}{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if found.st_uid == os.getuid() and found.st_mode & 0o077777 == 0o040700:
        return str(folder)
    return tempfile.mkdtemp(prefix=_STAND_IN)


def is_stand_in(home: str) -> bool:
    """Whether a folder is one that `provide_home` gives to libraries."""
    return Path(home).name.startswith(_STAND_IN)
