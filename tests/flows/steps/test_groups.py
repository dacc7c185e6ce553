"""Groups of images stay on one side of every split: in training, in labelled images and in reviews."""

import hashlib
import json
import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commands import calibrate, score, train
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reviewing import review
from synthetic import texture, write_images, write_list

from nelbo.data import MANIFEST_SCHEMA, InputError, read_metadata, read_table, split_by_content
from nelbo.detectors import part_sizes
from nelbo.flows.options.options import CalibrateOptions, TrainOptions
from nelbo.flows.options.sources import make_options
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.steps.calibrate import _region_level
from nelbo.flows.steps.parts import assign_parts, check_parts, count_groups, halved, with_groups, without_test
from nelbo.flows.steps.train import freeze_normals
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.calibrations.calibration import read_calibration
from nelbo.flows.workspace.calibrations.level import RegionLevel
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import new_review_id, record_review
from nelbo.flows.workspace.runs import Run

OPTIONS = TrainOptions(normal="in")


def manifest(*rows: tuple[str, str | None] | tuple[str, str | None, str | None]) -> pa.Table:
    """A manifest from (content, group) or (content, group, part), with a file for each row."""
    listed = [
        {"relative_path": f"{i}.png", "image_id": image_id, "group": group, "split": part[0] if part else None}
        for i, (image_id, group, *part) in enumerate(rows)
    ]
    empty = dict.fromkeys(MANIFEST_SCHEMA.names) | {"label": -1}
    return pa.Table.from_pylist([empty | row for row in listed], MANIFEST_SCHEMA)


def equal_groups(n: int, size: int) -> list[tuple[str, str | None]]:
    return [(f"{group}.{i}", f"part {group}") for group in range(n) for i in range(size)]


def assigned(table: pa.Table, options: TrainOptions = OPTIONS) -> dict[str, str]:
    return assign_parts(table, list(dict.fromkeys(table["image_id"].to_pylist())), options)


# Parts


@given(st.integers(20, 300), st.integers(0, 5))
def test_without_groups_the_split_is_as_in_earlier_versions(n: int, seed: int) -> None:
    options = OPTIONS.model_copy(update={"seed": seed})
    image_ids = [f"{i}" for i in range(n)]
    sizes = part_sizes(n, 19)
    expected = dict(zip(image_ids, split_by_content(image_ids, sizes, "train", seed), strict=True))
    assert assigned(manifest(*((image_id, None) for image_id in image_ids)), options) == expected
    assert assigned(manifest(*((image_id, image_id) for image_id in image_ids)), options) == expected


@given(st.lists(st.integers(1, 12), min_size=5, max_size=60), st.integers(0, 3))
def test_groups_are_never_split_between_parts(sizes: list[int], seed: int) -> None:
    rows = [(f"{group}.{i}", f"{group}") for group, size in enumerate(sizes) for i in range(size)]
    options = OPTIONS.model_copy(update={"seed": seed})
    part_of = assigned(manifest(*rows), options)
    parts_of_group = defaultdict(set)
    for image_id, part in part_of.items():
        parts_of_group[image_id.split(".")[0]].add(part)
    assert all(len(parts) == 1 for parts in parts_of_group.values())
    counts = Counter(part_of.values())
    assert set(part_of) == {image_id for image_id, _ in rows}
    assert counts["train"] > 0
    assert counts["validation"] > 0
    # The promise counts groups, and takes half of the images at most.
    assert counts["calibration"] <= len(rows) / 2
    n_calibration = sum(parts == {"calibration"} for parts in parts_of_group.values())
    assert n_calibration >= 19 if len(sizes) >= 38 else n_calibration == 0
    assert assigned(manifest(*rows[::-1]), options) == part_of


def test_parts_are_as_near_to_their_sizes_as_groups_allow() -> None:
    """In 100 groups of 4, 20 % are 80 images in twenty groups, and 15 % are 60 images in fifteen groups."""
    counts = Counter(assigned(manifest(*equal_groups(100, 4))).values())
    assert counts == {"calibration": 80, "validation": 60, "train": 260}


