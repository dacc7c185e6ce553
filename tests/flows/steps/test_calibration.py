"""Calibrations: made in several ways, listed, compared, and made current again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import calibrate, score
from synthetic import write_images, write_list

from nelbo.data import InputError, read_table
from nelbo.detectors import CalibrationError
from nelbo.flows.evaluation.comparison import compare_calibrations, list_calibrations
from nelbo.flows.options.options import CalibrateOptions
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.calibrations.calibration import write_calibration
from nelbo.flows.workspace.errors import NotYetError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run

Trained = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 more normal images, and a list of 30 + 12 labelled ones."""
    folder = tmp_path_factory.mktemp("more")
    write_images(folder / "normal", 60, seed=11)
    good = write_images(folder / "labelled" / "good", 30, seed=12)
    bad = write_images(folder / "labelled" / "bad", 12, seed=13, blot=True)
    rows = [(path.relative_to(folder), int(path in bad)) for path in [*good, *bad]]
    write_list(folder / "list.csv", "path,label", rows)
    return folder


def test_without_a_model_there_is_nothing_to_calibrate_yet(more: Path, tmp_path: Path) -> None:
    for given in ({"normal": str(more / "normal")}, {"use": "c0"}):
        with pytest.raises(NotYetError, match=r"no latest model. Make one with: nelbo train --normal DIR"):
            calibrate(tmp_path / "w", **given)
    assert not (tmp_path / "w").exists()


def test_a_review_band_gives_review_verdicts(images: Path, more: Path, workspace: Path) -> None:
    result = calibrate(workspace, normal=str(more / "normal"), fpr=0.05, review_fpr=0.4)
    assert result["review"] < result["threshold"]
    assert "for review another" in result["promise"]
    scored = score(images / "new", workspace)
    table = read_table(Path(scored["scores"]))
    steps = [result["review"], result["threshold"]]
    expected = [
        "not_scored" if found is None else ("normal", "review", "anomalous")[sum(found > step for step in steps)]
        for found in table["anomaly_score"].to_pylist()
    ]
    assert table["verdict"].to_pylist() == expected
    assert scored["n_review"] == expected.count("review") > 0
    flagged = read_table(Path(scored["flagged"]))
    assert flagged.num_rows == scored["n_anomalous"] + scored["n_review"]
    page = Path(scored["report"]).read_text()
    assert f"{scored['n_anomalous']} of 26 images anomalous, {scored['n_review']} for review; at" in page
    assert page.count('<p class="soft">for review') == scored["n_review"]
    assert 'class="band"' in page
    (row,) = read_table(workspace / "runs" / f"{scored['run_id']}.parquet").to_pylist()
    assert (row["n_review"], row["fpr"]) == (scored["n_review"], 0.05)


def test_a_promise_with_confidence_has_a_higher_threshold(more: Path, workspace: Path) -> None:
    plain = calibrate(workspace, normal=str(more / "normal"), fpr=0.05)
    surely = calibrate(workspace, normal=str(more / "normal"), fpr=0.05, confidence=0.95)
    # Of 60 images these thresholds are the third and the first from the top.
    assert (plain["fpr_low"], surely["fpr_low"]) == pytest.approx((0.0105, 0.0004), abs=1e-4)
    assert surely["threshold"] > plain["threshold"]
    assert "5 % with confidence 95 %" in surely["promise"]
    with pytest.raises(CalibrationError, match=r"fpr=0\.01 with confidence 0\.95 needs at least 299"):
        calibrate(workspace, normal=str(more / "normal"), fpr=0.01, confidence=0.95)


