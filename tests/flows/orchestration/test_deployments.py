"""prefect.yaml holds only keys that nelbo and Prefect accept, because Prefect silently ignores unknown ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel

from nelbo.flows.commands import COMMANDS
from nelbo.flows.options.options import ServeOptions
from nelbo.flows.options.sources import check_options, make_options
from nelbo.flows.orchestration import deployments
from nelbo.flows.orchestration.deployments import describe, entries, plan
from nelbo.flows.orchestration.flows import FLOWS
from nelbo.flows.orchestration.lines import check_ours, former, line_name, say_former
from nelbo.flows.workspace.errors import UsageError

PROJECT = Path(__file__).parents[3] / "prefect.yaml"


def planned(assignments: tuple[str, ...] = (), **given: str | None) -> tuple[list[Any], dict[str, str]]:
    return plan(make_options(ServeOptions, given, None, assignments))


def test_the_clone_and_the_package_hold_the_same_file() -> None:
    assert PROJECT.resolve() == Path(__file__).parents[3] / "flows" / "orchestration" / "prefect.yaml"


def test_prefect_reads_every_key_of_the_file() -> None:
    """Prefect's own model of the file, dumped, holds everything in the file."""
    raw = yaml.safe_load(PROJECT.read_text())
    understood = PrefectYamlModel.model_validate(raw).model_dump(mode="json", by_alias=True, exclude_unset=True)
    for key in ("name", "prefect-version", "pull"):
        assert understood[key] == raw[key]
    for said, found in zip(raw["deployments"], understood["deployments"], strict=True):
        assert {key: found[key] for key in said if key != "schedules"} == {
            key: value for key, value in said.items() if key != "schedules"
        }
        assert [schedule["cron"] for schedule in found.get("schedules", [])] == [
            schedule["cron"] for schedule in said.get("schedules", [])
        ]


def test_flows_accept_every_parameter_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{entry['flow']}/{entry['name']}" for entry in entries()]
    assert names == sorted(set(names), key=names.index)
    for entry in entries():
        assert entry["entrypoint"] == f"nelbo.flows.orchestration.{entry['flow']}"
        check_options(COMMANDS[entry["flow"]].options, entry["parameters"])
        for trigger in entry.get("triggers", ()):
            assert trigger["parameters"].keys() <= FLOWS[entry["flow"]].parameters.properties.keys()
    monkeypatch.setattr(deployments.yaml, "safe_load", lambda _: {"deployments": [entry | {"a": "s3://k:s@b"}]})
    with pytest.raises(UsageError, match="credentials"):
        entries()


def test_places_become_absolute_and_the_rest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"images": "in", "normal": "s3://bucket/good", "gate": "held", "workspace": "w", "keep": "90d"}
    found, left_out = planned(("epochs=7", "workers=2"), **given)
    parameters = {f"{one.flow_name}/{one.name}": one.parameters for one in found}
    assert left_out == {}
    assert parameters["score/w-hourly"] == {
        "images": str(tmp_path / "in"),
        "new": True,
        "workers": 2,
        "workspace": str(tmp_path / "w"),
    }
    assert parameters["train/w-weekly"] == {
        "normal": "s3://bucket/good",
        "gate": str(tmp_path / "held"),
        "epochs": 7,
        "workers": 2,
        "workspace": str(tmp_path / "w"),
    }
    assert parameters["prune/w-monthly"] == {"older_than": "90d", "apply": True, "workspace": str(tmp_path / "w")}


def test_a_tilde_is_the_home_folder_of_the_deploying_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    (hourly, *_), _ = planned(images="~/in", workspace="~/w")
    assert (hourly.parameters["images"], hourly.parameters["workspace"]) == ("/home/ada/in", "/home/ada/w")


def test_deployments_without_their_folder_are_left_out() -> None:
    found, left_out = planned(images=None, normal="/normal")
    assert left_out == {
        "score/workspace-hourly": "--images",
        "score/workspace-on-landing": "--images",
        "prune/workspace-monthly": "--keep",
    }
    assert [describe(one)["deployment"] for one in found] == [
        "train/workspace-weekly",
        "calibrate/workspace-weekly",
        "report/workspace-daily",
    ]
    # Without a gate, nobody checks a scheduled training.
    assert found[0].parameters["promote"] is False