def test_too_few_groups_are_an_error() -> None:
    with pytest.raises(
        InputError, match=r"in: 80 usable images make 4 groups, and training needs at least 5.*--group-by"
    ):
        assigned(manifest(*equal_groups(4, 20)))
    # Each image without a group counts as a group; two of five groups that share an image count as one.
    assert len(assigned(manifest(*equal_groups(4, 20), ("alone", None)))) == 81
    with pytest.raises(InputError, match="make 4 groups"):
        assigned(manifest(*equal_groups(5, 20), ("0.0", "part 1")))


def test_the_promise_counts_groups() -> None:
    # 19 of 35 groups are more than half, which is too many, as it is for single images.
    assert "calibration" not in assigned(manifest(*equal_groups(35, 9))).values()
    counts = Counter(assigned(manifest(*equal_groups(35, 9)), OPTIONS.model_copy(update={"fpr": 0.1})).values())
    assert counts == {"calibration": 81, "validation": 45, "train": 189}
    # A fifth of the images would be only eight groups.
    counts = Counter(assigned(manifest(*equal_groups(40, 9))).values())
    assert counts == {"calibration": 171, "validation": 54, "train": 135}


def test_groups_named_for_calibration_are_enough_or_an_error() -> None:
    rows = [*equal_groups(30, 4), *((f"c{i}", f"held {i // 2}", "calibration") for i in range(36))]
    with pytest.raises(InputError, match="leaves 18 usable groups of images for calibration, and at least 19"):
        assigned(manifest(*rows))
    part_of = assigned(manifest(*rows, ("c36", "held 18", "calibration")))
    assert Counter(part_of.values())["calibration"] == 37


def test_a_part_named_for_one_view_holds_for_its_group() -> None:
    rows = [*equal_groups(10, 6), ("named", "part 3", "calibration"), ("other", "part 4", "validation")]
    options = OPTIONS.model_copy(update={"fpr": 0.5})
    part_of = assigned(manifest(*rows), options)
    for image_id, group, *_ in rows:
        expected = {"part 3": "calibration", "part 4": "validation"}.get(str(group), "train")
        assert part_of[image_id] == expected
    with pytest.raises(
        InputError, match=r"1.png is in part 'validation', and another image of its group 'p' in part 'train'"
    ):
        check_parts("in", manifest(("a", "p", "train"), ("b", "p", "validation")))
    # A copy in another group links the groups, too.
    with pytest.raises(
        InputError, match=r"3.png is in part 'test', and another image of its group 'p' in part 'train'"
    ):
        check_parts("in", manifest(("a", "p", "train"), ("b", "p"), ("b", "q"), ("c", "q", "test")))
    check_parts("in", manifest(("a", "p", "train"), ("b", "p"), ("c", "q", "test"), ("d", None, "test")))


def test_views_of_test_parts_are_not_trained_on() -> None:
    table = manifest(
        ("a", "p", "test"), ("b", "p"), ("b", "q"), ("c", "q"), ("d", "r"), ("e", None), ("f", None, "test")
    )
    assert without_test(table)["image_id"].to_pylist() == ["d", "e"]


def test_only_usable_images_make_groups() -> None:
    table = manifest(("a", "p"), ("b", "q"), ("c", None), ("c", None))
    assert count_groups(table) == 3
    reasons = pa.array([None, "truncated", None, None], pa.string())
    assert count_groups(table.set_column(table.schema.get_field_index("reason"), "reason", reasons)) == 2
    assert count_groups(manifest(("a", None))) is None


def test_a_rule_for_groups_overrides_the_column(caplog: pytest.LogCaptureFixture) -> None:
    table = manifest(("a", "p"), ("b", "p"), ("c", None))
    assert with_groups("in", table, None) is table
    assert not caplog.records
    assert with_groups("in", table, "[01]")["group"].to_pylist() == ["0", "1", None]
    passed_over, alone = (record.getMessage() for record in caplog.records)
    assert passed_over == "in: its column 'group' is ignored, because group_by=[01] is given"
    assert "finds nothing in the paths of 1 of 3 files (first: 2.png)" in alone
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


# Labelled images

