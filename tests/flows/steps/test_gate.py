"""Training behind a gate: the model becomes the latest one only if it passes on held-out images."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_images, write_list

from nelbo.data import InputError
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.runner import Direct
from nelbo.flows.steps import train as training
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace

Trained = tuple[Path, dict[str, Any]]
Nelbo = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``normal`` (40 images) and ``blots`` (15), and ``list.csv`` of both; to train on, ``next`` and
    ``blotted`` (80 each)."""
    folder = tmp_path_factory.mktemp("held_out")
    normal = write_images(folder / "normal", 40, seed=21)
    blots = write_images(folder / "blots", 15, seed=22, blot=True)
    write_images(folder / "next", 80, seed=23)
    write_images(folder / "blotted", 80, seed=24, blot=True)
    rows = [(f"normal/{path.name}", 0, "test") for path in normal]
    rows += [(f"blots/{path.name}", 1, "train") for path in blots]
    write_list(folder / "list.csv", "path,label,split", rows)
    return folder


def options(normal: Path, workspace: Path, gate: Path, **more: Any) -> TrainOptions:
    given = {"image_size": (32, 32), "epochs": 12, **more}
    return TrainOptions(normal=str(normal), workspace=str(workspace), gate=str(gate), **given)


class Listener(Direct):
    """A runner that records what is announced and shown."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.shown: dict[str, Any] = {}

    def announce(self, event: str, subject: str, **facts: Any) -> None:
        self.events.append((event, subject, facts))

    def show(self, key: str, content: Any) -> None:
        self.shown[key] = content


@pytest.mark.usefixtures("known_networks")
def test_an_equal_candidate_is_promoted(held_out: Path, workspace: Path, trained: Trained) -> None:
    listener = Listener()
    chosen = options(held_out / "next", workspace, held_out / "list.csv")
    result = training.train_model(chosen, listener)
    assert json.dumps(result)
    gate = result["gate"]
    assert (result["promoted"], gate["passed"], gate["serving_id"]) == (True, True, trained[1]["model_id"])
    assert (gate["n_normal"], gate["n_anomalous"]) == (40, 15)
    assert gate["n_left_out"] == {"unusable": 0, "trained_on": 0, "calibrated_on": 0}
    assert [finding.partition(":")[0] for finding in gate["findings"]] == [
        "promise passed",
        "false alarms passed",
        "auroc passed",
        "misses passed",
        "sensitivity passed",
    ]
    assert catalog.find_model(Workspace.at(str(workspace)), "latest") == result["model_id"] != trained[1]["model_id"]
    (event,) = listener.events
    assert event == (
        "nelbo.model.promoted",
        f"model.{result['model_id']}",
        {
            "model_id": result["model_id"],
            "workspace": str(workspace),
            "calibration_id": result["calibration_id"],
            "replaces": trained[1]["model_id"],
        },
    )
    assert all(finding in listener.shown["gate"] for finding in gate["findings"])
    # Trained again, it is the serving model itself: nothing is compared or announced.
    again = Listener()
    result = training.train_model(chosen, again)
    assert (result["promoted"], result["gate"]["passed"]) == (True, True)
    assert "nothing to compare" in result["gate"]["findings"][0]
    assert again.events == []


def test_a_blind_candidate_is_not_promoted(nelbo: Nelbo, held_out: Path, workspace: Path, trained: Trained) -> None:
    """It was trained on images with blots, and so takes them for normal."""
    before = (workspace / "latest.json").read_bytes()
    asked = ["--normal", held_out / "blotted", "--gate", held_out / "list.csv", "--set", "image_size=32"]
    at = ["--workspace", workspace, "--json", "--no-prefect"]
    code, out, err = nelbo("train", *asked, "--set", "epochs=12", *at)
    assert code == 0
    result = json.loads(out)
    assert (result["promoted"], result["gate"]["passed"]) == (False, False)
    failed = [finding for finding in result["gate"]["findings"] if " failed: " in finding]
    assert "misses failed: 15 of 15" in " ".join(failed)
    latest = trained[1]["model_id"]
    for finding in failed:
        assert f"model {result['model_id']} is not promoted, latest stays {latest}: {finding}" in err
    assert catalog.find_model(Workspace.at(str(workspace)), "latest") == latest
    assert json.loads((workspace / "latest.json").read_bytes())["model_id"] == json.loads(before)["model_id"]
    # The model is kept and calibrated, so that people can examine it.
    assert pointers.current_calibration(Workspace.at(str(workspace)), result["model_id"]) == result["calibration_id"]
    assert not list((workspace / "checkpoints").iterdir())


def no_news(workspace: Path) -> list[Path]:
    """The folders that a refusal must leave unchanged."""
    return sorted(path for name in ("models", "calibrations", "checkpoints") for path in (workspace / name).rglob("*"))


def assert_refused(chosen: TrainOptions, kind: type[Exception], message: str) -> None:
    """Check that the training is refused before it starts."""
    before = no_news(Path(chosen.workspace))
    with pytest.raises(kind, match=message):
        execute("train", chosen, prefect=False)
    assert no_news(Path(chosen.workspace)) == before


def test_a_gate_that_cannot_decide_is_refused_before_training(
    held_out: Path, images: Path, workspace: Path, tmp_path: Path
) -> None:
    normal = held_out / "next"
    assert_refused(options(normal, workspace, tmp_path / "none"), InputError, "none does not exist")
    few = tmp_path / "few"
    paths = write_images(few, 19, seed=31)
    for path in paths[:10]:
        shutil.copy(path, few / f"copy_of_{path.name}")
    (few / "notes.txt").write_text("not an image")
    assert_refused(
        options(normal, workspace, few),
        UsageError,
        "few leaves 19 normal images .*at least 20.* 0 are for training .* 0 are in a calibration, 11 are copies",
    )
    # The gate holds the images of the serving model itself.
    (trained,) = (workspace / "models").iterdir()
    counts = json.loads((trained / "model.json").read_text())["training"]
    n_seen, n_calibration = counts["n_train"] + counts["n_validation"], counts["n_calibration"]
    assert_refused(
        options(normal, workspace, images / "normal"),
        UsageError,
        f"leaves 0 normal images .* {n_seen} are for training or were .* {n_calibration} are in a calibration",
    )
    assert_refused(options(normal, workspace, normal), UsageError, "leaves 0 normal images .* 80 are for training")
    only_blots = write_list(few / "blots.csv", "path,label", ((path.name, 1) for path in paths))
    assert_refused(options(normal, workspace, only_blots), UsageError, "leaves 0 normal images")
    torn = write_list(few / "torn.csv", "path,label", [(paths[0].name, 0), (f"copy_of_{paths[0].name}", 1)])
    assert_refused(options(normal, workspace, torn), InputError, "and the same image (taken for|labelled)")
    # The option root applies to a second manifest, but not to a folder.
    table = write_list(tmp_path / "normal.csv", "path", ([path.name] for path in sorted(normal.iterdir())))
    assert_refused(options(table, workspace, few, root=str(normal)), UsageError, "few leaves 19 normal images")
    assert_refused(options(table, workspace, table, root=str(normal)), UsageError, "80 are for training")


def test_a_candidate_that_cannot_be_calibrated_is_refused_before_training(
    held_out: Path, workspace: Path, tmp_path: Path
) -> None:
    write_images(tmp_path / "in", 24, seed=32)
    assert_refused(
        options(tmp_path / "in", workspace, held_out / "normal"),
        UsageError,
        "fpr=0.05 needs 19 calibration images, more than half of the 24 normals, .* never passes the gate",
    )


def test_a_damaged_serving_model_is_found_before_training(held_out: Path, workspace: Path) -> None:
    from nelbo.vae_core import BundleError

    (weights,) = workspace.glob("models/*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert_refused(options(held_out / "next", workspace, held_out / "normal"), BundleError, "weights.safetensors")


@pytest.mark.usefixtures("known_networks")
def test_a_serving_model_without_calibration_is_compared_by_auroc(
    held_out: Path, workspace: Path, trained: Trained
) -> None:
    pointers.forget(Workspace.at(str(workspace)), trained[1]["model_id"])
    chosen = options(held_out / "next", workspace, held_out / "list.csv", promote=False, image_size=(16, 16), epochs=1)
    result = execute("train", chosen, prefect=False)
    findings = [finding.partition(":") for finding in result["gate"]["findings"]]
    assert [(rule, text.strip()) for rule, _, text in findings if "not applied" in rule] == [
        ("false alarms not applied", "the serving model is not calibrated"),
        ("misses not applied", "the serving model is not calibrated"),
    ]
    assert findings[2][0] in ("auroc passed", "auroc failed")
    # With promote=False, the gate only reports.
    assert result["promoted"] is False
    assert pointers.promoted(Workspace.at(str(workspace))) == trained[1]["model_id"]