def test_retention_is_scheduled_only_on_request() -> None:
    """By default neither `nelbo deploy` nor ``prefect deploy --all`` schedules it."""
    assert all(one.flow_name != "prune" for one in planned(images="/in", normal="/normal")[0])
    (in_file,) = (entry for entry in entries() if entry["flow"] == "prune")
    assert [schedule["active"] for schedule in in_file["schedules"]] == [False]
    (prune,) = (one for one in planned(keep="4w")[0] if one.flow_name == "prune")
    assert prune.parameters["older_than"] == "4w"
    assert [schedule.active for schedule in prune.schedules or ()] == [True]  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"keep='often': expected hours, days or weeks"):
        planned(keep="often")


def test_deployments_carry_the_name_of_their_line() -> None:
    found, _ = planned(images="/in", workspace="/srv/caps/workspace", line="caps")
    assert all(one.name.startswith("caps-") and one.tags == ["nelbo", "line:caps"] for one in found)
    (landing,) = (one for one in found if one.name == "caps-on-landing")
    (trigger,) = landing.triggers
    # An event about another line's workspace does not start it.
    assert trigger.match.root == {"nelbo.workspace": "/srv/caps/workspace"}  # type: ignore[union-attr]


@pytest.mark.parametrize("line", ["", "-a", "a b", "a/b", "\u00fc", "a" * 61, "a;b", "a\n", "{{x}}"])
def test_a_line_has_a_plain_name(line: str) -> None:
    with pytest.raises(UsageError, match=r"--line .*: expected a letter or digit, then letters, digits"):
        planned(workspace="/w", line=line)


@pytest.mark.parametrize(
    ("workspace", "line"),
    [
        ("/srv/bottles", "bottles"),
        ("/srv/Line 3 (left)/", "Line-3-left"),
        ("s3://bucket/caps", "caps"),
        ("s3://bucket", "bucket"),
        ("/srv/" + "x" * 80, "x" * 60),
    ],
)
def test_a_line_is_called_after_its_workspace(workspace: str, line: str) -> None:
    assert line_name(None, workspace) == line


def test_a_workspace_without_a_name_needs_the_option_line() -> None:
    with pytest.raises(UsageError, match="Give one: --line NAME"):
        planned(workspace="/")


def deployed(workspace: str, pool: str | None = None) -> Any:
    return SimpleNamespace(parameters={"workspace": workspace}, work_pool_name=pool)


def test_deploying_over_another_line_is_refused() -> None:
    for other, pool in (("/srv/b/workspace", None), ("/srv/a/workspace", "there"), ("s3://b/w", "here")):
        with pytest.raises(UsageError, match=r"another name with --line, or, .* prefect deployment delete score/w-x"):
            check_ours({"score/w-x": deployed(other, pool)}, "/srv/a/workspace", "here")


def test_the_same_line_is_updated_however_its_workspace_is_spelt(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "w")
    for other in (f"{tmp_path}/w", f"{tmp_path}/link", f"{tmp_path}/x/../w"):
        check_ours({"score/w-x": deployed(other, "here")}, f"{tmp_path}/w", "here")
    check_ours({"score/w-x": deployed("s3://b/w/")}, "s3://b/w", "here")


def test_deployments_of_an_older_entrypoint_must_be_deployed_again() -> None:
    def made(entrypoint: str, *tags: str, pool: str | None = "here") -> Any:
        return SimpleNamespace(
            parameters={"workspace": "/srv/a b"}, work_pool_name=pool, entrypoint=entrypoint, tags=["nelbo", *tags]
        )

    found = {
        "score/hourly": made("flows.orchestration.score"),
        "report/daily": made("flows.orchestration.report"),
        "score/caps-hourly": made("flows.orchestration.score", "line:caps", pool=None),
        "score/w-hourly": made("nelbo.flows.orchestration.score", "line:w"),
        "score/odd": SimpleNamespace(entrypoint=None),
    }
    plain, caps = say_former(former(found))
    assert plain.startswith("score/hourly, report/daily: deployed by nelbo 0.1, ")
    assert plain.endswith(
        "nelbo deploy --pool here --workspace '/srv/a b' && prefect deployment delete score/hourly"
        " && prefect deployment delete report/daily"
    )
    assert caps.endswith("nelbo serve --line caps --workspace '/srv/a b'")


def test_a_url_with_a_password_is_refused() -> None:
    with pytest.raises(ValueError, match="credentials"):
        planned(images="s3://key:secret@bucket/in")
