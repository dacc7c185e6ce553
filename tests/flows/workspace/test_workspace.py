import errno
import fcntl
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace, check_id, new_run_id


def test_ids_are_folder_names_that_stay_strings() -> None:
    assert check_id("night_2026-11-23") == "night_2026-11-23"
    for bad in ("", "1", "2026-11-23", "../x", "a/b", "a b", "_x", "a" * 101, "ä", "a\n"):
        with pytest.raises(UsageError, match="expected a letter"):
            check_id(bad)


def test_run_ids_differ_and_are_ids() -> None:
    assert len({check_id(new_run_id()) for _ in range(100)}) == 100


def test_the_latest_model_and_its_calibration_are_found(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path))
    with pytest.raises(UsageError, match="no latest model"):
        catalog.find_model(workspace, "latest")
    with pytest.raises(UsageError, match="has none"):
        catalog.find_model(workspace, "m1")
    for name in ("m1", "m2"):
        (workspace.models / name).mkdir(parents=True)
        (workspace.models / name / "checksums.json").touch()
    pointers.promote(workspace, "m1")
    pointers.use_calibration(workspace, "m1", "c1")
    pointers.use_calibration(workspace, "m2", "c2")
    pointers.promote(workspace, "m2")
    assert catalog.find_model(workspace, "latest") == "m2"
    assert catalog.find_model(workspace, "m1") == "m1"
    assert (
        pointers.current_calibration(workspace, "m1"),
        pointers.current_calibration(workspace, "m2"),
        pointers.current_calibration(workspace, "m3"),
    ) == ("c1", "c2", None)
    with pytest.raises(UsageError, match="which has m1, m2"):
        catalog.find_model(workspace, "m3")
    with pytest.raises(UsageError, match="'c9' is not in"):
        catalog.find_calibration(workspace, "c9")
    workspace.latest.write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        catalog.find_model(workspace, "latest")


def test_no_update_of_latest_is_lost(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: pointers.use_calibration(workspace, f"m{i}", f"c{i}"), range(60)))
    assert [pointers.current_calibration(workspace, f"m{i}") for i in range(60)] == [f"c{i}" for i in range(60)]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot be written"):
        Workspace.at(str(tmp_path / "file" / "workspace")).prepare()
    assert list(Workspace.at(str(tmp_path / "new")).prepare().staging.iterdir()) == []


def test_a_calibration_is_replaced_only_if_it_is_still_current(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert pointers.replace_calibration(workspace, "m1", "c1", None)
    assert not pointers.replace_calibration(workspace, "m1", "c2", None)
    assert pointers.current_calibration(workspace, "m1") == "c1"
    assert pointers.replace_calibration(workspace, "m1", "c2", "c1")
    assert pointers.current_calibration(workspace, "m1") == "c2"


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.EBADF])
def test_a_file_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(logging.getLogger("nelbo"), "propagate", True)
    workspace = Workspace.at(str(tmp_path))
    pointers.promote(workspace, "m1")
    assert pointers.promoted(workspace) == "m1"
    assert "cannot be locked" in caplog.text
    assert "let one command at a time write to this workspace" in caplog.text
