"""`upgrade` brings files of older versions up to date, each in full or not at all, and loses nothing."""

import json
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nelbo.data import (
    SCHEMA_VERSION,
    SCORES_SCHEMA,
    iter_rows,
    open_place,
    read_metadata,
    read_table,
    write_json,
    write_table,
)
from nelbo.flows.cli import upgrade as upgrading
from nelbo.flows.options import former as former_settings
from nelbo.flows.options.former import without_former_lines
from nelbo.flows.options.options import UpgradeOptions
from nelbo.flows.orchestration import lines
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace import upgrade as tables
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace

Nelbo = Callable[..., tuple[int, str, str]]
DATA = Path(__file__).parents[2] / "data"
LONG_AGO = 1_600_000_000


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrading, "prefect_api", lambda: None)
    former_settings._warn.cache_clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace of version 0.1, and batches of schema versions 1 and 6."""
    with tarfile.open(Path(__file__).parents[1] / "workspace" / "workspace_0_1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    workspace = Workspace(tmp_path / "workspace")
    for version, batch_id, kinds in ((1, "b1", ["scores"]), (6, "b6", ["scores", "flagged"])):
        for kind in kinds:
            place = Path(str(workspace.place(kind, model_id="m1", batch_id=batch_id)))
            place.parent.mkdir(parents=True)
            shutil.copy(DATA / f"version_{version}" / f"{kind}.parquet", place)
    (tmp_path / "workspace" / "runs").mkdir()
    shutil.copy(DATA / "version_1" / "runs.parquet", tmp_path / "workspace" / "runs" / "r1.parquet")
    for path in (tmp_path / "workspace").rglob("*.parquet"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    return tmp_path / "workspace"


def upgrade(root: object, **options: Any) -> dict[str, Any]:
    found = upgrading.upgrade(UpgradeOptions(workspace=str(root), **options))
    assert json.dumps(found)
    return found


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


OLD = [
    ("manifests", "manifests/batch_id=k9a4ca4b7f7f90fd3/manifest.parquet", 3),
    ("scores", "scores/model_id=m1/batch_id=b1/scores.parquet", 1),
    ("scores", "scores/model_id=m1/batch_id=b6/scores.parquet", 6),
    ("flagged", "flagged/model_id=m1/batch_id=b6/flagged.parquet", 6),
    ("runs", "runs/r1.parquet", 1),
]


def test_a_dry_run_says_what_is_old_and_changes_nothing(root: Path) -> None:
    before = contents(root)
    found = upgrade(root)
    assert [(change["kind"], change["name"]) for change in found["changes"]] == [one[:2] for one in OLD]
    assert [change["change"] for change in found["changes"]] == [
        f"columns of schema version {SCHEMA_VERSION} instead of {version}" for *_, version in OLD
    ]
    assert (found["applied"], found["n"]) == (False, 5)
    # Files whose name is a hash of their contents stay as they are.
    assert [text.rpartition("nelbo export")[2] for text in found["by_hand"]] == [
        f" --model m430ca61608ac69bc --engine {engine}" for engine in ("keras", "onnx")
    ]
    assert contents(root) == before


def test_tables_get_the_current_columns_and_keep_their_rows_and_times(root: Path) -> None:
    read = {path: read_table(root / path) for _, path, _ in OLD}
    said = {path: read_metadata(root / path) for _, path, _ in OLD}
    before = contents(root)
    assert upgrade(root, apply=True)["n"] == 5
    for _, path, version in OLD:
        assert said[path].pop("nelbo.schema_version") == str(version)
        assert read_metadata(root / path) == {**said[path], "nelbo.schema_version": str(SCHEMA_VERSION)}
        # Any Parquet reader can read them.
        found = pq.read_table(root / path, partitioning=None)
        assert found.schema.equals(read[path].schema, check_metadata=False)
        # Compare texts, in which NaN equals NaN.
        assert repr(found.to_pylist()) == repr(read[path].to_pylist())
        assert (root / path).stat().st_mtime == LONG_AGO
    assert {name for name, content in contents(root).items() if before[name] != content} == {path for _, path, _ in OLD}
    done = contents(root)
    assert upgrade(root, apply=True)["changes"] == []
    assert contents(root) == done
    assert not list((root / "_staging").iterdir())


def events(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Interrupt the process at its n-th change of a file's time or name."""
    left = n

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def die(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return die

    monkeypatch.setattr(os, "utime", dying(os.utime))
    monkeypatch.setattr(Path, "replace", dying(Path.replace))


def test_after_a_kill_each_table_is_old_or_new_and_the_same_command_finishes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "nelbo.toml"
    rows = {path: repr(read_table(root / path).to_pylist()) for _, path, _ in OLD}
    n = 0
    while True:
        n += 1
        file.write_text("fpr = 0.1\njoint = 'fisher'\n")
        copy = Path(shutil.copytree(root, tmp_path / f"w{n}"))
        with monkeypatch.context() as patch:
            events(patch, n)
            try:
                upgrade(copy, apply=True, config=str(file))
                break
            except KeyboardInterrupt:
                pass
        assert {path: repr(read_table(copy / path).to_pylist()) for path in rows} == rows
        assert file.read_text() in ("fpr = 0.1\njoint = 'fisher'\n", "fpr = 0.1\n")
        upgrade(copy, apply=True, config=str(file))
        assert upgrade(copy, config=str(file))["changes"] == []
        assert {path: repr(read_table(copy / path).to_pylist()) for path in rows} == rows
        assert file.read_text() == "fpr = 0.1\n"
    assert n > 12


@pytest.mark.parametrize("what", ["scores", "model.json", "engine.json", "calibration.json"])
def test_files_of_a_newer_version_are_refused_before_any_change(root: Path, tmp_path: Path, what: str) -> None:
    if what == "scores":
        place = root / "scores" / "model_id=m1" / "batch_id=b9" / "scores.parquet"
        place.parent.mkdir()
        said = {"nelbo.schema_version": str(SCHEMA_VERSION + 1)}
        pq.write_table(SCORES_SCHEMA.empty_table().replace_schema_metadata(said), place)
    else:
        place = next(root.rglob(what))
        place.write_text(json.dumps(json.loads(place.read_text()) | {"format_version": 99}))
    (tmp_path / "nelbo.toml").write_text("joint = 'fisher'\n")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=rf"version ({SCHEMA_VERSION + 1}|99), this nelbo .*\. Nothing is changed\."):
        upgrade(root, apply=True, config=str(tmp_path / "nelbo.toml"))
    assert contents(tmp_path) == before


