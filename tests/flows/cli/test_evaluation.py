"""``evaluate`` on a small model: by kind, by labels, by masks, and what it says when something is missing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
from commands import assert_refused
from PIL import Image
from sklearn.metrics import roc_auc_score
from synthetic import write_images, write_list

from nelbo.data import EVALUATION_SCHEMA, read_table
from nelbo.flows.workspace.layout import Workspace

Nelbo = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as in MVTec AD: normal images, and blots of two kinds with masks; one mask is missing, one is black."""
    root = tmp_path_factory.mktemp("products")
    write_images(root / "test" / "good", 12, seed=11)
    for seed, kind in ((12, "hole"), (13, "stain")):
        for path in write_images(root / "test" / kind, 6, seed=seed, blot=True):
            mask = root / "ground_truth" / kind / f"{path.stem}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.asarray(Image.open(path))
            Image.fromarray(((pixels == 20) * 255).astype(np.uint8)).resize((64, 64)).save(mask)
    masks = sorted((root / "ground_truth" / "hole").iterdir())
    masks[0].unlink()
    Image.new("L", (64, 64)).save(masks[1])
    return root


@pytest.fixture(scope="module")
def scored(products: Path, trained: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Path(shutil.copytree(trained[0], tmp_path_factory.mktemp("scored") / "workspace"))
    commands.score(products / "test", workspace, batch_id="mvtec")
    return workspace


@pytest.fixture
def judged(scored: Path, tmp_path: Path) -> Path:
    """A copy of the scored workspace, to write to."""
    return Path(shutil.copytree(scored, tmp_path / "workspace"))


def measured(found: dict[str, Any], measure: str, kind: str | None = None) -> Any:
    rows = [
        row for row in found["measures"] if (row["measure"], row["kind"], row["area_from_px"]) == (measure, kind, None)
    ]
    return rows[0] if rows else None


def asked(nelbo: Nelbo, *words: object) -> dict[str, Any]:
    code, out, err = nelbo("evaluate", *words, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_evaluate_measures_each_kind_and_where_it_is(nelbo: Nelbo, judged: Path, products: Path) -> None:
    found = asked(nelbo, "--batch", "mvtec", "--masks", products / "ground_truth", "--workspace", judged)
    assert (found["n_normal"], found["n_anomalous"], found["n_left_out"]) == (12, 12, 0)
    assert found["labels_from"] == "the batch's labels"
    without = [f"hole/blot_12_00{number}.png" for number in (0, 1)]
    assert found["masks"] == {
        "n_compared": 22,
        "missing": without[:1],
        "not_compared": {without[1]: "its mask is black"},
        "n_unused": 0,
    }
    for kind, n in ((None, 10), ("hole", 4), ("stain", 6)):
        for measure in ("pixel_auroc", "aupro_30", "aupro_05", "region_recall"):
            row = measured(found, measure, kind)
            assert (row["n_normal"], row["n_anomalous"]) == (12, n)
            assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    # A blot is far darker than everything else, and the map shows where it is.
    assert measured(found, "pixel_auroc")["value"] > 0.9
    table = read_table(Path(found["evaluation"]))
    assert table.to_pylist() == found["measures"]
    assert table.schema.remove_metadata() == EVALUATION_SCHEMA
    model_id = found["model_id"]
    assert found["evaluation"] == str(Workspace.at(str(judged)).evaluation(model_id, "mvtec"))
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "By kind of defect" in page
    assert "<th>stain</th>" in page


def test_the_batch_scored_again_has_no_evaluation_yet(nelbo: Nelbo, judged: Path, products: Path) -> None:
    first = asked(nelbo, "--workspace", judged)
    assert "By kind of defect" in Path(first["report"]).read_text(encoding="utf-8")
    commands.score(products / "test", judged, batch_id="mvtec")
    assert "By kind of defect" not in Path(first["report"]).read_text(encoding="utf-8")


def test_labels_of_a_table_count(nelbo: Nelbo, judged: Path, products: Path, tmp_path: Path) -> None:
    paths = sorted(path.relative_to(products).as_posix() for path in (products / "test").rglob("*.png"))[:20]
    labels = [number % 2 for number in range(20)]
    others = [("test/crack/elsewhere.png", 1), ("monday/1.png", 0)]
    table = write_list(tmp_path / "labels.csv", "path,label", [*zip(paths, labels, strict=True), *others])
    found = asked(nelbo, "--labels", table, "--root", products, "--workspace", judged)
    assert (found["n_unlabelled"], found["n_unscored"]) == (4, 0)
    err = nelbo("evaluate", "--labels", table, "--root", products, "--workspace", judged)[2]
    assert "labels files that are not in the batch: 2 (monday/1.png, test/crack/elsewhere.png)" in err
    assert "Images of the batch that are not judged: 4 without a label." in err
    assert (found["n_normal"], found["n_anomalous"], found["labels_from"]) == (10, 10, "the labels given")
    rows = read_table(Workspace.at(str(judged)).scores(found["model_id"], "mvtec"), ["relative_path", "anomaly_score"])
    scores = dict(zip(rows["relative_path"].to_pylist(), rows["anomaly_score"].to_pylist(), strict=True))
    area = roc_auc_score(labels, [scores[path.removeprefix("test/")] for path in paths])
    assert measured(found, "auroc")["value"] == pytest.approx(area)


def test_evaluate_prints_tables_and_three_lines(nelbo: Nelbo, judged: Path, products: Path) -> None:
    code, out, err = nelbo("evaluate", "--masks", products / "ground_truth", "--workspace", judged)
    assert code == 0, err
    *_, happened, means, line = out.splitlines()
    assert happened.startswith("Batch mvtec by model ")
    assert happened.endswith("was judged on 12 defective and 12 normal images, according to the batch's labels.")
    assert means.startswith("AUROC ")
    assert line == f"nelbo report --batch mvtec --model {line.split()[5]} --workspace {judged}"
    assert "regions found" in out
    # No kind is worst where all are found alike.
    found = asked(nelbo, "--workspace", judged)
    hole, stain = (measured(found, "recall", kind)["value"] for kind in ("hole", "stain"))
    assert ("found least" in means) == (hole != stain)
    assert "Images without a mask, not counted in the localisation: 1 image (hole/blot_12_000.png)." in err
    assert "Not counted in the localisation, because its mask is black: 1 image (hole/blot_12_001.png)." in err


def test_bad_requests_are_refused(nelbo: Nelbo, judged: Path, images: Path, tmp_path: Path) -> None:
    at = ("--workspace", judged)
    assert_refused(nelbo("evaluate", "--batch", "absent", *at), "'absent' has no scores")
    (tmp_path / "none").mkdir()
    assert_refused(nelbo("evaluate", "--masks", tmp_path / "none", *at), "holds no masks")
    commands.score(images / "new" / "a", judged, batch_id="unknown")
    assert_refused(
        nelbo("evaluate", "--batch", "unknown", *at), "nothing says which images of batch 'unknown'", "--labels"
    )
    commands.score(images / "normal", judged, batch_id="seen")
    rows = [(path.name, 0) for path in sorted((images / "normal").iterdir())]
    table = write_list(tmp_path / "seen.csv", "path,label", rows)
    asked_for = ("--batch", "seen", "--labels", table, "--root", images / "normal")
    assert_refused(nelbo("evaluate", *asked_for, *at), "all 80 labelled images", "Score other images")


def test_without_its_model_a_batch_keeps_measures_of_images_alone(nelbo: Nelbo, judged: Path, products: Path) -> None:
    (model,) = (judged / "models").iterdir()
    shutil.rmtree(model)
    found = asked(nelbo, "--batch", "mvtec", "--workspace", judged)
    assert measured(found, "auroc") is not None
    masks = products / "ground_truth"
    code, _, err = nelbo("evaluate", "--batch", "mvtec", "--masks", masks, "--workspace", judged)
    assert code == 2
    assert f"model '{found['model_id']}' is not in workspace" in err.splitlines()[-1]


def test_images_that_are_gone_are_left_out_by_name(nelbo: Nelbo, scored: Path, products: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(products, tmp_path / "products"))
    workspace = Path(shutil.copytree(scored, tmp_path / "workspace"))
    commands.score(moved / "test", workspace, batch_id="moved")
    (moved / "test/stain/blot_13_003.png").unlink()
    masks = ("--masks", moved / "ground_truth")
    found = asked(nelbo, "--batch", "moved", *masks, "--workspace", workspace)
    assert found["masks"]["not_compared"]["stain/blot_13_003.png"] == "the image cannot be used (changed)"
    shutil.rmtree(moved / "test")
    code, _, err = nelbo("evaluate", "--batch", "moved", *masks, "--workspace", workspace)
    assert code == 2
    assert "no image could be compared with a mask (1 have none, 23 cannot be compared)" in err.splitlines()[-1]
