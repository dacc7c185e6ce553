"""The last three lines of each command: they are harmless, and the last is a command that a shell accepts."""

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reviewing import review
from scored import MODEL, add_batch, add_calibration

from nelbo.flows.cli.endings import _ENDINGS, beginning, ending, quoted
from nelbo.flows.cli.invocation import app, read_options
from nelbo.flows.commands import COMMANDS
from nelbo.flows.options.options import ScoreOptions, TrainOptions, UpgradeOptions, WatchOptions
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import record_review

Nelbo = Callable[..., tuple[int, str, str]]

SCORED = {
    "batch_id": "night-1",
    "model_id": "m0123456789abcdef",
    "calibration_id": None,
    "n_images": 2630,
    "n_scored": 2624,
    "n_not_scored": 6,
    "n_anomalous": 0,
    "n_review": 0,
    "differs": [],
    "report": "w/reports/night-1.html",
}


def is_taken(line: str) -> bool:
    """Whether the command line accepts a line, apart from placeholders for what only the reader knows."""
    nelbo, name, *arguments = shlex.split(line)
    assert nelbo == "nelbo"
    context = app.make_context("nelbo", [name, *arguments])
    built = app.get_command(context, name)
    assert built is not None
    values = built.make_context(name, arguments, context).params
    for of_the_line in ("as_json", "verbose", *(("prefect",) if COMMANDS[name].is_flow else ())):
        values.pop(of_the_line, None)
    return isinstance(read_options(COMMANDS[name], **values), COMMANDS[name].options)


def last_lines(answer: tuple[int, str, str]) -> list[str]:
    code, out, err = answer
    assert code == 0, err
    *_, happened, means, line = out.splitlines()
    assert happened.endswith(".")
    assert means.endswith(".")
    assert is_taken(line)
    return [happened, means, line]


def test_each_command_says_what_happened_what_it_means_and_what_to_do(
    nelbo: Nelbo, images: Path, workspace: Path, tmp_path: Path
) -> None:
    at = ("--workspace", workspace)
    elsewhere = ("--workspace", tmp_path / "w")
    normal, new = images / "normal", images / "new"
    said = {
        "ingest": last_lines(nelbo("ingest", new, *at, "--no-prefect")),
        "score": last_lines(nelbo("score", new, *at, "--no-prefect")),
        "uncalibrated": last_lines(nelbo("score", new, "--uncalibrated", *at, "--no-prefect")),
        "report": last_lines(nelbo("report", *at, "--no-prefect")),
        "calibrate": last_lines(nelbo("calibrate", "--normal", normal, "--fpr", "0.1", *at, "--no-prefect")),
        "compare": last_lines(nelbo("calibrate", "--compare", *at)),
        "sensitivity": last_lines(nelbo("sensitivity", *at, "--no-prefect")),
        "prune": last_lines(nelbo("prune", "--older-than", "1h", *at, "--no-prefect")),
        "compact": last_lines(nelbo("compact", *at, "--no-prefect")),
        **{name: last_lines(nelbo(name, *at)) for name in ("models", "batches", "calibrations", "verify", "doctor")},
        "first": last_lines(nelbo("ingest", new, *elsewhere, "--no-prefect")),
        "none": last_lines(nelbo("models", *elsewhere)),
        "unscored": last_lines(nelbo("batches", *elsewhere)),
    }
    assert said["ingest"][0].startswith("28 files listed as batch b")
    assert said["ingest"][2] == f"nelbo score {new} --workspace {workspace}"
    assert said["first"][2] == f"nelbo train --normal {new} --workspace {tmp_path / 'w'}"
    assert "without verdicts" in said["uncalibrated"][0]
    assert "threshold" not in said["none"][1]
    # The suggested next command works, too.
    for name in ("report", "score", "calibrate", "compare", "calibrations", "models", "sensitivity", "prune"):
        _, *words = shlex.split(said[name][2])
        if words[0] != "dashboard":
            assert nelbo(*words)[0] == 0, said[name]


def test_every_command_has_last_lines() -> None:
    # The dashboard runs until it is stopped, so it has no last lines.
    assert set(_ENDINGS) == (set(COMMANDS) - {"dashboard"}) | {"compare"}