labelled = st.lists(
    st.tuples(st.text("abcdefgh", min_size=1, max_size=2), st.sampled_from([None, *"pqrstuvw"]), st.integers(0, 1)),
    min_size=1,
    max_size=40,
    unique_by=lambda row: row[0],
)


@given(labelled)
def test_labelled_groups_are_in_one_half(rows: list[tuple[str, str | None, int]]) -> None:
    image_ids, groups, labels = (list(column) for column in zip(*rows, strict=True))
    # If two groups or single images hold only one label, each half has some images with that label.
    kinds = defaultdict(set)
    for image_id, group, label in rows:
        kinds[group or f"alone: {image_id}"].add(label)
    pure = Counter(min(found) for found in kinds.values() if len(found) == 1)
    possible = all(pure[label] >= 2 for label in (0, 1) if labels.count(label) >= 2)
    try:
        parts = halved(image_ids, groups, labels)
    except InputError:
        assert not possible
        return
    halves = defaultdict(set)
    for group, part in zip(groups, parts, strict=True):
        halves[group].add(part)
    assert all(len(found) == 1 for group, found in halves.items() if group is not None)
    for label in (0, 1):
        assert (
            labels.count(label) < 2 or len({p for p, found in zip(parts, labels, strict=True) if found == label}) == 2
        )
    assert halved(image_ids[::-1], groups[::-1], labels[::-1]) == parts[::-1]


