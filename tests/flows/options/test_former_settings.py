"""Removed settings are accepted from every source, change nothing, and give one warning."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nelbo.flows.options import former as former_settings
from nelbo.flows.options.options import CalibrateOptions, IngestOptions, TrainOptions
from nelbo.flows.options.sources import check_options, make_options, strange_variables
from nelbo.flows.workspace.errors import UsageError

GONE = "gone since 0.2 and without effect: joint. The statistic joint of features replaces such rules; "
GONE += "leave it out"


@pytest.fixture(autouse=True)
def nothing_said_yet(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    former_settings._warn.cache_clear()
    # If an earlier test has loaded Prefect, its logging stops the propagation of records.
    monkeypatch.setattr(logging.getLogger("nelbo"), "propagate", True)
    caplog.set_level("WARNING")


def test_removed_settings_are_ignored_from_every_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = CalibrateOptions(normal="x", fpr=0.1)
    file = tmp_path / "nelbo.toml"
    file.write_text('joint = "fisher"\nfpr = 0.1\n')
    said = {"normal": "x", "fpr": 0.1}

    def from_environment() -> CalibrateOptions:
        with monkeypatch.context() as patch:
            patch.setenv("Nelbo_Joint", "fisher")
            assert strange_variables() == []
            return make_options(CalibrateOptions, said)

    ways: dict[str, Callable[[], CalibrateOptions]] = {
        "file": lambda: make_options(CalibrateOptions, {"normal": "x"}, file),
        "environment": from_environment,
        "--set": lambda: make_options(CalibrateOptions, said, None, ["joint=fisher"]),
        "command line": lambda: make_options(CalibrateOptions, {**said, "joint": "fisher"}),
        "Python": lambda: check_options(CalibrateOptions, {**said, "joint": "fisher"}),
    }
    for way, make in ways.items():
        caplog.clear()
        former_settings._warn.cache_clear()
        # What a deployment stores of the options is the same, too.
        assert make().model_dump(exclude_unset=True) == plain.model_dump(exclude_unset=True), way
        assert [record.getMessage() for record in caplog.records] == [GONE], way
    # A process gives the warning one time, whatever the source.
    caplog.clear()
    for make in ways.values():
        make()
    make_options(IngestOptions, {"images": "x"}, file)
    assert not caplog.records


def test_two_removed_settings_give_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "nelbo.toml"
    file.write_text('joint = "cauchy"\njoint_statistics = ["peak", "rate"]\n')
    make_options(TrainOptions, {"normal": "x"}, file)
    (record,) = caplog.records
    assert "without effect: joint and joint_statistics. " in record.getMessage()


def test_settings_that_were_not_given_cause_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # A variable of another program, and a stored parameter at its default.
    monkeypatch.setenv("JOINT", "fisher")
    make_options(TrainOptions, {"normal": "x"})
    assert check_options(CalibrateOptions, {"normal": "x", "joint": None}) == CalibrateOptions(normal="x")
    assert not caplog.records


def test_a_warning_repeats_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match="a user, a password"):
        make_options(TrainOptions, {"normal": "x"}, None, ["joint=https://ann:secret@example.com/x"])
    assert "secret" not in caplog.text


def test_a_flow_accepts_the_stored_parameters_of_a_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    from nelbo.flows import orchestration

    said: list[str] = []
    monkeypatch.setattr(former_settings, "_warn", said.append)
    stored = {"normal": "x", "joint": "fisher"}
    assert "joint" not in orchestration.calibrate.validate_parameters(stored)
    assert said == ["joint"]


def test_the_command_line_warns_one_time(tmp_path: Path, nelbo: Callable[..., Any]) -> None:
    line = ["calibrate", "--normal", tmp_path, "--joint", "fisher", "--set", "joint=fisher", "--no-prefect"]
    code, _, err = nelbo(*line, "--workspace", tmp_path / "w")
    assert code == 2
    assert err.count(GONE) == 1
    assert "no latest model" in err
    assert len(err.splitlines()) == 2
    assert "--joint" not in nelbo("calibrate", "--help")[1]