@pytest.mark.parametrize(
    ("found", "happened", "means", "line"),
    [
        ({"n": 2}, "2 changes to make.", "Nothing is changed yet.", "upgrade --config my.toml --apply"),
        ({"n": 2, "by_hand": ["unset X"]}, "2 changes to make; 1 thing is left to do by hand.", "Nothing", "upgrade"),
        ({"n": 0}, "0 changes to make.", "Nothing of an older version is left", "batches"),
        ({"n": 1, "applied": True}, "1 change made.", "Nothing of an older version is left", "batches"),
        ({"n": 0, "by_hand": ["unset X", "b"]}, "0 changes to make; 2 things are left", "First, unset X.", "batches"),
    ],
)
def test_an_upgrade_says_what_is_left_to_do(
    found: dict[str, Any], happened: str, means: str, line: str, tmp_path: Path
) -> None:
    (tmp_path / "my.toml").touch()
    options = UpgradeOptions(workspace=str(tmp_path), config=str(tmp_path / "my.toml"))
    said = ending("upgrade", {"applied": False, "changes": [], "by_hand": [], **found}, options)
    assert said.happened.startswith(happened)
    assert said.means.startswith(means)
    assert said.command.replace(f"{tmp_path}/", "").startswith(f"nelbo {line}")
    assert is_taken(said.command)


def test_an_upgrade_prints_its_last_lines(nelbo: Nelbo, tmp_path: Path) -> None:
    happened, _, line = last_lines(nelbo("upgrade", "--workspace", tmp_path))
    assert happened == "0 changes to make."
    assert line == f"nelbo batches --workspace {tmp_path}"


def test_scoring_says_when_nothing_is_new_or_batches_are_several(nelbo: Nelbo, images: Path, workspace: Path) -> None:
    scoring = ("score", images / "new", "--new", "--min-age", "0", "--workspace", workspace, "--no-prefect")
    assert " anomalous" in last_lines(nelbo(*scoring))[0]
    happened, means, line = last_lines(nelbo(*scoring))
    assert happened == f"Nothing new in {images / 'new'}."
    assert means == "Every file there has been scored before."
    assert line == f"nelbo batches --workspace {workspace}"


def test_json_is_the_result_and_nothing_else(nelbo: Nelbo, workspace: Path) -> None:
    code, out, _ = nelbo("models", "--workspace", workspace, "--json", "--verbose")
    assert code == 0
    (model,) = json.loads(out)["models"]
    assert len(model["model_id"]) == 17


DARKER = {"name": "brightness", "sentence": "the images are darker"}
PROMISE = "false-alarm rate promised: 5 %"


@pytest.mark.parametrize(
    ("more", "happened", "means"),
    [
        ({}, "2,624 images scored, without verdicts, 6 files not scored (batch night-1, model m0123456)", "stranger"),
        ({"n_scored": 0, "calibration_id": "c1"}, "0 of 0 images anomalous", "No image could be scored"),
        ({"calibration_id": "c1", "n_anomalous": 37, "n_review": 12}, "37 of 2,624 images anomalous, 12 for", "5 %."),
        ({"calibration_id": "c1", "cannot_see": "It cannot see"}, "0 of 2,624 images anomalous", "It cannot see."),
        ({"calibration_id": "c1", "differs": [DARKER], "cannot_see": "x"}, "0 of", "The images are darker. What is"),
    ],
)
def test_doubts_about_verdicts_come_first(more: dict[str, Any], happened: str, means: str, tmp_path: Path) -> None:
    said = ending("score", {**SCORED, "promise": PROMISE, **more}, ScoreOptions(images="new", workspace=str(tmp_path)))
    assert said.happened.startswith(happened)
    assert means in said.means


