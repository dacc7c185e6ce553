"""The user's home folder: what ``~`` stands for in paths, and what libraries get where there is none."""

import os
import tempfile
from pathlib import Path

from nelbo.flows.workspace.errors import UsageError

#: What the name of a stand-in begins with.
_STAND_IN = "nelbo-home-"

#: What libraries keep in a home folder, by the variable that names another place. Keras looks by itself.
_KEPT = {"PREFECT_HOME": ".prefect", "XDG_CACHE_HOME": ".cache"}


def expand_home(path: str) -> str:
    """The path with ``~`` and ``~user`` at its beginning as the home folder; ``./~`` is a folder of that name.

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
            f"{path}: there is no user {user[1:]} whose home folder that could be. Give the whole path, or write "
            f"./{path} for a name that begins with ~."
        )
    return expanded


def provide_home() -> None:
    """Give libraries a place to write to where the user has no home folder, or none that can be written.

    The numbered user of a container has no entry in the system's list of users: Prefect does not start.
    """
    # An empty HOME would make ~/images mean /images.
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    if not home.is_absolute():
        os.environ["HOME"] = _stand_in()
    elif not os.access(home, os.W_OK | os.X_OK):
        for variable, name in _KEPT.items():
            if variable not in os.environ and not (home / name).exists():
                os.environ[variable] = f"{_stand_in()}/{name}"


def _stand_in() -> str:
    """A private folder, the same one each time unless somebody else has taken its name."""
    folder = Path(tempfile.gettempdir()) / f"{_STAND_IN}{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid == os.getuid() and found.st_mode & 0o077777 == 0o040700:
        return str(folder)
    return tempfile.mkdtemp(prefix=_STAND_IN)


def is_stand_in(home: str) -> bool:
    """Whether a folder is what `provide_home` gives to libraries."""
    return Path(home).name.startswith(_STAND_IN)
