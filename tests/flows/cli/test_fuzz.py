"""Every command with bad input gives an exit code and a line that says what was wrong, never a traceback."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from nelbo.data import read_scores
from nelbo.flows.cli.parameters import parameters
from nelbo.flows.commands import COMMANDS
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.options.sources import Settings
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import Review, record_review

#: What people, scripts and attackers pass where a path, a name, an id or a number belongs.
TEXTS = [
    *("", " ", "-", "--", "-1", "--x", "=", "a=b", ".", "..", "../none" * 60, "~", "~nobody/x", "*", "**", "[", "[!"),
    *("{}", "%s", "\0", "a\0b", "\udcff", "a\nb\rc", "\x1b[31mred\x1b[0m", "\x9b31m", "\u202egnp.a", "\u200b"),
    *("\ufeff", "\u05d0\u05d1", "e\u0301" * 90, "x" * 300, "x" * 5000, "a/" * 3000, "9" * 400, "nan", "inf", "-inf"),
    *("1e999", "0x10", "1_000", "\u0661", "None", "true", "s3:", "http://", "file://", "file:///x\0"),
    *("file://host/x", "nothing://a/b", "memory://", "memory://none/x", "zip://a", "://", "/dev/null", "/dev/stdin"),
    *("/proc/self/mem", "/nowhere/at/all", "CON", "latest", "reviews", "{{x}}", "$(x)", "'\"", "\\"),
]

#: Each command's required arguments, so that only one option at a time is bad.
NEEDED = {
    "ingest": {"images": "in"},
    "train": {"normal": "in"},
    "calibrate": {"normal": "in"},
    "score": {"images": "in"},
    "export": {"engine": "onnx"},
    "prune": {"older_than": "90d"},
    "deploy": {"pool": "p"},
}


#: Each command's options and arguments.
PARAMETERS = {name: parameters(command) for name, command in COMMANDS.items()}


def options() -> Iterator[tuple[str, str]]:
    """Each option and argument of each command that takes a value."""
    for command, found in PARAMETERS.items():
        for parameter in found:
            if not getattr(parameter, "is_flag", False):
                yield command, str(parameter.name)


def line_of(command: str, given: dict[str, str]) -> list[str]:
    """The command line; each option is one word with its value, which may then begin with a dash."""
    found, arguments = [command], []
    for parameter in PARAMETERS[command]:
        if parameter.name in given:
            if parameter.param_type_name == "argument":
                arguments += [given[parameter.name]]
            else:
                found += [f"{parameter.opts[0]}={given[parameter.name]}"]
    return [*found, "--", *arguments] if arguments else found


def assert_said(answer: tuple[int, str, str], *about: object) -> None:
    code, out, err = answer
    assert code in (0, 1, 2), (about, err)
    assert "Traceback" not in err + out, (about, err)
    assert "unexpected error" not in err, (about, err)
    for line in (out + err).splitlines():
        assert line.isprintable(), (about, line)
    if code:
        assert len(err.splitlines()) <= 3, (about, err)
        last = err.splitlines()[-1]
        assert last.startswith("nelbo: "), (about, err)
        assert len(last) <= 2100, (about, len(last))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with an empty one for images; whatever would serve or train for long stops at once."""
    (tmp_path / "work" / "in").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "NELBO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))

    def stop(*_: object, **__: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("uvicorn.run", stop)
    monkeypatch.setattr("nelbo.flows.cli.demo.run_demo", stop)
    return tmp_path / "work"


@pytest.mark.parametrize(("command", "option"), list(options()))
@pytest.mark.usefixtures("place")
def test_an_option_with_a_bad_value_gives_no_traceback(command: str, option: str, nelbo: Callable[..., Any]) -> None:
    for text in TEXTS:
        line = line_of(command, NEEDED.get(command, {}) | {option: text})
        assert_said(nelbo(*line), line)


#: Values of every type that TOML has, and out of every range.
VALUES = [
    *('""', '"x"', '"\\u0000"', "-1", "9" * 30, "nan", "-inf", "true", "[]", "[[]]", "[1, [2]]", "{}", "{a = [1]}"),
    *("2020-01-01", "1979-05-27T07:32:00Z"),
]


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_a_setting_with_a_bad_value_gives_no_traceback(name: str, place: Path, nelbo: Callable[..., Any]) -> None:
    file = place / "nelbo.toml"
    for value in VALUES:
        file.write_text(f"{name} = {value}\n")
        assert_said(nelbo("ingest", "in", "--config", file), name, value)
        text = value.strip('"')
        assert_said(nelbo("train", "--normal", "in", "--set", f"{name}={text}"), name, value)


FILES = [
    *(b"", b"\xef\xbb\xbf", b"\xff\xfe\x00", b"\0" * 100, b"[", b"fpr", b"fpr =", b"= 1", b"[a]\nb = 1", b"a.b.c = 1"),
    *(b'"\\u0000" = 1', b'"\\u001b[31m" = 1', b"fpr = 0.1\nfpr = 0.1", b"x = " + b"[" * 5000, b"fpr = 0.1 # \x07"),
    *("\u202e = 1".encode(), b"a = '" + b"x" * 10**5 + b"'"),
]


def test_a_config_that_is_not_toml_is_refused(place: Path, nelbo: Callable[..., Any]) -> None:
    (place / "folder.toml").mkdir()
    for config in ("in", "folder.toml", "nowhere.toml"):
        assert_said(nelbo("ingest", "in", "--config", config), config)
    for content in FILES:
        (place / "nelbo.toml").write_bytes(content)
        code, *said = nelbo("models", "--config", "nelbo.toml")
        assert_said((code, *said), content[:50])


MANIFESTS = [
    *(b"", b"\n", b"\xff\xfe", b"path", b"path\n", b"path\n\n", b"path\n\x00\n", b"path,path\na,b\n", b"Path\na\n"),
    *(b"label\n1\n", b"path,label\na\n", b"path,label\na,1,2\n", b'path\n"a\n', b'path\n"a\nb"\n', b"path\n../a\n"),
    *(b"path\n/etc/passwd\n", b"path\n~/a\n", b"path\n\x1b[31m\n", b"path\n\xff\n", "path\n\u202ea\n".encode()),
    *(b"path\n" + b"x" * 10**5, b"path,label\na,x\n", b"path,label\na,1e999\n", b"path,split\na,\x1b[2J\n"),
    *(b"path\n.\n", b"path\na\na\n", b"path\n" + b"a/" * 10**4 + b"\n", b"PAR1", b"PAR1" * 9),
]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_damaged_manifest_is_refused(kind: str, place: Path, nelbo: Callable[..., Any]) -> None:
    manifest = place / f"images.{kind}"
    for content in MANIFESTS:
        manifest.write_bytes(content)
        for line in (["ingest", manifest], ["train", "--normal", manifest], ["calibrate", "--labels", manifest]):
            assert_said(nelbo(*line), line, content[:50])
    manifest.unlink()
    manifest.mkdir()
    assert_said(nelbo("ingest", manifest))
    for column in ([1], [None], [[1]], [{"a": 1}], [b"\xff"], [1.5], [True]):
        manifest = place / "columns.parquet"
        for name in ("path", "label", "split"):
            pq.write_table(pa.table({"path": ["a"]} | {name: column}), manifest)
            assert_said(nelbo("ingest", manifest), name, column)


#: Commands that read a workspace.
READING = [
    *(["models"], ["batches"], ["calibrations"], ["verify"], ["doctor"], ["report"], ["compact"]),
    *(["prune", "--older-than", "1h"], ["calibrate", "--compare"], ["calibrate", "--labels", "reviews"]),
    *(["score", "in"], ["ingest", "in"], ["export", "--engine", "keras"]),
]


def test_a_folder_that_is_no_workspace_is_refused(place: Path, nelbo: Callable[..., Any]) -> None:
    (place / "file").write_text("x")
    (place / "loop").symlink_to("loop")
    kinds = {"models", "calibrations", "scores", "runs", "reviews", "manifests", "_staging", "landing", "reports"}
    for name in (*kinds, "latest.json"):
        folder = place / "files" / name
        folder.parent.mkdir(exist_ok=True)
        folder.write_text("x")
    (place / "folders" / "latest.json").mkdir(parents=True)
    for command in READING:
        for workspace in ("file", "file/below", "loop", "files", "folders", "/dev/null", "/proc", "/proc/self/none"):
            assert_said(nelbo(*command, "--workspace", workspace), command, workspace)


def damages(content: bytes, suffix: str) -> Iterator[bytes | None]:
    """What may stand in a file's place; None means a folder."""
    yield from (None, b"", content[: len(content) // 2], content[:-9], b"\x00\xff{" * 99)
    if suffix == ".json":
        yield from (b"null", b"[]", b"{}", b'{"a": "\\ud800"}', b"[" * 10**5)
        for key in known if isinstance(known := json.loads(content), dict) else ():
            for value in (None, -1, "../x", [], {}):
                yield json.dumps(known | {key: value}).encode()
    if suffix == ".parquet":
        table = pq.read_table(BytesIO(content))
        for other in (
            pa.table({"x": [1]}),
            table.slice(0, 0),
            table.replace_schema_metadata(None),
            table.replace_schema_metadata(dict.fromkeys(table.schema.metadata or {}, b"\xff")),
            pa.table(
                {field.name: pa.nulls(len(table), field.type) for field in table.schema}, metadata=table.schema.metadata
            ),
            pa.table({field.name: ["\x1b[2J"] * len(table) for field in table.schema}, metadata=table.schema.metadata),
        ):
            sink = BytesIO()
            pq.write_table(other, sink)
            yield sink.getvalue()


@pytest.fixture(scope="module")
def scored(trained: tuple[Path, dict[str, Any]], images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which every command has run one time."""
    folder = Path(shutil.copytree(trained[0], tmp_path_factory.mktemp("scored") / "workspace"))
    execute(
        "score", ScoreOptions(images=str(images / "new"), workspace=str(folder), new=True, min_age_s=0), prefect=False
    )
    file = next(folder.glob("scores/*/*/scores.parquet"))
    table = read_scores(file)
    row = table.filter(pc.equal(table["verdict"], "anomalous")).to_pylist()[0] | {
        "model_id": file.parts[-3].removeprefix("model_id="),
        "batch_id": file.parts[-2].removeprefix("batch_id="),
    }
    kept = ("image_id", "relative_path", "model_id", "batch_id", "calibration_id", "verdict", "anomaly_score")
    record_review(
        Workspace(folder),
        Review(**{name: row[name] for name in kept}, decision="normal", reviewer="Ann", note="", review_id="v1"),
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_damaged_file_in_a_workspace_gives_no_traceback(
    command: list[str], scored: Path, place: Path, images: Path, nelbo: Callable[..., Any]
) -> None:
    """Each file with each kind of damage; to save time, the commands take turns."""
    shutil.copytree(images / "new" / "a", place / "in", dirs_exist_ok=True)
    files = sorted(path.relative_to(scored) for path in scored.rglob("*") if path.is_file())
    damaged = [(file, content) for file in files for content in damages((scored / file).read_bytes(), file.suffix)]
    workspace = place / "workspace"
    for file, content in damaged[READING.index(command) :: len(READING)]:
        shutil.copytree(scored, workspace)
        (workspace / file).unlink()
        if content is None:
            (workspace / file).mkdir()
        else:
            (workspace / file).write_bytes(content)
        assert_said(nelbo(*command, "--workspace", workspace), command, file, content and content[:60])
        shutil.rmtree(workspace)