def test_damaged_files_and_foreign_files_stay_as_they_are(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    reviews = root / "reviews"
    reviews.mkdir()
    (reviews / "cut.parquet").write_bytes((root / "runs" / "r1.parquet").read_bytes()[:300])
    pq.write_table(pa.table({"a": [1]}), reviews / "mine.parquet")
    (reviews / "link.parquet").symlink_to(root / "runs" / "r1.parquet")
    next(root.rglob("engine.json")).write_text("damaged")
    kept = {path.name: path.read_bytes() for path in reviews.iterdir()}
    found = upgrade(root, apply=True)
    assert found["n"] == 5
    assert "cut.parquet is not a readable Parquet file" in caplog.text
    assert "mine.parquet has schema version none" in caplog.text
    del kept["link.parquet"]
    assert {name: (reviews / name).read_bytes() for name in kept} == kept
    assert (reviews / "link.parquet").is_symlink()


def test_a_file_in_use_is_left_for_later(root: Path) -> None:
    with Workspace(root).using("k9a4ca4b7f7f90fd3"):
        found = upgrade(root, apply=True)
    assert found["n"] == 4
    assert f"{OLD[0][1]} is in use. Run the same command again" in found["by_hand"]
    assert [change["name"] for change in upgrade(root, apply=True)["changes"]] == [OLD[0][1]]


def test_a_file_replaced_meanwhile_is_not_overwritten(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without locks, another job may publish while a table is being rewritten."""
    place = root / "scores" / "model_id=m1" / "batch_id=b6" / "scores.parquet"
    newer = read_table(place).slice(0, 1)
    real = os.utime

    def late(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        write_table(newer, place, SCORES_SCHEMA)

    old = next(one for one in tables.old_tables(Workspace(root)) if one.path.endswith("batch_id=b6/scores.parquet"))
    monkeypatch.setattr(os, "utime", late)
    assert not tables.upgrade_table(Workspace(root), old)
    assert read_table(place).num_rows == 1


def test_a_table_that_fails_verification_replaces_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(root)

    def short(place: Any, *arguments: Any) -> Iterator[pa.Table]:
        found = iter_rows(place, *arguments)
        return (rows.slice(1) for rows in found) if ".upgrade." in place.name else found

    monkeypatch.setattr(tables, "iter_rows", short)
    with pytest.raises(OSError, match="does not hold what was written to it"):
        upgrade(root, apply=True)
    assert {name: content for name, content in contents(root).items() if "_staging" not in name} == before


def test_tables_in_an_object_store_stay_as_they_are(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = open_place("memory://upgraded")
    store.fs.put(f"{root}/", store.path, recursive=True)
    found = upgrade("memory://upgraded", apply=True)
    assert found["changes"] == []
    assert found["by_hand"][0].startswith("leave 5 tables of older versions as they are")
    assert catalog.find(Workspace.at("memory://upgraded"), "scores").num_rows == 2


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("fpr = 0.1\n", "fpr = 0.1\n"),
        ("", ""),
        ('joint = "fisher"', ""),
        ('# a\njoint = "fisher"  # why\n\n# b\nfpr = 0.1', "# a\n\n# b\nfpr = 0.1"),
        ('fpr = 0.1\r\n"joint"="x"\r\nseed = 1\r\n', "fpr = 0.1\r\nseed = 1\r\n"),
        (
            "joint_statistics = [\n  'peak', # the peak\n  'rate',\n]\njoint = '''\nseed = 2\n'''\nseed = 1\n",
            "seed = 1\n",
        ),
        ('subject = """\njoint = "mine"\n"""\njoint = "x"\n', 'subject = """\njoint = "mine"\n"""\n'),
        ("# joint = 'x'\nfpr = 0.1\n", "# joint = 'x'\nfpr = 0.1\n"),
        ("joint = 'a\u2028b'\nfpr = 0.1\n", "fpr = 0.1\n"),
    ],
)
def test_only_lines_of_removed_settings_are_deleted(text: str, kept: str) -> None:
    assert without_former_lines(text) == kept


def test_a_file_of_settings_has_a_copy_beside_it(root: Path, tmp_path: Path, nelbo: Nelbo) -> None:
    file, link = tmp_path / "line.toml", tmp_path / "nelbo.toml"
    old = b"\xef\xbb\xbf# \xc3\xbc\nfpr = 0.1\njoint = 'fisher'\n"
    file.write_bytes(old)
    file.chmod(0o640)
    link.symlink_to(file)
    (tmp_path / "line.toml.before-upgrade").write_bytes(b"another one")
    line = ("upgrade", "--workspace", root, "--config", link)
    code, out, err = nelbo(*line)
    assert code == 0, err
    assert "without joint: gone since 0.2" in out
    # They are counted nowhere else.
    assert "by hand: engine keras of model" in out
    assert out.splitlines()[-3:-1] == ["6 changes to make; 2 things are left to do by hand.", "Nothing is changed yet."]
    assert out.splitlines()[-1] == f"nelbo upgrade --config {link} --apply --workspace {root}"
    assert out.count("6 changes") == 1
    assert file.read_bytes() == old
    code, out, _ = nelbo(*line, "--apply")
    assert (code, out.splitlines()[-3]) == (0, "6 changes made; 2 things are left to do by hand.")
    assert out.splitlines()[-2].startswith("First, engine ")
    assert file.read_bytes() == b"\xef\xbb\xbf# \xc3\xbc\nfpr = 0.1\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert (tmp_path / "line.toml.before-upgrade").read_bytes() == b"another one"
    assert (tmp_path / "line.toml.before-upgrade.1").read_bytes() == old
    code, out, _ = nelbo(*line, "--apply")
    assert (code, out.splitlines()[-3]) == (0, "0 changes made; 2 things are left to do by hand.")


def test_unknown_settings_are_refused_and_removed_variables_are_named(
    root: Path, tmp_path: Path, nelbo: Nelbo, monkeypatch: Any
) -> None:
    (tmp_path / "nelbo.toml").write_text("of_tomorrow = 1\n")
    code, _, err = nelbo("upgrade", "--workspace", root, "--config", tmp_path / "nelbo.toml", "--apply")
    assert code == 2
    assert "unknown key 'of_tomorrow'" in err
    monkeypatch.setenv("NELBO_JOINT", "fisher")
    code, out, _ = nelbo("upgrade", "--workspace", tmp_path / "none", "--json")
    assert json.loads(out)["by_hand"] == ["unset NELBO_JOINT: that setting is gone and has no effect"]


def test_deployments_of_0_1_get_the_current_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deployed(workspace: Path | str, entrypoint: str = "flows.orchestration.score") -> Any:
        parameters = {"workspace": str(workspace), "joint": "fisher"}
        return SimpleNamespace(id=1, parameters=parameters, work_pool_name="p", entrypoint=entrypoint, tags=[])

    found = {
        "score/hourly": deployed(root),
        "score/other": deployed("/srv/a b"),
        "score/now": deployed(root, "nelbo.flows.orchestration.score"),
    }
    updated = []
    monkeypatch.setattr(upgrading, "prefect_api", lambda: "http://127.0.0.1:9/api")
    monkeypatch.setattr(upgrading, "check_api", lambda: None)
    monkeypatch.setattr(lines, "find_deployments", lambda _flows: found)

    def note(one: Any, parameters: dict[str, Any], schema: dict[str, Any]) -> None:
        updated.append((one.parameters["workspace"], parameters, "images" in schema["properties"]))

    monkeypatch.setattr(lines, "update_former", note)
    said = upgrade(root)
    assert said["changes"][-1]["name"] == "score/hourly"
    assert not updated
    assert "deployments of workspace /srv/a b: nelbo upgrade --workspace '/srv/a b'" in said["by_hand"]
    upgrade(root, apply=True)
    assert updated == [(str(root), {"workspace": str(root)}, True)]

    def refuse() -> None:
        raise UsageError("the Prefect API does not answer. Start it.")

    monkeypatch.setattr(upgrading, "check_api", refuse)
    assert "look at deployments once the server answers: the Prefect API does not answer" in " ".join(
        upgrade(root)["by_hand"]
    )


def test_a_new_workspace_needs_no_upgrade(tmp_path: Path) -> None:
    assert upgrade(tmp_path / "none") == {"applied": False, "n": 0, "changes": [], "by_hand": []}
    write_json({}, tmp_path / "w" / "latest.json")
    assert upgrade(tmp_path / "w", apply=True)["n"] == 0
