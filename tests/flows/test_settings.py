from pathlib import Path

import pytest

from data import Limits
from flows.errors import UsageError
from flows.fitting import make_preprocessing
from flows.settings import IngestOptions, ScoreOptions, Settings, TrainOptions, make_options


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "nelbo.toml"
    path.write_text('epochs = 7\nseed = 1\nimage_size = "32x48"\nfpr = 0.1\nshard_size = 300\n')
    return path


def test_file_then_environment_then_set_then_command_line(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_image_size(text: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_options(TrainOptions, {"normal": "x"}, None, [f"image_size={text}"]).image_size == size
    monkeypatch.setenv("NELBO_IMAGE_SIZE", text)
    assert make_options(TrainOptions, {"normal": "x"}).image_size == size


def test_value_range_and_limits() -> None:
    options = make_options(TrainOptions, {"normal": "x"}, None, ["value_range=0, 4095", "min_side_px=8", "max_bytes=9"])
    assert options.value_range == (0, 4095)
    assert make_preprocessing(options).value_range == (0, 4095)
    assert options.limits == Limits(side_px=8, size_bytes=9)


def test_every_setting_can_be_said_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults, written out, come back; so does each through the environment."""
    given = {"normal": "x", "images": "x"}
    for kind in (TrainOptions, ScoreOptions):
        plain = {name: given[name] for name in given if name in kind.model_fields}
        expected = make_options(kind, plain).model_dump()
        texts = {name: str(value) for name, value in expected.items() if name in Settings.model_fields and value}
        texts["image_size"] = "256x256"
        if "joint_statistics" in texts:
            texts["joint_statistics"] = ", ".join(expected["joint_statistics"])
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
        ("channels=2", "channels='2'"),
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
def test_bad_assignments(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_options(TrainOptions, {"normal": "x"}, None, [assignment])


def test_unknown_keys_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "nelbo.toml"
    bad.write_text("epoks = 3\n")
    with pytest.raises(UsageError, match="unknown key 'epoks'"):
        make_options(TrainOptions, {"normal": "x"}, bad)
    bad.write_text("epochs = [\n")
    with pytest.raises(UsageError, match="not readable TOML"):
        make_options(TrainOptions, {"normal": "x"}, bad)
    with pytest.raises(UsageError, match="no such file"):
        make_options(TrainOptions, {"normal": "x"}, tmp_path / "none.toml")
    monkeypatch.setenv("NELBO_EPOKS", "3")
    with pytest.raises(UsageError, match="the environment: unknown key 'epoks'"):
        make_options(TrainOptions, {"normal": "x"})


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    assert [name for name in Settings.model_fields if f"`{name}`" not in page] == []