def test_a_contaminated_set_promises_no_rate(more: Path, workspace: Path, tmp_path: Path) -> None:
    unclean = Path(shutil.copytree(more / "normal", tmp_path / "unclean"))
    write_images(unclean, 6, seed=20, blot=True)
    result = calibrate(workspace, normal=str(unclean), fpr=0.1, contamination=0.1)
    assert (result["fpr"], result["objective"], result["n_calibration"]) == (None, "trimmed", 59)
    assert "promised: none" in result["promise"]
    scored = score(more / "list.csv", workspace, fdr=0.5)
    assert scored["metrics"]["detected"] == 12
    assert {test["name"] for test in drift_of(scored)["tests"]} == {
        *("scores", "martingale", "brightness", "contrast", "sharpness", "size")
    }
    page = Path(scored["report"]).read_text()
    assert "no promised rate" in page
    # The false discovery rate still holds: p-values use the whole set, including its defects.
    assert "at most 50 % are false alarms, on average over calibrations and batches." in page
    assert min(read_table(Path(scored["scores"]))["p_value"].drop_null().to_pylist()) >= 1 / 67


def drift_of(scored: dict[str, Any]) -> dict[str, Any]:
    return json.loads(read_table(Path(scored["scores"])).schema.metadata[b"nelbo.drift"])


def test_rates_of_cross_fitted_scores_are_called_approximate(images: Path, workspace: Path, trained: Trained) -> None:
    place, model_id, exact = Workspace(workspace), trained[1]["model_id"], trained[1]["calibration_id"]
    content = json.loads((place.calibrations / exact / "calibration.json").read_text())
    for name in ("made_at_utc", "code_version", "format_version", "calibration_id"):
        del content[name]
    content["threshold"]["cross"] = True
    rows = read_table(place.calibrations / exact / "scores.parquet")
    cross = write_calibration(content, rows, place, Run("calibrate", CalibrateOptions(normal="x")))
    assert cross != exact
    pages = {}
    for calibration_id in (exact, cross):
        scored = score(images / "new", workspace, calibration=calibration_id)
        pages[calibration_id] = Path(scored["report"]).read_text()
        assert ("approximate" in scored["promise"]) == (calibration_id == cross)
    # The headline, the promise and its range say so; the model's card describes both kinds.
    for words in ("at an aim of ", "False-alarm rate aimed at: ", "It is approximate, and says nothing where"):
        assert words not in pages[exact]
        assert words in pages[cross]
    assert pages[cross].count("(approximate: cross-fitted, no guarantee)") == 2
    assert "promised" not in pages[cross]
    said = {row["calibration_id"]: row for row in list_calibrations(place, model_id)}
    assert [said[name]["approximate"] for name in (exact, cross)] == [False, True]
    assert [said[name]["promise"].split(":")[0] for name in (exact, cross)] == [
        "false-alarm rate promised",
        "false-alarm rate aimed at",
    ]


def test_a_model_can_be_calibrated_on_another_statistic(images: Path, more: Path, workspace: Path) -> None:
    result = calibrate(workspace, normal=str(more / "normal"), statistic="nelbo")
    table = read_table(Path(score(images / "new", workspace)["scores"]))
    assert table["anomaly_score"].equals(table["nelbo_nats"])
    assert result["statistic"] == "nelbo"


def test_labels_choose_on_one_half_and_are_judged_on_the_other(more: Path, workspace: Path) -> None:
    result = calibrate(workspace, labels=str(more / "list.csv"), objective="fpr", target=0.9, review_recall=1.0)
    table = read_table(workspace / "calibrations" / result["calibration_id"] / "scores.parquet")
    rows = table.select(["split", "label", "anomaly_score"]).to_pylist()
    counts = {
        part: [sum(row["split"] == part and row["label"] == label for row in rows) for label in (0, 1)]
        for part in ("calibration", "test")
    }
    assert counts == {"calibration": [15, 6], "test": [15, 6]}
    judged = [row for row in rows if row["split"] == "test"]
    alarms = sum(row["anomaly_score"] > result["threshold"] for row in judged if row["label"] == 0)
    assert result["judged"]["false_alarms"] == alarms
    assert result["judged"]["realised_fpr"]["low"] <= alarms / 15 <= result["judged"]["realised_fpr"]["high"]
    assert result["promise"].endswith("the threshold was chosen from labels (fpr)")


