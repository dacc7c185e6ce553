"""Every load checks that contents match their id, also for files of version 0.1 as far as possible.

Version 0.1 wrote ``workspace_0_1.tar.xz``: 24 images of 16 x 16, a model of them, its calibration and two engines.
Most weights of a layer are equal, so that it compresses well.
"""

import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from scored import add_calibration

import nelbo.flows.workspace.calibrations.identity
from nelbo import vae_core
from nelbo.data import COMMIT, read_table
from nelbo.flows.inference.models import load_model, read_engine
from nelbo.flows.workspace.calibrations.calibration import read_calibration
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.vae_core import BundleError, EngineError

Nelbo = Callable[..., tuple[int, str, str]]

MODEL, CALIBRATION = "m430ca61608ac69bc", "c7398abfa5a5a43be"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder that holds a workspace of version 0.1 and its images."""
    with tarfile.open(Path(__file__).parent / "workspace_0_1.tar.xz") as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


@pytest.fixture
def workspace(old: Path) -> Workspace:
    return Workspace.at(str(old / "workspace"))


def edit(folder: Path, name: str, **changes: Any) -> None:
    """Change a JSON file, and its checksum to match."""
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))
    fit_checksums(folder)


def fit_checksums(folder: Path) -> None:
    sums = json.loads((folder / COMMIT).read_text())
    (folder / COMMIT).write_text(
        json.dumps({name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sums})
    )


def test_a_workspace_of_version_0_1_is_read(old: Path, workspace: Workspace, nelbo: Nelbo) -> None:
    calibration = read_calibration(workspace, CALIBRATION)
    assert (calibration.model_id, calibration.threshold.value) == (MODEL, 1.5731925964355469)
    code, out, err = nelbo("verify", "--workspace", workspace.root, "--json")
    assert code == 0, err
    assert json.loads(out) == {
        "model_id": MODEL,
        "calibration_id": CALIBRATION,
        "calibrations": [CALIBRATION],
        "engines": ["keras", "onnx"],
        "ok": True,
    }
    # That version wrote no ids of engines: a warning says so one time, and the engine is not refused.
    assert err.count("engines/m430ca61608ac69bc/onnx was made by nelbo 0.1, without an id") == 1
    code, out, err = nelbo("score", old / "images", "--workspace", workspace.root, "--json", "--no-prefect")
    assert code == 0, err
    (scores,) = (old / "workspace" / "scores").rglob("*.parquet")
    # Exactly the numbers with which 0.1 calibrated.
    expected = read_table(workspace.calibrations / CALIBRATION / "scores.parquet")
    found = read_table(scores)
    peaks = [
        dict(zip(of["relative_path"].to_pylist(), of["anomaly_score"].to_pylist(), strict=True))
        for of in (found, expected)
    ]
    assert peaks[0] == pytest.approx(peaks[1], rel=1e-4, abs=1e-4)
    # That version kept no looks of training images to compare with.
    said = dict(zip(*(found[name].to_pylist() for name in ("verdict", "why")), strict=True))
    assert said["normal"] is None
    assert re.fullmatch(r".* stands? out.*\. (None|\d+) of 24 normal images scores? as high\.", said["anomalous"])
    assert "training" not in said["anomalous"]


@pytest.mark.parametrize("made_by", ["0.1", "now"])
@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": {"value": 9.0, "fpr": 0.1, "objective": "conformal", "n_calibration": 24}},
        {"model_id": "m1"},
        {"statistic": "nelbo"},
        {"heatmap_top": 1.0},
        {"calibration_id": "c1"},
        {"threshold": {}},
    ],
)
def test_an_edited_calibration_with_matching_checksums_is_refused(
    workspace: Workspace, made_by: str, changes: dict[str, Any]
) -> None:
    calibration_id = CALIBRATION if made_by == "0.1" else add_calibration(workspace, model_id=MODEL).calibration_id
    read_calibration(workspace, calibration_id)
    edit(workspace.calibrations / calibration_id, "calibration.json", **changes)
    with pytest.raises(UsageError, match=r"holds calibration c[0-9a-f]{16} and says .* changed or moved .* Restore it"):
        read_calibration(workspace, calibration_id)


def test_calibrations_whose_folders_were_swapped_are_refused(workspace: Workspace) -> None:
    other = add_calibration(workspace, model_id=MODEL).calibration_id
    folders = [workspace.calibrations / name for name in (CALIBRATION, other)]
    folders[0].rename(workspace.root / "aside")
    folders[1].rename(folders[0])
    (workspace.root / "aside").rename(folders[1])
    for name in (CALIBRATION, other):
        with pytest.raises(UsageError, match="changed or moved"):
            read_calibration(workspace, name)


def test_scores_of_another_calibration_are_refused(workspace: Workspace) -> None:
    one, other = (workspace.calibrations / add_calibration(workspace, n=n).calibration_id for n in (100, 150))
    shutil.copy(other / "scores.parquet", one / "scores.parquet")
    fit_checksums(one)
    with pytest.raises(UsageError, match="changed or moved"):
        read_calibration(workspace, one.name)


def test_rows_of_0_1_hashed_by_another_arrow_are_read_with_a_warning(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Version 0.1 hashed rows in Arrow's stream format, which may differ between versions of Arrow."""
    monkeypatch.setattr(nelbo.flows.workspace.calibrations.identity, "_id_of_0_1", lambda *_: "c0")
    with pytest.raises(UsageError, match="holds calibration c0"):
        read_calibration(workspace, CALIBRATION)
    monkeypatch.setattr(pa, "__version__", "99.0")
    for _ in range(2):
        assert read_calibration(workspace, CALIBRATION).calibration_id == CALIBRATION
    assert caplog.text.count("whether it was changed since cannot be told") == 1