@given(labelled)
def test_labelled_images_without_groups_are_halved_as_in_earlier_versions(
    rows: list[tuple[str, str | None, int]],
) -> None:
    image_ids, _, labels = (list(column) for column in zip(*rows, strict=True))
    expected: dict[str, str] = {}
    for label in (0, 1):
        kind = [image_id for image_id, found in zip(image_ids, labels, strict=True) if found == label]
        expected |= dict(zip(kind, split_by_content(kind, {"test": len(kind) // 2}, "calibration", 0), strict=True))
    parts = halved(image_ids, [None] * len(rows), labels)
    assert parts == [expected[image_id] for image_id in image_ids]


# Commands


@pytest.fixture
def normals(tmp_path: Path) -> Path:
    """Sixty images of twelve parts, with a folder of five views for each part."""
    for part in range(12):
        for view, path in enumerate(write_images(tmp_path / "in" / f"part{part:02d}", 5, seed=part)):
            path.rename(path.with_name(f"view{view}.png"))
    return tmp_path


def options(folder: Path, source: str = "in", **more: Any) -> TrainOptions:
    given = {"image_size": (16, 16), "epochs": 1, **more}
    return TrainOptions(normal=str(folder / source), workspace=str(folder / "w"), **given)


def frozen(chosen: TrainOptions) -> Path:
    """The manifest of the normal images."""
    batch_id = freeze_normals(chosen, Run("train", chosen))
    return Path(chosen.workspace) / "manifests" / f"batch_id={batch_id}" / "manifest.parquet"


def sides(rows: list[dict[str, Any]]) -> dict[str, set[str]]:
    found = defaultdict(set)
    for row in rows:
        found[row["group"]].add(row["split"])
    return found


@pytest.mark.usefixtures("known_networks")
def test_the_command_keeps_groups_together(normals: Path, nelbo: Callable[..., Any]) -> None:
    small = ("--set", "image_size=16", "--set", "epochs=1", "--workspace", normals / "w", "--json", "--no-prefect")
    code, out, err = nelbo("train", "--normal", normals / "in", "--group-by", "folder", *small)
    assert code == 0, err
    result = json.loads(out)
    assert result["n_groups"] == 12
    # Twelve parts are too few for a promise of 5 %, however many views they have.
    assert (result["n_train"], result["n_validation"], result["n_calibration"]) == (50, 10, 0)
    assert "fpr=0.05 needs 19 calibration groups of images, more than half of these normals" in err
    (place,) = normals.glob("w/manifests/batch_id=t*/manifest.parquet")
    assert read_metadata(place)["nelbo.n_groups"] == "12"
    rows = read_table(place).to_pylist()
    assert all(row["group"] == row["relative_path"].split("/")[0] for row in rows)
    assert all(len(found) == 1 for found in sides(rows).values())
    card = normals / "w" / "cards" / f"{result['model_id']}.md"
    assert "they make 12 groups of images that belong together" in card.read_text()
    description = json.loads((normals / "w" / "models" / result["model_id"] / "model.json").read_text())
    assert description["training"]["n_groups"] == 12


def test_without_groups_none_are_mentioned(trained: tuple[Path, dict[str, Any]]) -> None:
    workspace, result = trained
    assert result["n_groups"] is None
    (place,) = workspace.glob("manifests/batch_id=t*/manifest.parquet")
    assert "nelbo.n_groups" not in read_metadata(place)
    assert "groups" not in (workspace / "cards" / f"{result['model_id']}.md").read_text()


def test_other_groups_make_another_batch(normals: Path, caplog: pytest.LogCaptureFixture) -> None:
    for rule, n in (("(part|view)", 1), (r"part\d", 2)):
        with pytest.raises(InputError, match=f"make {n} groups"):
            frozen(options(normals, group_by=rule))
    none, folder, match = (frozen(options(normals, group_by=rule)) for rule in (None, "folder", r"part\d+"))
    # The folder and the match of the pattern give the same names here.
    assert folder == match != none
    assert not caplog.records
    frozen(options(normals, group_by=r"(part\d+)/view[^4]"))
    (said,) = (record.getMessage() for record in caplog.records if record.name == "nelbo.flows.steps.parts")
    assert "finds nothing in the paths of 12 of 60 files (first: part00/view4.png)" in said


def test_names_do_not_affect_the_split(normals: Path) -> None:
    """The same images give the same split under other names of files and groups."""
    shutil.copytree(normals / "in", normals / "renamed")
    for i, folder in enumerate(sorted((normals / "renamed").iterdir())):
        for j, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"{9 - j}.png")
        folder.rename(folder.with_name(f"{99 - i}"))
    found = []
    for source in ("in", "renamed"):
        given = options(normals, source, group_by="folder", fpr=0.2)
        table = read_table(frozen(given))
        found.append(assign_parts(table, sorted(table["image_id"].to_pylist()), given))
    assert found[0] == found[1]
    assert set(found[0].values()) == {"train", "validation", "calibration"}


def test_a_column_of_a_manifest_gives_groups(normals: Path) -> None:
    paths = sorted(path.relative_to(normals / "in") for path in (normals / "in").rglob("*.png"))
    # The groups of the column differ from the folders: each is every twelfth image.
    write_list(normals / "in" / "list.csv", "path,group", ((path, i % 12) for i, path in enumerate(paths)))
    given = options(normals, "in/list.csv", fpr=0.2)
    place = frozen(given)
    assert read_metadata(place)["nelbo.n_groups"] == "12"
    table = read_table(place).sort_by("relative_path")
    assert table["group"].to_pylist() == [f"{i % 12}" for i in range(60)]
    part_of = assign_parts(table, table["image_id"].to_pylist(), given)
    rows = [row | {"split": part_of[row["image_id"]]} for row in table.to_pylist()]
    assert all(len(found) == 1 for found in sides(rows).values())
    assert set(part_of.values()) == {"train", "validation", "calibration"}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("(", r"group_by='\(': missing \), unterminated subpattern at position 0. Expected folder, or a regular"),
        ("x" * 201, "201 characters, at most 200 are allowed"),
        ("", "at least 1 character"),
    ],
)
def test_a_bad_rule_for_groups_is_refused_before_any_work(
    rule: str, says: str, normals: Path, nelbo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=says):
        make_options(TrainOptions, {"normal": "x"}, None, [f"group_by={rule}"])
    at = ("train", "--normal", normals / "in", "--workspace", normals / "w", "--no-prefect")
    code, out, err = nelbo(*at, "--group-by", rule)
    assert (code, out) == (2, "")
    assert err.startswith("nelbo: --group-by=")
    monkeypatch.setenv("NELBO_GROUP_BY", rule)
    assert nelbo(*at)[2].startswith("nelbo: NELBO_GROUP_BY=")
    assert not (normals / "w").exists()


def test_a_rule_that_never_ends_is_refused(normals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nelbo.data.path_rules._SECONDS", 1)
    Image.new("L", (16, 16)).save(normals / "in" / f"{'a' * 60}.png")
    with pytest.raises(InputError, match="takes more than 1 seconds on 61 paths"):
        execute("train", options(normals, group_by="(a+)+$"), prefect=False)
    assert not (normals / "w").exists()


# Labelled images and reviews, with a model.


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 96 normal images, four of each part, and 12 with a blot, two of each part; one part has both kinds."""
    folder = tmp_path_factory.mktemp("labels")
    good, bad = write_images(folder, 96, seed=21), write_images(folder, 12, seed=22, blot=True)
    rows = [(path.name, 0, f"good {i // 4}") for i, path in enumerate(good)]
    rows += [(path.name, 1, "good 0" if i < 2 else f"bad {i // 2}") for i, path in enumerate(bad)]
    return write_list(folder / "list.csv", "path,label,group", rows)


def assert_halved_by_groups(workspace: Path, calibration_id: str, labels: Path) -> None:
    group_of = {line.split(",")[0]: line.split(",")[2] for line in labels.read_text().splitlines()}
    found = defaultdict(set)
    for row in read_table(workspace / "calibrations" / calibration_id / "scores.parquet").to_pylist():
        if row["split"] in ("calibration", "test"):
            found[group_of[row["relative_path"]]].add(row["split"])
    assert len(found) == 29
    assert all(len(halves) == 1 for halves in found.values())
    assert set.union(*found.values()) == {"calibration", "test"}


def test_a_threshold_is_judged_on_other_groups(labels: Path, workspace: Path) -> None:
    result = calibrate(workspace, labels=str(labels), objective="f1")
    assert_halved_by_groups(workspace, result["calibration_id"], labels)


def test_reviewed_images_are_halved_by_the_groups_of_their_batch(labels: Path, workspace: Path) -> None:
    place = Workspace(workspace)
    for row in read_table(Path(score(labels, workspace)["scores"])).to_pylist():
        shown = {"model_id": pointers.promoted(place), "review_id": new_review_id(), "image_id": row["image_id"]}
        decision = "anomalous" if "blot" in row["relative_path"] else "normal"
        assert record_review(place, review(0, decision=decision, **shown))
    result = calibrate(workspace, labels="reviews", objective="f1")
    assert_halved_by_groups(workspace, result["calibration_id"], labels)


# Promises


def rows_of(workspace: Path, calibration_id: str) -> list[dict[str, Any]]:
    return read_table(workspace / "calibrations" / calibration_id / "scores.parquet").to_pylist()


@pytest.mark.usefixtures("known_networks")
def test_one_image_of_each_group_sets_the_threshold(tmp_path: Path) -> None:
    for part in range(40):
        write_images(tmp_path / "in" / f"{part}", 1 + part % 3, seed=part)
        write_images(tmp_path / "new" / f"{part}", 1 + part % 3, seed=1000 + part)
    at = tmp_path / "w"
    trained = train(tmp_path / "in", at, image_size=(16, 16), epochs=1, group_by="folder", fpr=0.1)
    assert trained["n_groups"] == 40
    drawn, views = drawn_and_views(at, trained["calibration_id"])
    assert len(drawn) >= 9
    assert views
    assert {folder(view) for view in views} <= {folder(row) for row in drawn}
    assert f"with {len(drawn)} groups" in trained["promise"]
    new = {"normal": str(tmp_path / "new"), "group_by": "folder", "fpr": 0.1}
    one, highest = (calibrate(at, **new, promise_per=per) for per in ("image", "group"))
    assert one["n_calibration"] == highest["n_calibration"] == 40
    assert "promised: 10 % of groups, between" in highest["promise"]
    # The image of a group is drawn by its content, whatever its score, or it is the highest.
    drawn, views = drawn_and_views(at, one["calibration_id"])
    assert len(drawn) + len(views) == sum(1 + part % 3 for part in range(40))
    assert any(higher(view, row) for view in views for row in drawn)
    drawn, views = drawn_and_views(at, highest["calibration_id"])
    assert not any(higher(view, row) for view in views for row in drawn)
    assert highest["threshold"] >= one["threshold"]
    # Verdicts use the scores that were drawn.
    calibration = read_calibration(Workspace(at), highest["calibration_id"])
    assert calibration.normal_scores.tolist() == sorted(row["anomaly_score"] for row in drawn)


def folder(row: dict[str, Any]) -> str:
    return str(Path(row["relative_path"]).parent)


def drawn_and_views(workspace: Path, calibration_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows = read_table(workspace / "calibrations" / calibration_id / "scores.parquet").to_pylist()
    drawn, views = ([row for row in rows if row["split"] == part] for part in ("calibration", "view"))
    assert len({folder(row) for row in drawn}) == len(drawn)
    return drawn, views


def higher(view: dict[str, Any], row: dict[str, Any]) -> bool:
    return folder(view) == folder(row) and view["anomaly_score"] > row["anomaly_score"]


@pytest.mark.usefixtures("known_networks")
def test_near_duplicates_form_groups(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for part in range(40):
        picture = texture(random)
        for light in (0.6, 1.0, 1.4):
            lit = (picture * light + random.normal(0, 1, picture.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(lit).save(tmp_path / "in" / f"{part}_{light}.png")
    small = {"image_size": (32, 32), "epochs": 1}
    trained = train(tmp_path / "in", tmp_path / "w", **small)
    assert (trained["n_groups"], trained["n_near_duplicates"]) == (40, 120)
    assert "120 of 120 images look like others among them (first: " in caplog.text
    assert "They make 40 groups, each kept on one side of every split" in caplog.text
    (place,) = tmp_path.glob("w/manifests/batch_id=t*/manifest.parquet")
    rows = read_table(place).to_pylist()
    assert len({(row["group"], row["relative_path"].split("_")[0]) for row in rows}) == 40
    assert all(len(found) == 1 for found in sides(rows).values())
    kept = read_table(tmp_path / "w" / "calibrations" / trained["calibration_id"] / "scores.parquet")
    assert Counter(kept["split"].to_pylist()) == {"calibration": 19, "view": 38}
    caplog.clear()
    independent = train(tmp_path / "in", tmp_path / "other", group_alike=False, **small)
    assert independent["n_groups"] is None
    assert "images look like others in another part (first: " in caplog.text


@pytest.mark.usefixtures("known_networks")
def test_too_few_groups_of_near_duplicates_are_taken_for_independent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for part in range(10):
        picture = texture(random)
        for view in range(5):
            noise = random.normal(0, 1, picture.shape)
            Image.fromarray((picture + noise).clip(0, 255).astype(np.uint8)).save(
                tmp_path / "in" / f"{part}_{view}.png"
            )
    trained = train(tmp_path / "in", tmp_path / "w", image_size=(32, 32), epochs=1)
    assert trained["n_groups"] is None
    assert trained["calibration_id"]
    assert "50 of 50 images look like others among them" in caplog.text
    assert "They make 10 groups, too few to hold some out" in caplog.text


@pytest.mark.parametrize("promise_per", ["image", "group"])
def test_the_level_of_regions_counts_groups_like_the_threshold(promise_per: str, random: np.random.Generator) -> None:
    """A part counts by the view with the highest map, or by one drawn by its hash; views without a map are ignored."""
    peaks = random.gamma(3, 1, (40, 3))
    rows = pa.table(
        {
            "image_id": [hashlib.sha256(str(number).encode()).hexdigest() for number in range(120)],
            "group": np.repeat([f"part {number}" for number in range(40)], 3),
            "split": pa.nulls(120, pa.string()),
            "variant": pa.nulls(120, pa.string()),
            "map_peak": pa.array(np.where(np.arange(120) >= 90, np.nan, peaks.ravel()), from_pandas=True),
        }
    )
    level = _region_level(rows, CalibrateOptions(normal="in", fpr=0.1, promise_per=promise_per), cross=False)
    assert isinstance(level, RegionLevel)
    assert (level.threshold.per, level.threshold.n_calibration) == (promise_per, 30)
    highest = np.sort(peaks[:30].max(axis=1))
    assert (level.threshold.value == highest[-3]) == (promise_per == "group")
    assert level.threshold.value <= highest[-3]
