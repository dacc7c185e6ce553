import re
from pathlib import Path

import pytest

from nelbo.data import Limits
from nelbo.flows.commands import COMMANDS
from nelbo.flows.options.options import CalibrateOptions, IngestOptions, ScoreOptions, TrainOptions
from nelbo.flows.options.sources import Settings, check_options, make_options, strange_variables
from nelbo.flows.steps.fit import make_preprocessing
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "nelbo.toml"
    path.write_text('epochs = 7\nseed = 1\nimage_size = "32x48"\nfpr = 0.1\nshard_size = 300\n')
    return path


def test_the_command_line_overrides_set_environment_and_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"normal": "x"}
    assert make_options(TrainOptions, given, config).epochs == 7
    monkeypatch.setenv("NELBO_EPOCHS", "8")
    assert make_options(TrainOptions, given, config).epochs == 8
    assert make_options(TrainOptions, given, config, ["epochs=9"]).epochs == 9
    assert make_options(TrainOptions, {**given, "fpr": 0.2}, config, ["fpr=0.3"]).fpr == 0.2
    assert make_options(TrainOptions, {**given, "fpr": None}, config, ["fpr=0.3"]).fpr == 0.3


def test_a_file_may_hold_settings_of_other_commands(config: Path) -> None:
    assert make_options(ScoreOptions, {"images": "x"}, config).shard_size == 300
    assert make_options(IngestOptions, {"images": "x"}, config).workspace == "./workspace"


