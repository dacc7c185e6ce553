"""Engines of a workspace's models: how they are made, refused, checked before each run, and chosen."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commands import assert_refused
from faults import remake, with_zeros

from nelbo import vae_core
from nelbo.data import MEASURES, STATISTICS, read_table
from nelbo.flows.inference import speeds
from nelbo.flows.inference.engines import choose_engine
from nelbo.flows.inference.models import read_engine
from nelbo.flows.options.options import ExportOptions, PruneOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.steps import export as exporting
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.calibrations.calibration import calibration_of
from nelbo.flows.workspace.layout import Workspace

Nelbo = Callable[..., tuple[int, str, str]]
Trained = tuple[Path, dict[str, Any]]

#: The command line in a Python without Keras, its backends, and other slow imports that scoring a few images does not
#: need.
WITHOUT_KERAS = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name in ("keras", "tensorflow", "jax", "torch", "scipy.stats", "prefect", "distributed", "sklearn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
from nelbo.flows.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def with_engines(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained workspace, its model exported for each engine."""
    workspace = Path(shutil.copytree(trained[0], tmp_path_factory.mktemp("engines") / "workspace"))
    for engine in vae_core.ENGINES:
        options = ExportOptions(engine=engine, workspace=str(workspace))
        made = execute("export", options, prefect=False)
        assert made["difference"] < 1e-5
        assert made["n_images"] == trained[1]["n_calibration"]
        # The compared verdicts lie on both sides of the threshold.
        assert 0 < made["n_above_threshold"] < made["n_images"] + made["n_painted"]
        assert made["machine"] == vae_core.machine()
        assert set(made["images_per_s"]) == {"keras", engine}
        assert Path(made["path"]) == workspace / "engines" / trained[1]["model_id"] / engine
    assert list((workspace / "_staging").iterdir()) == []
    return workspace


@pytest.fixture
def workspace(with_engines: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(with_engines, tmp_path / "workspace"))


def spoil(workspace: Path, engine: str, factor: float) -> None:
    """Change an engine's reference scores, with matching checksums, as if its package had changed."""
    place = Workspace(workspace)
    expected = read_engine(place.engine(catalog.find_model(place, "latest"), engine)).expected
    remake(workspace, engine, made_with="1.0", expected=expected._replace(nelbo=expected.nelbo * factor))


def test_all_engines_give_the_same_rows(workspace: Path, images: Path, nelbo: Nelbo) -> None:
    tables, at = {}, ("--workspace", workspace, "--no-prefect")
    for engine in vae_core.ENGINES:
        code, out, err = nelbo("score", images / "new", "--engine", engine, "--json", *at)
        assert code == 0, err
        assert json.loads(out)["engine"] == engine
        tables[engine] = read_table(Path(json.loads(out)["scores"]))
        assert set(tables[engine]["engine"].to_pylist()) == {engine}
    keras = tables.pop("keras")
    scored = np.asarray(keras["nelbo_nats"].is_valid())
    scale = np.abs(keras["distortion_nats"].to_numpy()) + keras["rate_nats"].to_numpy()
    for table in tables.values():
        for name in ("relative_path", "verdict", "reason", "p_value", "q_value", "label"):
            assert table[name].equals(keras[name]), name
        for name in ("nelbo_nats", "distortion_nats", "rate_nats"):
            off = np.abs(table[name].to_numpy() - keras[name].to_numpy()) / scale
            assert (off[scored] < 1e-5).all()