@pytest.mark.parametrize("command", ["score", "report", "calibrate", "verify"])
def test_every_command_refuses_an_edited_calibration(
    old: Path, workspace: Workspace, nelbo: Nelbo, command: str
) -> None:
    at = ("--workspace", workspace.root)
    arguments: dict[str, tuple[object, ...]] = {
        "score": ("score", old / "images", *at, "--no-prefect"),
        "report": ("report", "--batch", "b1", *at, "--no-prefect"),
        "calibrate": ("calibrate", "--use", CALIBRATION, *at, "--no-prefect"),
        "verify": ("verify", *at),
    }
    if command == "report":
        assert nelbo(*arguments["score"], "--batch-id", "b1")[0] == 0
    edit(workspace.calibrations / CALIBRATION, "calibration.json", heatmap_top=1.0)
    code, out, err = nelbo(*arguments[command])
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    assert "changed or moved after it was made" in err.strip().splitlines()[-1]


def test_verify_names_everything_that_is_wrong(workspace: Workspace, nelbo: Nelbo) -> None:
    code, out, _ = nelbo("verify", "--workspace", workspace.root, "--verbose")
    assert code == 0
    assert [line.split() for line in out.strip().splitlines()[:-3]] == [
        ["model", MODEL[:8], "ok"],
        ["engine", "keras", "ok"],
        ["engine", "onnx", "ok"],
        ["calibration", CALIBRATION[:8], "ok,", "in", "use"],
    ]
    edit(workspace.calibrations / CALIBRATION, "calibration.json", heatmap_top=1.0)
    edit(workspace.models / MODEL, "model.json", model_id="m1")
    code, out, err = nelbo("verify", "--workspace", workspace.root)
    assert (code, out) == (2, "")
    assert err.count("after it was made") == 2
    assert f"holds model {MODEL} and says that it is m1" in err


def test_an_engine_of_an_edited_model_is_refused(workspace: Workspace) -> None:
    """The engine holds everything that it scores with, but it no longer belongs to that model."""
    config = json.loads((workspace.models / MODEL / "model.json").read_text())["config"]
    edit(workspace.models / MODEL, "model.json", config=config | {"statistic": "nelbo"})
    with pytest.raises(BundleError, match="holds model m"):
        load_model(workspace, MODEL, "onnx")


def test_an_engine_of_another_model_is_refused(workspace: Workspace) -> None:
    folder = workspace.engine(MODEL, "onnx")
    config = json.loads((folder / "engine.json").read_text())["config"]
    edit(folder, "engine.json", config=config | {"statistic": "nelbo"})
    with pytest.raises(EngineError, match="was made of a model with another configuration"):
        load_model(workspace, MODEL, "onnx")
    edit(folder, "engine.json", model_id="m1")
    with pytest.raises(UsageError, match="holds engine onnx of model m1"):
        read_engine(folder)


def test_an_engine_that_is_replaced_while_it_is_read_is_read_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader has read the first files of the old engine and the others of the new one."""
    folder = workspace.engine(MODEL, "onnx")
    load, reads = vae_core.load_exported, []

    def interrupted(local: Path) -> Any:
        reads.append(local)
        if len(reads) == 1:
            (folder / COMMIT).write_text((folder / COMMIT).read_text() + " ")
            raise BundleError("references.safetensors has another SHA-256")
        return load(local)

    monkeypatch.setattr(vae_core, "load_exported", interrupted)
    assert read_engine(folder).model_id == MODEL
    assert len(reads) == 2
    (folder / "scores.onnx").write_bytes(b"")
    # If a second reading finds the same damage, the engine is damaged.
    with pytest.raises(BundleError, match=r"scores\.onnx has SHA-256"):
        read_engine(folder)
    assert len(reads) == 3


def test_a_model_with_unknown_preprocessing_is_refused(workspace: Workspace) -> None:
    made = json.loads((workspace.engine(MODEL, "onnx") / "engine.json").read_text())["preprocessing"]
    for changes, message in (({"fit": "squeeze"}, "fit='squeeze'"), ({"height": 32}, "but the network takes")):
        edit(workspace.engine(MODEL, "onnx"), "engine.json", preprocessing=made | changes)
        with pytest.raises(BundleError, match=message):
            read_engine(workspace.engine(MODEL, "onnx"))
