"""A real process is killed during training, and the same command runs again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from commands import train
from safetensors import safe_open
from scored import MODEL, stub_workspace
from synthetic import write_images

from nelbo.data import read_table
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.steps import train as training
from nelbo.flows.steps.calibrate import Calibrated
from nelbo.flows.steps.fit import Fitted
from nelbo.flows.workspace import catalog, pointers

SETTINGS = {"epochs": 40, "patience": 40, "batch_size": 4, "warmup_epochs": 20, "denoising": 0.3}


def rows_of(checkpoint: Path) -> list[dict[str, float]]:
    with safe_open(checkpoint, framework="numpy") as file:
        return json.loads(file.metadata()["state"])["rows"]


def kill_after(n_epochs: int, folder: Path, workspace: Path) -> list[dict[str, float]]:
    """Start training, and kill it after some epochs; the rows of its checkpoint."""
    settings = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    nelbo = [Path(sys.executable).with_name("nelbo"), "train", "--normal", folder, "--workspace", workspace]
    nelbo += ["--set", "image_size=32", "--no-prefect", *settings]
    process = subprocess.Popen(nelbo, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 240
        while True:
            assert process.poll() is None, process.communicate()[1][-2000:]
            assert time.monotonic() < deadline
            found = list(workspace.glob("checkpoints/*/checkpoint.safetensors"))
            if found and len(rows_of(found[0])) >= n_epochs:
                break
            time.sleep(0.002)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    return rows_of(found[0])


@pytest.mark.slow
def test_a_training_killed_twice_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    write_images(tmp_path / "in", 60, seed=0)
    first = kill_after(3, tmp_path / "in", tmp_path / "killed")
    second = kill_after(len(first) + 3, tmp_path / "in", tmp_path / "killed")
    assert 3 <= len(first) < len(second) < 40
    # The second run continued after the first one's epochs, whose timings it kept.
    assert second[: len(first)] == first
    # Images are decoded one time: the pixels that the killed runs left are reused.
    assert list((tmp_path / "killed").glob("checkpoints/*/cache/pixels.bin"))
    found, expected = (
        train(tmp_path / "in", tmp_path / name, image_size=(32, 32), **SETTINGS) for name in ("killed", "whole")
    )
    for name in ("model_id", "calibration_id", "threshold", "n_train"):
        assert found[name] == expected[name], name
    history = [
        read_table(tmp_path / name / "history" / f"{expected['model_id']}.parquet") for name in ("whole", "killed")
    ]
    assert history[1]["images_per_s"].to_pylist()[: len(second)] == [row["images_per_s"] for row in second]
    timings = ["images_per_s", "seconds"]
    assert history[0].drop(timings).equals(history[1].drop(timings))
    for folder in ("checkpoints", "_staging"):
        assert not list((tmp_path / "killed" / folder).iterdir()), folder


@pytest.mark.parametrize("step", ["calibrate_model", "judge_candidate", "Run.record", "pointers.promote", "clean_up"])
def test_a_training_killed_after_its_model_was_kept_is_finished_by_the_same_command(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint is kept, so nothing is trained again; the latest model has passed the gate and has a row."""
    root = tmp_path / "workspace"
    write_images(tmp_path / "normal", 60, seed=1)
    write_images(tmp_path / "held_out", 20, seed=2)
    workspace = stub_workspace(root)
    (root / "latest.json").unlink()
    calibration_id = catalog.calibration_ids(workspace)[0]
    done: list[str] = []

    def fit(*_: Any) -> Fitted:
        done.append("fit")
        return Fitted(MODEL, 40, 5, 15)

    def calibrate_model(*_: Any) -> Calibrated:
        pointers.use_calibration(workspace, MODEL, calibration_id)
        return Calibrated(calibration_id, 0)

    for name, stub in (
        ("fit", fit),
        ("calibrate_model", calibrate_model),
        ("clean_up", lambda *_: done.append("clean_up")),
        ("read_card", lambda *_: ""),
        ("write_card", lambda *_: None),
        ("read_table", lambda *_: pa.table({"epoch": [1]})),
    ):
        monkeypatch.setattr(training, name, stub)
    monkeypatch.setattr("nelbo.flows.steps.judge.load_model", lambda *_: None)
    normal, gate = (str(tmp_path / name) for name in ("normal", "held_out"))
    options = TrainOptions(normal=normal, gate=gate, workspace=str(root), workers=1, image_size=(32, 32))
    rows_before = len(list(root.glob("runs/*")))
    with monkeypatch.context() as patch:
        patch.setattr(f"nelbo.flows.steps.train.{step}", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            execute("train", options, prefect=False)
    assert "clean_up" not in done
    n_rows = len(list(root.glob("runs/*"))) - rows_before
    assert n_rows == (step in ("pointers.promote", "clean_up"))
    # The latest model always has a row.
    assert pointers.promoted(workspace) is None or n_rows
    result = execute("train", options, prefect=False)
    assert (pointers.promoted(workspace), pointers.current_calibration(workspace, MODEL)) == (MODEL, calibration_id)
    assert done[-1] == "clean_up"
    assert result["promoted"] is result["gate"]["passed"] is True
    assert (workspace.runs / f"{result['run_id']}.parquet").exists()