def test_scoring_with_an_exported_engine_needs_no_keras(workspace: Path, images: Path) -> None:
    image = images / "new" / "b" / "blot_3_000.png"
    command = [sys.executable, "-c", WITHOUT_KERAS, "score", str(image), "--engine", "auto", "--json", "--no-prefect"]
    done = subprocess.run(
        [*command, "--workspace", str(workspace)], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["engine"] in ("openvino", "onnx")
    assert result["n_anomalous"] == 1
    assert f"engine {result['engine']}" in Path(result["report"]).read_text()


def test_no_run_starts_if_the_reference_images_score_differently(workspace: Path, images: Path, nelbo: Nelbo) -> None:
    for engine in vae_core.ENGINES:
        spoil(workspace, engine, 1.001)
    before = sorted(workspace.rglob("*"))
    for engine, package in (("openvino", "openvino 20"), ("onnx", "onnx 1."), ("keras", "keras 3.")):
        answer = nelbo("score", images / "new", "--engine", engine, "--workspace", workspace, "--no-prefect")
        assert_refused(
            answer, f"engine {package}", "reference images", "the scale of nelbo", "version 1.0", "nelbo export"
        )
    assert sorted(workspace.rglob("*")) == before


def test_auto_takes_the_fastest_that_passes(workspace: Path, images: Path, nelbo: Nelbo) -> None:
    place = Workspace(workspace)
    model_id, at = catalog.find_model(place, "latest"), ("--workspace", workspace, "--no-prefect")

    def chosen() -> tuple[str, str]:
        code, out, err = nelbo("score", images / "new", "--engine", "auto", "--json", *at)
        assert code == 0, err
        return json.loads(out)["engine"], err

    for engine, speed in (("onnx", 3.0), ("openvino", 2.0)):
        remake(workspace, engine, images_per_s={"keras": 1.0, engine: speed})
    assert chosen() == ("onnx", "")
    spoil(workspace, "onnx", 1.001)
    engine, said = chosen()
    assert engine == "openvino"
    assert "engine onnx is passed over: engine onnx 1." in said
    (place.engine(model_id, "openvino") / "scores.xml").write_text("<net/>")
    engine, said = chosen()
    assert engine == "keras"
    assert "scores.xml has SHA-256" in said


def test_impossible_exports_are_refused(
    trained: Trained, workspace: Path, images: Path, tmp_path: Path, nelbo: Nelbo
) -> None:
    at = ("--workspace", workspace, "--no-prefect")
    before = sorted(path for path in workspace.rglob("*") if path.is_file())
    # No engine is that exact.
    answer = nelbo("export", "--engine", "openvino", "--tolerance", "1e-12", *at)
    assert_refused(answer, "engine openvino 20", "off, relative to the scale of")
    assert_refused(nelbo("export", "--engine", "tensorrt", *at), "'keras', 'openvino' or 'onnx'")
    assert_refused(nelbo("export", "--engine", "onnx", "--normal", tmp_path / "nowhere", *at), "nowhere")
    (tmp_path / "empty").mkdir()
    assert_refused(nelbo("export", "--engine", "onnx", "--normal", tmp_path / "empty", *at), "holds no files")
    assert_refused(nelbo("export", "--engine", "onnx", "--model", "m0", *at), "model 'm0' is not in workspace")
    assert sorted(path for path in workspace.rglob("*") if path.is_file()) == before
    model_id = trained[1]["model_id"]
    shutil.rmtree(workspace / "engines")
    answer = nelbo("score", images / "new", "--engine", "onnx", *at)
    assert_refused(answer, f"model {model_id} has no engine onnx", f"nelbo export --model {model_id} --engine onnx")
    (workspace / "latest.json").write_text(json.dumps({"model_id": model_id}))
    assert_refused(nelbo("export", "--engine", "onnx", *at), "is not calibrated", "--normal DIR")


def test_an_engine_that_changes_a_verdict_is_refused(workspace: Path) -> None:
    place = Workspace(workspace)
    model_id = catalog.find_model(place, "latest")
    calibration = calibration_of(place, model_id)
    assert calibration is not None
    made = read_engine(place.engine(model_id, "onnx"))
    expected = read_table(workspace / "calibrations" / calibration.calibration_id / "scores.parquet")
    assert exporting._check_verdicts(expected, expected, calibration, made) == 0
    (column,) = (name for name in ("peak",) if name in expected.column_names)
    highest = np.argmax(expected[column].to_numpy())

    def with_peak(value: float) -> Any:
        values = expected[column].to_numpy().copy()
        values[highest] = value
        return expected.set_column(expected.schema.get_field_index(column), column, [values])

    threshold = calibration.threshold.value
    on_it = with_peak(threshold)
    # A score at the threshold is normal, one barely above it is anomalous; that difference is no change of verdict.
    assert exporting._check_verdicts(with_peak(threshold * (1 + 1e-6)), on_it, calibration, made) == 1
    with pytest.raises(vae_core.EngineError, match=r"engine onnx .* is refused: it changes the verdicts on 1 of"):
        exporting._check_verdicts(with_peak(threshold * 0.99), with_peak(threshold * 1.01), calibration, made)


def test_another_model_s_engine_is_refused(workspace: Path, images: Path, nelbo: Nelbo) -> None:
    remake(workspace, "onnx", model_id="m1")
    answer = nelbo("score", images / "new", "--engine", "onnx", "--workspace", workspace, "--no-prefect")
    assert_refused(answer, "holds engine onnx of model m1")


def test_engines_are_listed_verified_and_pruned_with_their_model(workspace: Path, nelbo: Nelbo) -> None:
    listing = ("--workspace", workspace, "--json")
    (model,) = json.loads(nelbo("models", *listing)[1])["models"]
    assert model["engines"] == "keras,onnx,openvino"
    assert json.loads(nelbo("verify", *listing)[1])["engines"] == ["keras", "onnx", "openvino"]
    assert json.loads(nelbo("doctor", *listing)[1])["engines"] == ["keras", "openvino", "onnx"]
    damaged = workspace / "engines" / model["model_id"] / "openvino" / "scores.bin"
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    assert_refused(nelbo("verify", "--workspace", workspace), "scores.bin has SHA-256", "the engine is damaged")
    (workspace / "latest.json").write_text("{}")
    shutil.rmtree(workspace / "scores", ignore_errors=True)
    for file in workspace.rglob("*"):
        os.utime(file, (0, 0))
    options = PruneOptions(older_than="1d", models=True, apply=True, workspace=str(workspace))
    execute("prune", options, prefect=False)
    assert not [file for file in (workspace / "engines").rglob("*") if file.is_file()]
    assert not (workspace / "models" / model["model_id"] / "model.json").exists()


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_an_engine_whose_peak_is_always_zero_is_refused(
    engine: str, workspace: Path, images: Path, nelbo: Nelbo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nelbo is right, but no image would ever be anomalous."""
    place = Workspace(workspace)
    folder = place.engine(catalog.find_model(place, "latest"), engine)
    (tmp_path / "scratch").mkdir()
    tampered = with_zeros(engine, read_engine(folder).files, "peak", tmp_path / "scratch")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("nelbo.vae_core.engines.exporting._compile", lambda *_: tampered)
        answer = nelbo("export", "--engine", engine, "--tolerance", "0.01", "--workspace", workspace, "--no-prefect")
        assert_refused(answer, f"engine {engine}", "peak")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    remake(workspace, engine, files=tampered)
    answer = nelbo("score", images / "new", "--engine", engine, "--workspace", workspace, "--no-prefect")
    assert_refused(answer, f"engine {engine}", "the same of all", "peak", "nelbo export")
    assert not (workspace / "scores").exists()


def test_scores_on_all_images_are_compared_in_every_number(workspace: Path) -> None:
    """All images are compared, and not only the references, which the graph gets right."""
    made = read_engine(Workspace(workspace).engine(catalog.find_model(Workspace(workspace), "latest"), "onnx"))
    random = np.random.default_rng(0)
    columns = {name: random.uniform(1, 5, 40) for name in MEASURES}
    expected = pa.table(columns)
    assert exporting._check_scores(expected, expected, made) == 0
    for name, column in STATISTICS.items():
        off = columns[column].copy()
        off[7] += 50
        with pytest.raises(
            vae_core.EngineError, match=rf"of 40 images 1 differ from Keras by more than 1e-05 .* in .*{name}"
        ):
            exporting._check_scores(pa.table(columns | {column: off}), expected, made)
        with pytest.raises(vae_core.EngineError, match=rf"gives all 40 images the same .*{name}"):
            exporting._check_scores(pa.table(columns | {column: np.zeros(40)}), expected, replace(made, tolerance=0.01))


def test_auto_measures_again_on_another_machine_and_keeps_what_it_found(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = Workspace(workspace)
    model_id = catalog.find_model(place, "latest")
    measured: list[set[str]] = []

    def images_per_s(engines: Any, _pixels: Any) -> dict[str, float]:
        measured.append(set(engines))
        return {name: {"keras": 100.0, "onnx": 150.0, "openvino": 50.0}[name] for name in engines}

    def chosen() -> str:
        # As in a new process.
        speeds._measured.cache_clear()
        return choose_engine(place, model_id, "auto")

    monkeypatch.setattr(vae_core, "images_per_s", images_per_s)
    caplog.set_level("INFO")
    # On the other machine it was the other way round.
    for engine, speed in (("onnx", 0.5), ("openvino", 9.0)):
        remake(workspace, engine, machine="elsewhere", images_per_s={"keras": 1.0, engine: speed})
    assert chosen() == "onnx"
    assert measured == [{"keras", "onnx"}, {"keras", "openvino"}]
    assert "engine onnx was timed on elsewhere, so it is timed here, too: keras 100 images/s, onnx 150" in caplog.text
    assert "engine openvino is 0.50 times as fast as keras here" in caplog.text
    kept = json.loads(place.speeds(model_id).read_text())
    assert set(kept) == {f"{engine} on {vae_core.machine()}" for engine in ("onnx", "openvino")}
    assert chosen() == "onnx"
    assert len(measured) == 2
    # An engine that is made again counts as another one; a damaged file of measurements counts as none.
    remake(workspace, "onnx", machine="elsewhere", tolerance=2e-5)
    assert chosen() == "onnx"
    assert len(measured) == 3
    place.speeds(model_id).write_text("{")
    assert chosen() == "onnx"
    assert len(measured) == 5


def test_auto_works_in_a_workspace_that_cannot_be_written(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Workspace(workspace)
    model_id = catalog.find_model(place, "latest")
    monkeypatch.setattr(vae_core, "images_per_s", lambda engines, _: {name: 9.0 - len(name) for name in engines})

    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(speeds, "write_json", refuse)
    speeds._measured.cache_clear()
    for engine in ("onnx", "openvino"):
        remake(workspace, engine, machine="elsewhere")
    assert choose_engine(place, model_id, "auto") == "onnx"
    assert not place.speeds(model_id).exists()


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_a_graph_that_does_not_load_is_passed_over_by_auto_and_refused_by_name(
    engine: str, workspace: Path, images: Path, nelbo: Nelbo
) -> None:
    place = Workspace(workspace)
    made = read_engine(place.engine(catalog.find_model(place, "latest"), engine))
    other = "onnx" if engine == "openvino" else "openvino"
    shutil.rmtree(place.engine(catalog.find_model(place, "latest"), other))
    name = "scores.xml" if engine == "openvino" else "scores.onnx"
    remake(workspace, engine, files={**made.files, name: b"<net/>"}, images_per_s={"keras": 1.0, engine: 9.0})
    at = ("--workspace", workspace, "--no-prefect")
    answer = nelbo("score", images / "new", "--engine", engine, *at)
    assert_refused(answer, f"engine {engine}", "cannot compute the scores", "nelbo export")
    code, out, err = nelbo("score", images / "new", "--engine", "auto", "--json", *at)
    assert code == 0, err
    assert json.loads(out)["engine"] == "keras"
    assert f"engine {engine} is passed over" in err


def test_auto_passes_over_an_engine_whose_package_is_gone(
    workspace: Path, nelbo: Nelbo, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nelbo.vae_core.engines.folder.is_installed", lambda _: False)
    code, out, err = nelbo(
        "score", images / "new", "--engine", "auto", "--json", "--workspace", workspace, "--no-prefect"
    )
    # The references of Keras cannot be read either, because its package seems to be missing, too.
    assert (code, out) == (2, "")
    assert "engine onnx is passed over: engine onnx needs onnxruntime" in err


def test_auto_takes_a_slower_engine_where_keras_cannot_score(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    for engine in ("onnx", "openvino"):
        remake(workspace, engine, images_per_s={"keras": 9.0, engine: 1.0 if engine == "onnx" else 2.0})
    spoil(workspace, "keras", 1.001)
    place = Workspace(workspace)
    assert choose_engine(place, catalog.find_model(place, "latest"), "auto") == "openvino"
    assert "engine keras is passed over: engine keras 3." in caplog.text


def test_prune_finds_the_remains_of_a_killed_export(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Workspace(workspace)
    folder = place.engine(catalog.find_model(place, "latest"), "keras")
    before = {path: path.read_bytes() for path in folder.iterdir()}

    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    for step in ("nelbo.flows.steps.export.publish_folder", "nelbo.flows.steps.export.remove_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(step, die)
            with pytest.raises(Killed):
                execute("export", ExportOptions(engine="keras", workspace=str(workspace)), prefect=False)
        read_engine(folder)
        if step.endswith("publish_folder"):
            assert {path: path.read_bytes() for path in folder.iterdir()} == before
            (left,) = (workspace / "_staging").iterdir()
            for path in (left, *left.rglob("*")):
                os.utime(path, (0, 0))
            found = execute("prune", PruneOptions(older_than="1d", apply=True, workspace=str(workspace)), prefect=False)
            assert [(item["kind"], item["name"]) for item in found["items"]] == [("staging", left.name)]
            assert not left.exists()


def test_training_exports_before_it_promotes(
    images: Path, tmp_path: Path, nelbo: Nelbo, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = ("--workspace", tmp_path / "w", "--json", "--no-prefect")
    train = ("train", "--normal", images / "normal", "--set", "image_size=16", "--set", "epochs=1")
    assert_refused(nelbo(*train, "--set", "engines=onnx,tensorrt", *at), "engines.1='tensorrt'")

    def refuse(*_: object) -> float:
        raise vae_core.EngineError("engine onnx 1.0 is refused")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_check_scores", refuse)
        code, _, err = nelbo(*train, "--set", "engines=onnx", *at)
    assert (code, err.strip().splitlines()[-1]) == (2, "nelbo: engine onnx 1.0 is refused")
    assert pointers.promoted(Workspace(tmp_path / "w")) is None
    code, out, err = nelbo(*train, "--set", "engines=onnx", *at)
    assert code == 0, err
    trained = json.loads(out)
    assert trained["engines"] == ["onnx"]
    assert pointers.promoted(Workspace(tmp_path / "w")) == trained["model_id"]
    assert catalog.engines(Workspace(tmp_path / "w"), trained["model_id"]) == ["onnx"]