@pytest.mark.parametrize(("text", "size"), [("64", (64, 64)), ("48x64", (48, 64)), ("48X64", (48, 64))])
def test_image_sizes_are_read_from_text(text: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_options(TrainOptions, {"normal": "x"}, None, [f"image_size={text}"]).image_size == size
    monkeypatch.setenv("NELBO_IMAGE_SIZE", text)
    assert make_options(TrainOptions, {"normal": "x"}).image_size == size


def test_value_ranges_and_limits_are_read_from_text() -> None:
    options = make_options(TrainOptions, {"normal": "x"}, None, ["value_range=0, 4095", "min_side_px=8", "max_bytes=9"])
    assert options.value_range == (0, 4095)
    assert make_preprocessing(options).value_range == (0, 4095)
    assert options.limits == Limits(side_px=8, size_bytes=9)


def test_every_setting_can_be_given_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every default survives a round trip through text, and through the environment."""
    given = {"normal": "x", "images": "x"}
    for kind in (TrainOptions, ScoreOptions):
        plain = {name: given[name] for name in given if name in kind.model_fields}
        expected = make_options(kind, plain).model_dump()
        texts = {name: str(value) for name, value in expected.items() if name in Settings.model_fields and value}
        texts["image_size"] = "256x256"
        assert (
            make_options(kind, plain, None, [f"{name}={text}" for name, text in texts.items()]).model_dump() == expected
        )
        with monkeypatch.context() as patch:
            for name, text in texts.items():
                patch.setenv(f"NELBO_{name.upper()}", text)
            assert make_options(kind, plain).model_dump() == expected
    assert make_options(TrainOptions, {"normal": "x"}, None, ["channels=3"]).channels == 3


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epoch=3", "--set: unknown key 'epoch'"),
        ("epochs", "expected key=value"),
        ("epochs=many", "epochs='many'"),
        ("epochs=0", "epochs='0': Input should be greater"),
        ("channels=2", "channels=2"),
        ("image_size=1x2x3", "image_size"),
        ("image_size=big", "image_size"),
        ("value_range=5", "value_range"),
        ("value_range=5,1", "the lower one first"),
        ("value_range=0,nan", "the lower one first"),
        ("max_seconds=0", "max_seconds='0'"),
        ("fpr=1", "fpr='1'"),
        ("engine=tensorrt", "engine='tensorrt'"),
    ],
)
def test_a_bad_assignment_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_options(TrainOptions, {"normal": "x"}, None, [assignment])


def test_unknown_keys_in_files_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "nelbo.toml"
    bad.write_text("epoks = 3\n")
    with pytest.raises(UsageError, match="unknown key 'epoks'"):
        make_options(TrainOptions, {"normal": "x"}, bad)
    bad.write_text("epochs = [\n")
    with pytest.raises(UsageError, match="not readable TOML"):
        make_options(TrainOptions, {"normal": "x"}, bad)
    with pytest.raises(UsageError, match="no such file"):
        make_options(TrainOptions, {"normal": "x"}, tmp_path / "none.toml")


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    page = (Path(__file__).parents[3] / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert [name for name in Settings.model_fields if f"`{name}`" not in page] == []


#: What Kubernetes sets in each container of a namespace with a Service named nelbo.
KUBERNETES = {
    "NELBO_PORT": "tcp://10.0.0.1:8501",
    "NELBO_SERVICE_HOST": "10.0.0.1",
    "NELBO_SERVICE_PORT": "8501",
    "NELBO_SERVICE_PORT_HTTP": "8501",
    "NELBO_PORT_8501_TCP": "tcp://10.0.0.1:8501",
    "NELBO_PORT_8501_TCP_PROTO": "tcp",
    "NELBO_PORT_8501_TCP_PORT": "8501",
    "NELBO_PORT_8501_TCP_ADDR": "10.0.0.1",
}


def test_variables_that_kubernetes_sets_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NELBO_DASHBOARD_PASSWORD", "secret")
    monkeypatch.setenv("NELBO_EPOCHS", "7")
    assert make_options(TrainOptions, {"normal": "x"}).epochs == 7
    assert strange_variables() == sorted(KUBERNETES)
    # No setting may ever have a name that Kubernetes could set for some Service.
    suffix = re.compile(r"(.*_)?(port|service_host|service_port(_.*)?|port_\d+_.*)")
    assert [name for name in Settings.model_fields if suffix.fullmatch(name)] == []


def test_variables_are_settings_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nelbo_epochs", "7")
    monkeypatch.setenv("Nelbo_Epoks", "7")
    assert make_options(TrainOptions, {"normal": "x"}).epochs == 7
    assert strange_variables() == ["Nelbo_Epoks"]


#: Paths and names, which accept any text but the empty one, and words that other modules check.
TEXTS = {"workspace", "backbone", "backbone_weights", "ignore"}
WORDS = {
    *("likelihood", "preset", "statistic", "precision", "learning_rate_schedule", "flip"),
    *("head", "of", "subject", "pooling"),
}


@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - WORDS))
def test_a_bad_value_in_the_environment_names_the_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"NELBO_{name.upper()}"
    monkeypatch.setenv(variable, "" if name in TEXTS else "[bad")
    with pytest.raises(UsageError, match=rf"^{variable}\W"):
        make_options(TrainOptions, {"normal": "x"})


def test_settings_that_exclude_each_other_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NELBO_DASK_ADDRESS", "tcp://host:8786")
    with pytest.raises(UsageError, match=r"^NELBO_DASK_ADDRESS=tcp://host:8786 goes with runner=dask"):
        make_options(ScoreOptions, {"images": "x"})
    # A value from a source of higher priority is blamed itself.
    with pytest.raises(UsageError, match=r"^dask_address=tcp://other:8786 goes with runner=dask"):
        make_options(ScoreOptions, {"images": "x", "dask_address": "tcp://other:8786"})


@pytest.mark.parametrize("name", COMMANDS)
def test_a_tilde_is_the_home_folder_in_all_paths(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    kind = COMMANDS[name].options
    paths = {"images", "normal", "root", "gate", "labels", "backbone_weights", "ignore", "workspace"} & set(
        kind.model_fields
    )
    needed = {"prune": {"older_than": "1d"}, "export": {"engine": "onnx"}, "deploy": {"pool": "p"}}
    others = needed.get(name, {})
    # As parameters of a flow.
    options = check_options(kind, others | dict.fromkeys(paths, "~/a b"))
    assert {name: getattr(options, name) for name in paths} == dict.fromkeys(paths, "/home/ada/a b")
    # A folder with that name.
    options = check_options(kind, others | dict.fromkeys(paths, "./~/a"))
    assert {name: getattr(options, name) for name in paths} == dict.fromkeys(paths, "./~/a")


def test_a_tilde_is_the_home_folder_in_each_source_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    toml = tmp_path / "nelbo.toml"
    toml.write_text('workspace = "~/w"\nbackbone_weights = "~"\n')
    options = make_options(TrainOptions, {"normal": "~/in/*.png"}, toml)
    assert (options.workspace, options.backbone_weights, options.normal) == (
        "/home/ada/w",
        "/home/ada",
        "/home/ada/in/*.png",
    )
    assert make_options(IngestOptions, {"images": "x"}, None, ["workspace=~/s"]).workspace == "/home/ada/s"
    monkeypatch.setenv("NELBO_WORKSPACE", "~/e")
    assert make_options(IngestOptions, {"images": "x"}).workspace == "/home/ada/e"
    assert make_options(IngestOptions, {"images": "~root/x"}).images == "/root/x"
    assert make_options(CalibrateOptions, {"labels": "reviews"}).labels == "reviews"
    assert Workspace.at("~/w").root == Path("/home/ada/w")
    with pytest.raises(UsageError, match=r"no user nobody-here .* \./~nobody-here"):
        make_options(IngestOptions, {"images": "~nobody-here"})


def test_a_config_file_is_utf_8_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "nelbo.toml"
    path.write_bytes(b"\xef\xbb\xbffpr = 0.01\r\nepochs = 7\r\n")
    options = make_options(TrainOptions, {"normal": "x"}, path)
    assert (options.fpr, options.epochs) == (0.01, 7)
    for encoding in ("utf-16", "utf-16-le"):
        path.write_bytes("fpr = 0.01\n".encode(encoding))
        with pytest.raises(UsageError, match=r"is UTF-16, and TOML is UTF-8. Save it as UTF-8"):
            make_options(TrainOptions, {"normal": "x"}, path)
    path.write_bytes(b"# gr\xfcn\nfpr = 0.01\n")
    with pytest.raises(UsageError, match=r"not readable TOML .*utf-8"):
        make_options(TrainOptions, {"normal": "x"}, path)
