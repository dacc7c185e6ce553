"""prefect.yaml is held to what nelbo and Prefect really take, because Prefect passes over what it does not know."""

from pathlib import Path

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel

from flows.deployments import describe, plan, read_project
from flows.errors import UsageError

PROJECT = Path(__file__).parents[2] / "prefect.yaml"


def names(path: Path | None = None) -> list[str]:
    return [spec.full_name for spec in read_project(path).deployments]


def test_the_clone_and_the_package_have_one_file() -> None:
    assert PROJECT.resolve() == Path(__file__).parents[2] / "flows" / "prefect.yaml"
    assert names() == [
        "score/hourly",
        "score/on-landing",
        "train/weekly",
        "calibrate/weekly",
        "report/daily",
        "prune/monthly",
    ]


def test_prefect_reads_every_key_of_it() -> None:
    """Prefect's own model of the file, dumped, has all that the file says."""
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


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("schedules:", "scedules:", "scedules: Extra inputs are not permitted"),
        ("cron:", "crom:", "schedules.0.cron: Field required"),
        ("collision_strategy: ENQUEUE", "collision_strategy: WAIT", "'CANCEL_NEW' or 'ENQUEUE'"),
        ("- name: hourly\n  ", "- ", "name: Field required"),
        ("flows.orchestration.prune", "flows.orchestration.prone", "'flows.orchestration.prone': expected"),
        ("flows.orchestration.prune", "os.system", "'os.system': expected"),
        ("older_than: 90d", "older_then: 90d", "older_then"),
        ("older_than: 90d", "older_than: often", "older_than='often'"),
        ("batch_id:\n", "batch:\n", "a trigger sets batch, which score does not take"),
        ("- name: on-landing", "- name: hourly", "two deployments have the name score/hourly"),
        ("pull: []", "pull: [{prefect.deployments.steps.git_clone: {}}]", "pull"),
        ("name: nelbo\n", "name: [\n", "while parsing"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    text = PROJECT.read_text()
    assert old in text
    path = tmp_path / "prefect.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError) as refused:
        read_project(path)
    assert complaint in str(refused.value)


def test_code_in_yaml_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir [{tmp_path}/made]\n")
    with pytest.raises(UsageError):
        read_project(path)
    assert not (tmp_path / "made").exists()


def test_places_become_absolute_and_the_rest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"images": "in", "normal": "s3://bucket/good", "gate": "held", "workspace": "w"}
    found, left_out = plan(given, assignments=["epochs=7", "workers=2"])
    parameters = {f"{one.flow_name}/{one.name}": one.parameters for one in found}
    assert left_out == {}
    assert parameters["score/hourly"] == {
        "images": str(tmp_path / "in"),
        "new": True,
        "workers": 2,
        "workspace": str(tmp_path / "w"),
    }
    assert parameters["train/weekly"] == {
        "normal": "s3://bucket/good",
        "gate": str(tmp_path / "held"),
        "epochs": 7,
        "workers": 2,
        "workspace": str(tmp_path / "w"),
    }
    assert parameters["prune/monthly"] == {"older_than": "90d", "apply": True, "workspace": str(tmp_path / "w")}


def test_a_tilde_is_the_home_folder_of_who_deploys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    (hourly, *_), _ = plan({"images": "~/in", "workspace": "~/w"})
    assert (hourly.parameters["images"], hourly.parameters["workspace"]) == ("/home/ada/in", "/home/ada/w")


def test_what_lacks_a_folder_is_left_out() -> None:
    found, left_out = plan({"images": None, "normal": "/normal"})
    assert left_out == {"score/hourly": "--images", "score/on-landing": "--images"}
    assert [row["deployment"] for row in describe(found)] == [
        "train/weekly",
        "calibrate/weekly",
        "report/daily",
        "prune/monthly",
    ]
    # Nobody looks on, and no gate does.
    assert found[0].parameters["promote"] is False


def test_a_url_with_a_password_is_refused() -> None:
    with pytest.raises(ValueError, match="credentials"):
        plan({"images": "s3://key:secret@bucket/in"})