def test_labels_may_name_their_parts(more: Path, workspace: Path) -> None:
    lines = (more / "list.csv").read_text().splitlines()[1:]
    rows = [(line, "calibration" if i % 3 else "test") for i, line in enumerate(lines)]
    table = write_list(more / "parted.csv", "path,label,split", rows)
    result = calibrate(workspace, labels=str(table), objective="cost", costs=((0, 1), (20, 0)))
    assert result["judged"]["n_normal"] + result["judged"]["n_anomalous"] == 14


def test_labels_of_images_that_were_trained_on_are_refused(images: Path, workspace: Path) -> None:
    normals = [(path.relative_to(images), 0) for path in sorted((images / "normal").rglob("*.png"))]
    write_list(images / "overlap.csv", "path,label", normals)
    with pytest.raises(InputError, match=r"61 of 80 labelled images were trained on \(first: normal/"):
        calibrate(workspace, labels=str(images / "overlap.csv"), objective="f1")


@pytest.mark.parametrize(
    ("columns", "more_columns", "copy", "says"),
    [
        ("path,label", "", "0", "taken for normal, and the same image labelled|labelled anomalous, and the same image"),
        ("path,label,split", ",calibration", "1,test", "is in part '(test|calibration)'"),
    ],
)
def test_contradictory_labels_of_one_image_are_refused(
    more: Path, workspace: Path, columns: str, more_columns: str, copy: str, says: str
) -> None:
    shutil.copy(next((more / "labelled" / "bad").iterdir()), more / "labelled" / "copy.png")
    rows = [f"{line}{more_columns}" for line in (more / "list.csv").read_text().splitlines()[1:]]
    table = write_list(more / "torn.csv", columns, [[row] for row in [*rows, f"labelled/copy.png,{copy}"]])
    with pytest.raises(InputError, match=says):
        calibrate(workspace, labels=str(table), objective="f1")


def test_calibrations_are_listed_compared_and_made_current_again(
    images: Path, more: Path, workspace: Path, trained: Trained, nelbo: Callable[..., Any]
) -> None:
    first = trained[1]["calibration_id"]
    loose = calibrate(workspace, normal=str(more / "normal"), fpr=0.3)["calibration_id"]
    labelled = calibrate(workspace, labels=str(more / "list.csv"), objective="f1")["calibration_id"]
    at = ("--workspace", workspace)
    code, out, _ = nelbo("calibrations", "--json", *at)
    listed = {row["calibration_id"]: row for row in json.loads(out)["calibrations"]}
    assert code == 0
    assert {name: row["current"] for name, row in listed.items()} == {first: False, loose: True, labelled: False}
    # 12 anomalous images are too few.
    assert {name: row["candidate"] for name, row in listed.items()} == {first: False, loose: False, labelled: True}
    assert listed[labelled]["why_not"] == "12 anomalous images with a label, and at least 20 are needed"
    # On the same batch, the counts are those of scoring with each calibration.
    rows = [(f"a/tile_2_{i:03d}.png", 0) for i in range(20)] + [(f"b/blot_3_{i:03d}.png", 1) for i in range(6)]
    write_list(images / "new" / "list.csv", "path,label", rows)
    scored = {
        name: score(images / "new" / "list.csv", workspace, calibration=name) for name in (first, loose, labelled)
    }
    (images / "new" / "list.csv").unlink()
    before = sorted(path.read_bytes() for path in workspace.rglob("*") if path.is_file())
    code, out, _ = nelbo("calibrate", "--compare", "--json", *at)
    compared = json.loads(out)
    assert code == 0
    assert compared["batch_id"] == scored[first]["batch_id"]
    for row in compared["calibrations"]:
        other = scored[row["calibration_id"]]
        assert row["n_anomalous"] == other["n_anomalous"]
        assert row["n_judged"] == 26
        assert row["recall"]["value"] == other["metrics"]["detected"] / 6
        assert row["realised_fpr"] == other["metrics"]["realised_fpr"]
        assert (row["n_differ"] == 0) or not row["current"]
        assert row["candidate"] == (row["calibration_id"] == labelled)
    assert sorted(path.read_bytes() for path in workspace.rglob("*") if path.is_file()) == before
    code, out, _ = nelbo("calibrate", "--compare", *at)
    assert code == 0
    assert "n_differ" in out
    for chosen in (first, labelled):
        code, out, _ = nelbo("calibrate", "--use", chosen, "--json", *at)
        assert code == 0
        said = json.loads(out)
        assert (said["calibration_id"], said["current"], said["why_not"]) == (chosen, True, None)
        assert pointers.current_calibration(Workspace(workspace), trained[1]["model_id"]) == chosen


