"""What ``nelbo doctor`` says of a system that lacks something."""

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nelbo.flows.cli.system import doctor
from nelbo.flows.options.options import Options
from nelbo.flows.orchestration import lines
from nelbo.flows.workspace.runs import code_version

Nelbo = Callable[..., tuple[int, str, str]]


def test_a_complete_system_runs_nelbo(nelbo: Nelbo, tmp_path: Path) -> None:
    code, out, _ = nelbo("doctor", "--json", "--workspace", tmp_path / "w")
    found = json.loads(out)
    assert (code, found["ok"]) == (0, True)
    assert found["cpus"] == {"allowed": len(os.sched_getaffinity(0)), "present": os.cpu_count()}
    assert found["temporary"]["folder"] == tempfile.gettempdir()
    assert found["workspace_disk"]["syncs_folders"] is found["workspace_disk"]["locks"] is True
    assert found["packages"]["imagecodecs"]
    assert found["codecs_missing"] == []
    assert list(tmp_path.iterdir()) == []
    code, out, _ = nelbo("doctor", "--workspace", tmp_path / "w")
    assert (code, out.splitlines()[-3]) == (0, f"This system runs nelbo {code_version()}.")


def missing(workspace: Path) -> str:
    return "\n".join(doctor.diagnose(Options(workspace=str(workspace)))["missing"])


def test_one_fast_engine_is_enough_and_images_of_the_demo_are_for_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "is_installed", lambda name: name == "openvino")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)
    found = doctor.diagnose(Options(workspace=str(tmp_path)))
    assert (found["engines"], found["demo_images"]) == (["keras", "openvino"], False)
    assert not [lack for lack in found["missing"] if "engine" in lack or "demo" in lack]


def test_each_lack_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setenv("NELBO_PORT", "tcp://10.0.0.1:8501")
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.setattr(doctor, "memory_limit", lambda: 1 << 30)
    monkeypatch.setattr(doctor, "is_installed", lambda _: False)
    monkeypatch.setattr(doctor.sys, "getfilesystemencoding", lambda: "ascii")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        said = missing(tmp_path)
    assert "NELBO_PORT: there are none of these names" in said
    assert "10.0.0.1" not in said
    assert f"{tmp_path / 'none'} cannot. Set HOME" in said
    assert "memory: 1,073,741,824 bytes may be used" in said
    assert "pip install 'nelbo[openvino]'" in said
    assert "Set LANG=C.UTF-8" in said
    assert "does not sync folders" in said
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert "Let one command at a time write there" in missing(tmp_path)


def test_what_nelbo_cannot_run_without_is_exit_code_1(
    nelbo: Nelbo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    code, out, _ = nelbo("doctor", "--json", "--workspace", tmp_path / "file" / "w")
    assert (code, json.loads(out)["ok"]) == (1, False)

    def absent() -> None:
        raise doctor.UsageError("tensorflow is not installed. Get it with: pip install 'nelbo[cpu]'")

    monkeypatch.setattr(doctor, "import_keras", absent)
    code, out, _ = nelbo("doctor", "--workspace", tmp_path)
    assert code == 1
    assert "missing: tensorflow is not installed" in out
    assert out.splitlines()[-3] == f"This system does not run nelbo {code_version()}."


def test_a_prefect_api_that_does_not_answer_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise doctor.UsageError("the Prefect API at http://127.0.0.1:9/api does not answer (ConnectError). Start it.")

    monkeypatch.setattr(doctor, "prefect_api", lambda: "http://127.0.0.1:9/api")
    monkeypatch.setattr(doctor, "check_api", refuse)
    found = doctor.diagnose(Options(workspace=str(tmp_path)))
    assert (found["prefect_api"], found["prefect_reachable"]) == ("http://127.0.0.1:9/api", False)
    assert "does not answer" in "\n".join(found["missing"])


def test_deployments_of_nelbo_0_1_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(
        parameters={"workspace": "/srv/w"}, work_pool_name="p", entrypoint="flows.orchestration.score", tags=["line:w"]
    )
    monkeypatch.setattr(doctor, "prefect_api", lambda: "http://127.0.0.1:9/api")
    monkeypatch.setattr(doctor, "check_api", lambda: None)
    monkeypatch.setattr(lines, "find_deployments", lambda _flows: {"score/w-hourly": old})
    found = doctor.diagnose(Options(workspace=str(tmp_path)))
    assert (found["prefect_reachable"], found["former_deployments"]) == (True, ["score/w-hourly"])
    assert "nelbo deploy --pool p --line w --workspace /srv/w" in "\n".join(found["missing"])
