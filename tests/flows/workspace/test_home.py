"""Users without a home folder, or with one that is read-only."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.home import expand_home, provide_home


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder for temporary files of a user without an entry in the list of users."""
    for name in ("HOME", "PREFECT_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
        # The tested code sets these variables; monkeypatch restores them.
        monkeypatch.setenv(name, "")
        del os.environ[name]
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("home", [None, ""])
def test_a_user_without_a_home_gets_a_private_folder(nowhere: Path, home: str | None) -> None:
    if home is not None:
        os.environ["HOME"] = home
    provide_home()
    folder = nowhere / f"nelbo-home-{os.getuid()}"
    assert os.environ["HOME"] == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    provide_home()
    assert os.environ["HOME"] == str(folder)
    for path in ("~", "~/images"):
        with pytest.raises(UsageError, match=r"HOME is not set. Set it, or give the whole path"):
            expand_home(path)


def test_a_substitute_folder_that_others_can_write_is_refused(nowhere: Path) -> None:
    taken = nowhere / f"nelbo-home-{os.getuid()}"
    taken.mkdir()
    taken.chmod(0o777)
    provide_home()
    assert Path(os.environ["HOME"]).parent == nowhere
    assert os.environ["HOME"] != str(taken)


def test_a_file_in_the_place_of_the_stand_in_is_left_alone(nowhere: Path) -> None:
    taken = nowhere / f"nelbo-home-{os.getuid()}"
    taken.write_text("mine")
    provide_home()
    assert Path(os.environ["HOME"]).is_dir()
    assert taken.read_text() == "mine"


def test_a_read_only_home_stays_the_home(nowhere: Path, tmp_path: Path) -> None:
    os.environ["HOME"] = str(tmp_path / "none")
    provide_home()
    assert expand_home("~/images") == str(tmp_path / "none" / "images")
    stand_in = nowhere / f"nelbo-home-{os.getuid()}"
    assert os.environ["PREFECT_HOME"] == str(stand_in / ".prefect")
    assert os.environ["XDG_CACHE_HOME"] == str(stand_in / ".cache")


def can_be_12345() -> bool:
    unshare = shutil.which("unshare")
    line = [str(unshare), "--user", "--map-user=12345", "true"]
    return unshare is not None and subprocess.run(line, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_be_12345(), reason="needs unshare, and user namespaces")
def test_a_numbered_user_without_a_home_trains_and_scores(images: Path, tmp_path: Path) -> None:
    """As in a container: no HOME, no entry in the list of users."""
    (tmp_path / "tmp").mkdir()
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "tmp"), "TF_CPP_MIN_LOG_LEVEL": "2"}
    user = ["unshare", "--user", "--map-user=12345", sys.executable, "-c"]

    def run(code: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        line = [*user, code, *map(str, arguments)]
        return subprocess.run(line, env=environment | more, cwd=tmp_path, capture_output=True, text=True, check=False)

    nelbo, small = "from nelbo.flows.cli.main import main; main()", ("image_size=64", "--set", "backbone=filters")
    for line in (["train", "--normal", images / "normal", "--set", *small], ["score", images / "new"], ["doctor"]):
        done = run(nelbo, *line)
        assert done.returncode == 0, done.stderr
    assert "This system runs nelbo" in done.stdout
    # The error about the server shows that Prefect was loaded and found a place for its files.
    asked = run(nelbo, "ingest", images / "new", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert asked.returncode == 2
    assert "does not answer" in asked.stderr
    home = "from nelbo.flows.workspace.home import provide_home; provide_home(); "
    assert run(f"{home}from prefect import settings; settings.get_current_settings()").returncode == 0
    assert not (tmp_path / "~").exists()
