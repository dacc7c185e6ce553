"""Credentials in options are refused before anything is logged, stored or sent, wherever the options come from."""

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import ValidationError as SchemaError
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError
from servers import Prefect, prefect_server

from nelbo.flows import orchestration
from nelbo.flows.commands import COMMANDS
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.options.sources import Settings, make_options
from nelbo.flows.workspace.errors import UsageError

URL = "s3://AKID:zQ7xK2vNpL@bucket/in"
SIGNED = "https://bucket.host/in/a.png?X-Amz-Signature=zQ7xK2vNpL"
#: Not "s3cr3t", which occurs in Prefect's own examples.
SECRET = "zQ7xK2vNpL"  # noqa: S105

#: Options models of the flows.
OPTIONS = {name: command.options for name, command in COMMANDS.items() if command.is_flow}

LINES = [
    *(
        [*shlex.split(command.example)[1:], *more]
        for command in COMMANDS.values()
        for more in (["--workspace", URL], [f"--workspace={URL}"], ["--set", f"workspace={URL}"], ["--config", URL])
    ),
    ["ingest", SIGNED],
    ["score", SIGNED],
    ["score", "in", "--root", URL],
    ["score", "in", "--new", "--runner", "dask", "--dask-address", "tcp://me:zQ7xK2vNpL@host:8786"],
    ["score", "in", "--batch-id", URL],
    ["train", "--normal", URL],
    ["train", "--normal", "in", "--gate", SIGNED],
    ["train", "--normal", "in", "--set", f"backbone_weights={SIGNED}"],
    ["train", "--normal", "in", "--fpr", URL],
    ["train", "--normal", "in", "--set", URL],
    ["calibrate", "--labels", SIGNED],
    ["calibrate", "--compare", "--batch", URL],
    ["export", "--engine", URL],
    ["export", "--engine", "onnx", "--normal", URL],
    ["serve", "--images", URL],
    ["deploy", "--pool", "p", "--gate", SIGNED],
    ["deploy", "--pool", URL],
    ["dashboard", "--host", URL],
    [URL],
    ["score", "in", URL],
    ["score", "in", f"--{URL}"],
]


def assert_refused(answer: tuple[int, str, str], folder: Path) -> None:
    code, out, err = answer
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert SECRET not in line
    assert "AKID" not in line
    assert "credentials come from the environment" in line
    assert sorted(folder.iterdir()) == []


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_a_command_refuses_credentials_first(
    line: list[str], nelbo: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # No server listens there, and the command contacts none.
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert_refused(nelbo(*line), tmp_path)


@pytest.mark.parametrize(
    "name", sorted(name for name, info in Settings.model_fields.items() if info.annotation is not bool)
)
def test_environment_and_file_refuse_credentials(
    name: str, nelbo: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any setting, even a number, whose own error would repeat the value."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    file = tmp_path / "nelbo.toml"
    for value in (f'"{SIGNED}"', f'["{URL}"]', f'{{a = "{URL}"}}'):
        file.write_text(f"{name} = {value}\n")
        assert_refused(nelbo("ingest", "in", "--config", file, "--no-prefect"), work)
    monkeypatch.setenv(f"NELBO_{name.upper()}", URL)
    assert_refused(nelbo("ingest", "in", "--no-prefect"), work)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_flows_refuse_credentials_before_they_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # If a flow run were created, it would need this server.
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    flow = getattr(orchestration, name)
    for field in OPTIONS[name].model_fields:
        for refusing in (lambda given: flow(**given), flow.validate_parameters):
            with pytest.raises(UsageError, match=f"{field}: .*credentials come from the environment") as raised:
                refusing({field: SIGNED})
            assert SECRET not in str(raised.value)
            assert raised.value.__cause__ is None


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_schemas_of_deployments_refuse_credentials(name: str) -> None:
    """So Prefect's server refuses the parameters of a run before it stores them."""
    schema = getattr(orchestration, name).parameters.model_dump()
    for field, info in OPTIONS[name].model_fields.items():
        if info.annotation in (str, str | None):
            with pytest.raises(SchemaError, match=field):
                validate({field: URL}, schema, raise_on_error=True, ignore_required=True)
            validate({field: "s3://bucket/a@b"}, schema, raise_on_error=True, ignore_required=True)


def test_options_do_not_repeat_what_they_refuse() -> None:
    with pytest.raises(ValidationError) as raised:
        TrainOptions(normal=URL, image_size=URL)
    assert SECRET not in str(raised.value)
    with pytest.raises(UsageError) as refused:
        make_options(TrainOptions, {"normal": "in"}, assignments=[f"epochs={SIGNED}"])
    assert SECRET not in str(refused.value)
    assert refused.value.__suppress_context__


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as found:
        yield found


@pytest.mark.slow
def test_nothing_that_prefect_keeps_has_credentials_in_it(
    server: Prefect, images: Path, tmp_path: Path, nelbo: Callable[..., Any]
) -> None:
    workspace, landing = tmp_path / "workspace", str(images / "new")
    server.add_pool()
    with server.here():
        assert nelbo("ingest", landing, "--workspace", workspace)[0] == 0
        for url in (URL, SIGNED):
            for line in (
                ["ingest", url, "--workspace", workspace, "--prefect"],
                ["score", landing, "--workspace", url],
                ["deploy", "--pool", "nelbo", "--images", url],
            ):
                code, *said = nelbo(*line)
                assert code == 2
                assert SECRET not in "".join(said)
            with pytest.raises(UsageError, match="credentials come from the environment") as raised:
                orchestration.ingest(images=url, workspace=str(workspace))
            assert SECRET not in str(raised.value)
        line = ["--line", "one", "--images", landing, "--workspace", workspace, "--json"]
        deployed = json.loads(nelbo("deploy", "--pool", "nelbo", *line)[1])["deployments"]
    # The server refuses the parameters of a run that somebody creates on a deployment, before it stores them.
    found = next(server.get(f"deployments/{row['deployment_id']}") for row in deployed if "score/" in row["deployment"])
    for parameters in ({"images": URL}, {"images": landing, "workspace": SIGNED}, {"images": landing, "root": URL}):
        answer = server.call("POST", f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        assert answer.status_code == 409
    assert server.call("PATCH", f"deployments/{found['id']}", {"parameters": {"images": URL}}).status_code == 409
    # Schedules also create runs.
    asked_for = [run for run in server.ask("flow_runs/filter") if not run["auto_scheduled"]]
    assert len(asked_for) == 1
    assert asked_for == server.ask("flow_runs/filter", flows={"name": {"any_": ["ingest"]}})
    server.stop()
    looked_into = [path for place in (server.folder, workspace) for path in place.rglob("*") if path.is_file()]
    assert {"server.log", "prefect.db"} <= {path.name for path in looked_into}
    assert [path for path in looked_into if SECRET.encode() in path.read_bytes()] == []