def write_labels(folder: Path, n: int, seed: int) -> Path:
    """A table of n normal images and n with a blot."""
    rows = [(path.name, 0) for path in write_images(folder, n, seed=seed)]
    rows += [(path.name, 1) for path in write_images(folder, n, seed=seed + 1, blot=True)]
    return write_list(folder / "list.csv", "path,label", rows)


def test_two_and_two_labels_are_a_candidate(
    tmp_path: Path, workspace: Path, trained: Trained, nelbo: Callable[..., Any]
) -> None:
    """Guards against a former fault: a threshold from four images became current at once."""
    table = write_labels(tmp_path / "few", 2, seed=31)
    asked = ("calibrate", "--labels", table, "--objective", "f1", "--workspace", workspace)
    code, out, err = nelbo(*asked)
    assert code == 0
    assert "2 anomalous images with a label, and at least 20 are needed" in out
    assert "Use it anyway with: nelbo calibrate" in err
    code, out, _ = nelbo(*asked, "--json")
    said = json.loads(out)
    assert (code, said["current"], said["candidate"]) == (0, False, True)
    current = pointers.current_calibration(Workspace(workspace), trained[1]["model_id"])
    assert current == trained[1]["calibration_id"]
    assert trained[1]["current"]
    # A threshold from enough labels becomes current.
    said = calibrate(workspace, labels=str(write_labels(tmp_path / "enough", 25, seed=41)), objective="f1")
    assert (said["current"], said["candidate"], said["why_not"]) == (True, False, None)
    assert score(table, workspace)["calibration_id"] == said["calibration_id"]


def test_calibrations_are_compared_on_images_that_chose_none_of_them(
    more: Path, workspace: Path, trained: Trained
) -> None:
    calibrate(workspace, labels=str(more / "list.csv"), objective="youden")
    scored = score(more / "list.csv", workspace)
    compared = compare_calibrations(Workspace(workspace), trained[1]["model_id"], scored["batch_id"])
    assert all("n_judged" not in row for row in compared["calibrations"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--normal", "D", "--review-fpr", "0.01"], "--review-fpr=0.01: expected a rate above fpr=0.05."),
        (["--normal", "D", "--confidence", "0.9", "--contamination", "0.1"], "Leave one of the two out."),
        (["--normal", "D", "--confidence", "2"], "--confidence='2': Input should be less than 1."),
        (["--normal", "D", "--statistic", "auc"], "statistic='auc': expected one of joint, nelbo, distortion"),
        (["--labels", "L", "--objective", "f1", "--target", "0.5"], "objective f1 takes none"),
        (["--labels", "L", "--objective", "recall"], "expects its largest false-alarm rate"),
        (["--labels", "L", "--objective", "cost", "--costs", "1,10"], "costs='1,10'"),
        (["--labels", "L", "--objective", "auc"], "objective='auc': Input should be 'f1'"),
        (["--labels", "L", "--objective", "f1", "--review-fpr", "0.1"], "--review-fpr goes with --normal"),
        (["--normal", "D", "--target", "0.1"], "--target goes with --labels."),
        (["--labels", "L"], "takes one of: --normal DIR with --fpr; --labels CSV (or: reviews) with --objective"),
        (["--use", "c0123456789abcdef"], "calibration 'c0123456789abcdef' is not in workspace"),
        (["--use", "../x"], "id '../x': expected a letter"),
        (["--use", "c0123456789abcdef", "--fpr", "0.1"], "--use makes nothing new, and --fpr would."),
        (["--labels", "L", "--objective", "f1", "--costs", "[[0, 1], [1, 0]]"], "--costs goes with --objective cost"),
        (["--labels", "D", "--objective", "f1"], "needs normal and anomalous images, got 0 and 0"),
        (["--compare", "--fpr", "0.1"], "--compare changes nothing, and --fpr would."),
        (["--batch", "b1"], "--batch goes with --compare."),
        (["--compare", "--batch", "b1"], "batch 'b1' is not scored with model"),
        (["--compare"], "has scored no batch to compare on."),
        ([], "calibrate takes one of"),
    ],
)
def test_bad_requests_are_refused(
    trained: Trained, more: Path, nelbo: Callable[..., Any], arguments: list[str], says: str
) -> None:
    places = {"D": str(more / "normal"), "L": str(more / "list.csv")}
    code, out, err = nelbo("calibrate", *(places.get(word, word) for word in arguments), "--workspace", trained[0])
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_options_that_need_verdicts_are_refused_without_calibration(
    images: Path, trained: Trained, nelbo: Callable[..., Any]
) -> None:
    for option in (["--fdr", "0.1"], ["--calibration", "c0123456789abcdef"]):
        code, _, err = nelbo("score", images / "new", "--uncalibrated", *option, "--workspace", trained[0])
        assert code == 2
        assert f"{option[0]} asks for some" in err


