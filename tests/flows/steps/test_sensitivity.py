"""Simulated defects after training and by command, and what is said about a blind model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from synthetic import write_images, write_list

from nelbo.data import SIMULATED_SCHEMA, read_table, write_table
from nelbo.flows.report.card import read_card, write_card
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.layout import Workspace


def model_of(workspace: Path) -> str:
    return catalog.find_model(Workspace.at(str(workspace)), "latest")


def make_blind(workspace: Path) -> None:
    """Make the model look blind: each image with a defect scores as it did without."""
    place = Workspace.at(str(workspace))
    path = place.simulated(model_of(workspace))
    rows = read_table(path).to_pylist()
    clean = {row["image_id"]: row for row in rows if row["kind"] is None}
    own = dict.fromkeys(("kind", "size_px", "contrast", "x", "y", "length", "thumbnail"))
    blind = [{**clean[row["image_id"]], **{name: row[name] for name in own}} for row in rows]
    write_table(pa.Table.from_pylist(blind, SIMULATED_SCHEMA), path, SIMULATED_SCHEMA)
    write_card(place, model_of(workspace))


def test_a_training_says_what_the_model_sees(trained: tuple[Path, dict[str, Any]]) -> None:
    workspace, result = trained
    found = result["sensitivity"]
    rows = read_table(Workspace.at(str(workspace)).simulated(model_of(workspace)))
    painted = rows.filter(pc.is_valid(rows["kind"]))
    assert found["n"] == painted.num_rows <= 600
    assert found["n_images"] == rows.num_rows - painted.num_rows == result["n_calibration"]
    assert set(found["by_kind"]) == {"scratch", "spot", "stain", "cut_paste", "blur"}
    # For images of 32 x 32 pixels.
    assert set(found["by_size_px"]) == {"2", "3", "6"}
    for one in (found, *found["by_kind"].values()):
        assert one["auroc_low"] <= one["auroc"] <= one["auroc_high"]
        assert one["found_low"] <= one["found"] <= one["found_high"]
    # The model has not seen the images that defects were painted on.
    seen = json.loads((workspace / "models" / result["model_id"] / "model.json").read_text())["training"]["seen"]
    assert not {image_id[:16] for image_id in rows["image_id"].to_pylist()} & set(seen)


def test_the_card_shows_what_is_found_and_missed(workspace: Path) -> None:
    place, model_id = Workspace.at(str(workspace)), model_of(workspace)
    card = place.card(model_id).read_text()
    assert "## Simulated defects" in card
    assert "pieces of the image pasted elsewhere" in card
    assert place.simulated_shown(model_id).name in card
    assert place.simulated_shown(model_id).read_bytes().startswith(b"\x89PNG")


def test_the_command_paints_new_defects(workspace: Path, nelbo: Callable[..., Any], tmp_path: Path) -> None:
    code, out, _ = nelbo("sensitivity", "--workspace", workspace, "--json")
    assert code == 0
    before = json.loads(out)
    write_images(tmp_path / "others", 15, seed=9)
    asked = ("--on", tmp_path / "others", "--defect-px", "4", "--workspace", workspace, "--json")
    code, out, _ = nelbo("sensitivity", *asked)
    found = json.loads(out)
    assert code == 0
    assert found["n_images"] == 15
    assert list(found["by_size_px"]) == ["4"]
    assert found["model_id"] == before["model_id"]
    code, out, _ = nelbo("sensitivity", "--workspace", workspace, "--json")
    again = json.loads(out)
    assert again["by_kind"] == found["by_kind"]


@pytest.mark.parametrize(("n", "said"), [(3, "holds 3 usable normal images"), (0, "holds no")])
def test_too_few_images_are_refused(
    n: int, said: str, workspace: Path, nelbo: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "few").mkdir()
    write_images(tmp_path / "few", n, seed=9)
    before = read_table(Workspace.at(str(workspace)).simulated(model_of(workspace)))
    commands.assert_refused(nelbo("sensitivity", "--on", tmp_path / "few", "--workspace", workspace), said)
    assert read_table(Workspace.at(str(workspace)).simulated(model_of(workspace))).equals(before)


def test_images_that_it_was_trained_on_are_left_out(workspace: Path, images: Path, nelbo: Callable[..., Any]) -> None:
    code, out, _ = nelbo("sensitivity", "--on", images / "normal", "--workspace", workspace, "--json")
    assert code == 0
    # What is left are the images of the calibration.
    assert json.loads(out)["n_images"] == 19


def test_a_blind_model_is_called_blind_wherever_people_look(
    workspace: Path, images: Path, nelbo: Callable[..., Any]
) -> None:
    make_blind(workspace)
    code, out, err = nelbo("sensitivity", "--workspace", workspace, "--json")
    assert code == 0
    assert json.loads(out)["blind"] is True
    assert "cannot see simulated defects" in err
    code, out, err = nelbo("score", images / "normal", "--workspace", workspace, "--json")
    scored = json.loads(out)
    assert code == 0
    assert "cannot see simulated defects" in scored["cannot_see"]
    assert "cannot see simulated defects" in err
    page = Path(scored["report"]).read_text()
    assert "cannot see simulated defects" in page
    assert "than chance gives" not in page
    card = read_card(Workspace.at(str(workspace)), model_of(workspace))
    assert "cannot see simulated defects" in card
    assert "more normal images" in card


def test_measures_on_labels_stand_before_simulated_ones(
    workspace: Path, nelbo: Callable[..., Any], tmp_path: Path
) -> None:
    make_blind(workspace)
    paths = [*write_images(tmp_path, 24, seed=21), *write_images(tmp_path, 24, seed=22, blot=True)]
    write_list(tmp_path / "labels.csv", "path,label", ((path.name, int("blot" in path.name)) for path in paths))
    batch = commands.score(tmp_path / "labels.csv", workspace)
    page = Path(batch["report"]).read_text()
    real, simulated = (page.index(text) for text in ("Labelled images come first: AUROC", "cannot see simulated"))
    assert real < simulated
    calibration = commands.calibrate(workspace, labels=str(tmp_path / "labels.csv"), objective="f1")["calibration_id"]
    commands.calibrate(workspace, use=calibration)
    code, out, _ = nelbo("sensitivity", "--workspace", workspace, "--json")
    assert code == 0
    assert json.loads(out)["judged"]["auroc"]["value"] > 0.5
    card = read_card(Workspace.at(str(workspace)), model_of(workspace))
    assert card.index("Labelled images come first: AUROC") < card.index("cannot see simulated")


def test_a_model_that_sees_defects_has_no_such_warning(workspace: Path, images: Path) -> None:
    scored = commands.score(images / "normal", workspace)
    assert "cannot_see" not in scored
    assert "cannot see" not in Path(scored["report"]).read_text()


def test_a_model_of_an_earlier_version_has_no_simulated_defects(
    workspace: Path, nelbo: Callable[..., Any], images: Path
) -> None:
    Workspace.at(str(workspace)).simulated(model_of(workspace)).unlink()
    answer = nelbo("sensitivity", "--workspace", workspace)
    commands.assert_refused(answer, "no simulated defects were painted", "--on DIR")
    assert "cannot_see" not in commands.score(images / "normal", workspace)


@pytest.mark.parametrize("damage", ["bytes", "kinds", "pictures"])
def test_damaged_rows_of_simulated_defects_do_not_stop_scoring(
    damage: str, workspace: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Workspace.at(str(workspace)).simulated(model_of(workspace))
    if damage == "bytes":
        path.write_bytes(b"PAR1 and nothing")
    else:
        rows = read_table(path).to_pylist()
        changed = {"kind": None} if damage == "kinds" else {"thumbnail": b"no JPEG"}
        write_table(pa.Table.from_pylist([row | changed for row in rows], SIMULATED_SCHEMA), path, SIMULATED_SCHEMA)
    assert Path(commands.score(images / "normal", workspace)["report"]).exists()
    assert write_card(Workspace.at(str(workspace)), model_of(workspace)).exists()
    if damage == "pictures":
        return
    assert [record for record in caplog.records if "sensitivity" in record.getMessage()]


def test_several_candidates_are_trained_and_one_is_promoted(images: Path, tmp_path: Path) -> None:
    both = ("conv_1x1x16", "conv_spatial")
    result = commands.train(
        images / "normal", tmp_path / "workspace", image_size=(32, 32), epochs=2, candidates=both, patience=2
    )
    assert [one["name"] for one in result["tried"]] == list(both)
    (kept,) = [one for one in result["tried"] if one["kept"]]
    assert result["promoted"]
    assert model_of(tmp_path / "workspace") == kept["model_id"] == result["model_id"]
    assert len(catalog.model_ids(Workspace.at(str(tmp_path / "workspace")))) == 2


def test_an_unknown_candidate_is_refused_before_any_image_is_read(nelbo: Callable[..., Any], tmp_path: Path) -> None:
    answer = nelbo("train", "--normal", tmp_path / "none", "--try", "features,pca", "--workspace", tmp_path)
    commands.assert_refused(answer, "try='pca'", "conv_1x1x16", "filters")