@pytest.mark.parametrize("by", ["labels", "reviews", "nobody"])
def test_chance_explains_no_defect_that_people_know_of(by: str, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    calibration = add_calibration(workspace, review_fpr=None)
    paths = [f"{i}.png" for i in range(100)]
    known = {"anomalous": [i < 8 for i in range(100)], "labelled": by == "labels"}
    rows = add_batch(workspace, "night-1", paths, calibration, not_scored=0.0, **known)
    if by == "reviews":
        image_id = rows["image_id"][0].as_py()
        record_review(workspace, review(0, image_id=image_id, model_id=MODEL, decision="anomalous"))
    found = {"calibration_id": calibration.calibration_id, "model_id": MODEL, "n_scored": 100, "n_anomalous": 8}
    said = ending("score", {**SCORED, "promise": PROMISE, **found}, ScoreOptions(images="new", workspace=str(tmp_path)))
    opening = "The count can be chance" if by == "nobody" else "The count alone would not tell"
    assert said.means.startswith(opening)


@pytest.mark.parametrize(
    ("more", "parts", "line"),
    [
        ({}, ["454 images, and is the latest", "5 %; it finds 83 % of simulated defects"], "nelbo score DIR --model"),
        ({"calibration_id": None}, ["It is not calibrated"], "--uncalibrated"),
        ({"sensitivity": {"blind": True}}, ["but it cannot see simulated defects"], "nelbo score DIR --model"),
        ({"sensitivity": None, "promoted": False}, ["and is not promoted."], "nelbo score DIR --model"),
        ({"promoted": False, "gate": {"failed": ["it is worse"]}}, ["not promoted: it is worse."], "nelbo score"),
        ({"tried": [{"name": "features", "kept": True}]}, ["features of 1 candidate"], "nelbo score DIR"),
    ],
)
def test_training_says_what_is_promised_and_whether_it_sees(
    more: dict[str, Any], parts: list[str], line: str, tmp_path: Path
) -> None:
    trained = {
        "model_id": "m0123456789abcdef",
        "calibration_id": "c1",
        "n_train": 454,
        "n_validation": 0,
        "promoted": True,
        "promise": "false-alarm rate promised: 5 %",
        "sensitivity": {"blind": False, "found": 0.83, "auroc": 0.95},
    }
    said = ending("train", trained | more, TrainOptions(normal="-odd/good", workspace=str(tmp_path)))
    for part in parts:
        assert part in f"{said.happened} {said.means}"
    assert line in said.command
    assert is_taken(said.command)


def test_new_images_beside_the_normal_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    options = TrainOptions(normal=str(tmp_path / "good"), workspace=str(tmp_path / "w"))
    trained = {"model_id": "m1", "calibration_id": None, "n_train": 1, "n_validation": 0, "promoted": True}
    line = ending("train", trained | {"sensitivity": None}, options).command
    assert line == f"nelbo score {tmp_path / 'new'} --model m1 --uncalibrated --workspace {tmp_path / 'w'}"


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_name_is_harmless_and_survives_a_shell(name: str) -> None:
    word = quoted(name)
    assert word.isprintable()
    if name.isprintable():
        assert shlex.split(word) == [name]


def test_bash_gets_the_names_that_terminals_might_obey() -> None:
    names = [
        "a\x1b]0;title\x07'\\b",
        "line\nline",
        "\u202egnp.x",
        b"\xff.png".decode("utf-8", "surrogateescape"),
        "$(id)",
    ]
    line = " ".join(map(quoted, names))
    done = subprocess.run(["/bin/bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    expected = [name.encode("utf-8", "surrogateescape") for name in names]
    assert done.stdout.split(b"\0")[:-1] == expected


def test_hostile_names_in_a_result_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    hostile = "x\x1b[31m\ny"
    options = SimpleNamespace(images=f"-{hostile}", root=None, workspace=str(tmp_path))
    found = {"batch_id": "b1", "n_images": 1, "n_unusable": 0, "n_folders_unlisted": 0}
    said = ending("ingest", found | {"data": [{"sentence": hostile}]}, options)
    assert all(line.isprintable() for line in said)
    assert said.command.startswith("nelbo train --normal $'./-x\\x1b[31m\\x0ay'")


WATCHED = {
    "watched": "/in",
    "model_id": "m0123456789abcdef",
    "calibration_id": "c0123456789abcdef",
    "engine": "openvino",
    "n_images": 1200,
    "n_not_scored": 1,
    "n_anomalous": 3,
    "n_review": 0,
    "batches": ["w1", "w2"],
    "report": "w/reports/w2.html",
}


def test_watching_says_what_it_watches_and_what_it_did(tmp_path: Path) -> None:
    options = WatchOptions(images="in", workspace=str(tmp_path))
    first = beginning({**WATCHED, "watching": "/in"}, options)
    assert first == ("Watching /in with model m0123456 (openvino) and calibration c0123456; Ctrl-C ends it.")
    happened, means, line = ending("watch", WATCHED, options)
    assert happened == ("1,200 files of /in scored and published in 2 batches: 3 anomalous, 1 not scored.")
    assert means.endswith("the page of the last batch is w/reports/w2.html.")
    assert is_taken(line)
    nothing = {**WATCHED, "n_images": 0, "batches": [], "report": None}
    happened, _, line = ending("watch", nothing, options)
    assert happened == "Nothing new landed."
    assert is_taken(line)