def test_the_error_for_too_few_images_names_every_condition(more: Path, workspace: Path) -> None:
    with pytest.raises(CalibrationError, match=r"fpr=0.001 with confidence 0.9 needs at least 2302 .* got 60"):
        calibrate(workspace, normal=str(more / "normal"), fpr=0.001, confidence=0.9)
    # Trimming removes the highest 11 of 110 images, and leaves the 99 that a rate of 1 % needs.
    says = r"fpr=0.01 after contamination=0.1 is trimmed needs at least 110 calibration images, got 60"
    with pytest.raises(CalibrationError, match=says):
        calibrate(workspace, normal=str(more / "normal"), fpr=0.01, contamination=0.1)


def test_a_damaged_calibration_hides_no_other(
    more: Path, workspace: Path, trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    other = calibrate(workspace, normal=str(more / "normal"), fpr=0.2)["calibration_id"]
    (workspace / "calibrations" / other / "scores.parquet").write_bytes(b"PAR1")
    model_id, first = trained[1]["model_id"], trained[1]["calibration_id"]
    listed = list_calibrations(Workspace(workspace), model_id)
    assert [row["calibration_id"] for row in listed] == [first]
    assert other in caplog.text


def test_training_images_are_left_out_of_the_metrics(images: Path, more: Path, workspace: Path) -> None:
    """Labelled training images in a batch are scored, but left out of the metrics."""
    rows = [(path, 0) for path in sorted((images / "normal").iterdir())]
    rows += [(path, 1) for path in sorted((more / "labelled" / "bad").iterdir())]
    scored = score(write_list(more / "all.csv", "path,label", rows), workspace, root="/")
    assert (scored["metrics"]["n_normal"], scored["metrics"]["n_anomalous"]) == (0, 12)
    assert "80 labelled images are left out" in Path(scored["report"]).read_text()
    compared = compare_calibrations(Workspace(workspace), scored["model_id"], scored["batch_id"])
    assert {row["n_judged"] for row in compared["calibrations"]} == {12}


def test_a_false_discovery_rate_lists_the_images_within_it(images: Path, workspace: Path) -> None:
    scored = score(images / "new", workspace, fdr=0.3)
    q = read_table(Path(scored["scores"]))["q_value"].drop_null().to_numpy()
    assert scored["n_discoveries"] == (q <= 0.3).sum() > 0
    page = Path(scored["report"]).read_text()
    assert f"{scored['n_discoveries']} images have q at most 0.3" in page
    table = read_table(Path(scored["scores"])).to_pandas()
    listed = table[table["q_value"] <= 0.3].sort_values("anomaly_score", ascending=False)["relative_path"]
    assert "".join(f"<li>{path}</li>" for path in listed) in page
