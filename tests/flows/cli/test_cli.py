"""The command line as users meet it: exit codes, one line for bad input, JSON."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from commands import assert_refused
from synthetic import write_images

Nelbo = Callable[..., tuple[int, str, str]]
Trained = tuple[Path, dict[str, Any]]

SMALL = ["--set", "image_size=16", "--set", "epochs=1", "--no-prefect"]


def test_the_chain_of_commands_prints_json(nelbo: Nelbo, images: Path, tmp_path: Path) -> None:
    at = ["--workspace", tmp_path / "w", "--json", "--no-prefect"]
    code, out, _ = nelbo("train", "--normal", images / "normal", *SMALL, *at)
    trained = json.loads(out)
    assert code == 0
    assert {"model_id", "calibration_id", "n_train", "n_calibration", "threshold", "fpr", "seconds"} <= set(trained)
    assert trained["fpr"] == 0.05
    code, out, _ = nelbo("score", images / "new", "--model", "latest", *at)
    scored = json.loads(out)
    assert code == 0
    expected = "batch_id run_id model_id calibration_id n_images n_scored n_not_scored n_anomalous n_review"
    assert {*expected.split(), "scores", "flagged", "report", "seconds", "images_per_s"} <= set(scored)
    for name in ("scores", "flagged", "report"):
        assert Path(scored[name]).is_file()
    listing = ["--workspace", tmp_path / "w", "--json"]
    (model,) = json.loads(nelbo("models", *listing)[1])["models"]
    assert (model["model_id"], model["latest"], model["n_train"]) == (trained["model_id"], True, trained["n_train"])
    (batch,) = json.loads(nelbo("batches", *listing)[1])["batches"]
    assert (batch["batch_id"], batch["n_images"], batch["n_not_scored"]) == (scored["batch_id"], 28, 2)
    assert json.loads(nelbo("verify", *listing)[1])["ok"] is True
    found = json.loads(nelbo("doctor", *listing)[1])
    assert found["workspace_writable"] is True
    assert found["engines"] == ["keras", "openvino", "onnx"]


def test_score_ends_with_what_happened_and_the_next_command(nelbo: Nelbo, images: Path, workspace: Path) -> None:
    code, out, err = nelbo("score", images / "new", "--workspace", workspace, "--no-prefect")
    assert code == 0
    assert err == ""
    happened, means, line = out.splitlines()
    assert " of 26 images anomalous, 2 files not scored (batch b" in happened
    assert str(workspace / "reports") in happened
    assert "hance" in means
    assert line == f"nelbo dashboard --workspace {workspace}"
    code, out, _ = nelbo("score", images / "new", "--workspace", workspace, "--no-prefect", "--verbose")
    assert out.splitlines()[-3:] == [happened, means, line]
    assert "n_anomalous" in out
    assert "latest" in nelbo("models", "--workspace", workspace)[1]
    heading, row, *said = nelbo("batches", "--workspace", workspace)[1].splitlines()
    assert (heading.split()[0], len(row.split()[0]), len(said)) == ("batch_id", 8, 3)


def test_anomalies_can_fail_the_command(nelbo: Nelbo, images: Path, workspace: Path) -> None:
    at = ["--workspace", workspace, "--no-prefect", "--fail-on-anomaly"]
    assert nelbo("score", images / "new" / "b", *at)[0] == 3
    assert nelbo("score", images / "normal" / "tile_1_000.png", *at)[0] == 0


def test_folders_without_usable_images_are_refused(nelbo: Nelbo, tmp_path: Path, workspace: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    before = sorted(workspace.rglob("*"))
    for command in (["train", "--normal"], ["score"], ["ingest"], ["calibrate", "--normal"]):
        at = ["--workspace", workspace, "--no-prefect"]
        assert_refused(nelbo(*command, tmp_path / "empty", *at), "holds no files", "Put images")
        assert_refused(nelbo(*command, tmp_path / "texts", *at), "no usable image", "Give a folder")
        assert_refused(nelbo(*command, tmp_path / "none", *at), "does not exist")
    assert sorted(workspace.rglob("*")) == before


def test_too_few_normal_images_are_refused(nelbo: Nelbo, tmp_path: Path, workspace: Path) -> None:
    write_images(tmp_path / "few", 12, seed=9)
    new = tmp_path / "new"
    assert_refused(
        nelbo("train", "--normal", tmp_path / "few", "--workspace", new, *SMALL), "holds 12 different", "at least 20"
    )
    assert not new.exists()
    before = sorted(workspace.rglob("*.parquet"))
    at = ["--workspace", workspace, "--no-prefect"]
    assert_refused(
        nelbo("calibrate", "--normal", tmp_path / "few", "--fpr", "0.05", *at),
        "fpr=0.05 needs at least 19 calibration images, got 12. Add normal images, or ask for fpr >= 0.077.",
    )
    assert sorted(workspace.rglob("*.parquet")) == before


def test_unknown_keys_and_ids_are_refused(nelbo: Nelbo, images: Path, workspace: Path, trained: Trained) -> None:
    at = ["--workspace", workspace, "--no-prefect"]
    assert_refused(nelbo("score", images / "new", "--model", "mx", *at), "model 'mx'", trained[1]["model_id"])
    assert_refused(nelbo("score", images / "new", "--model", "../x", *at), "model '../x'")
    assert_refused(nelbo("score", images / "new", "--calibration", "cx", *at), "calibration 'cx'")
    assert_refused(nelbo("score", images / "new", "--batch-id", "../../x", *at), "id '../../x'")
    assert_refused(nelbo("score", images / "new", "--set", "fps=0.1", *at), "unknown key 'fps'", "fpr")
    assert_refused(nelbo("report", "--batch", "b123", *at), "batch 'b123' has no scores", "nelbo batches")
    assert_refused(nelbo("report", *at), "no batch is scored yet in workspace", "nelbo score DIR")
    assert_refused(nelbo("verify", "--model", "mx", "--workspace", workspace), "model 'mx'")
    assert_refused(
        nelbo("score", images / "new", "--workspace", workspace / "nothing", "--no-prefect"), "no latest model"
    )


@pytest.mark.parametrize("command", ["models", "batches", "verify", "ingest"])
def test_variables_that_are_no_settings_are_warned_of_once(
    command: str, nelbo: Nelbo, images: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NELBO_PORT", "tcp://10.0.0.1:8501")
    monkeypatch.setenv("NELBO_SERVICE_HOST", "10.0.0.1")
    more = [images / "new", "--no-prefect"] if command == "ingest" else []
    code, out, err = nelbo(command, *more, "--workspace", workspace, "--json")
    assert code == 0, err
    assert json.loads(out)
    (line,) = [line for line in err.splitlines() if "NELBO_PORT" in line]
    assert "not settings: NELBO_PORT, NELBO_SERVICE_HOST." in line
    assert "10.0.0.1" not in err
    monkeypatch.setenv("NELBO_EPOCHS", "many")
    code, _, err = nelbo(command, *more, "--workspace", workspace)
    assert (code, err.splitlines()[-1][:29]) == (2, "nelbo: NELBO_EPOCHS='many': I")


def test_config_is_looked_for_in_the_home_folder(nelbo: Nelbo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "nelbo.toml").write_text('workspace = "~/w"\n')
    assert nelbo("models", "--config", "~/nelbo.toml", "--json")[:2] == (0, '{"models": []}\n')
    assert_refused(nelbo("models", "--config", "./~/nelbo.toml"), "~/nelbo.toml: no such file")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "nelbo.toml").write_text("epoks = 1\n")
    assert_refused(nelbo("models", "--config", "./~/nelbo.toml"), "unknown key 'epoks'")


def test_calibrate_needs_exactly_one_way_to_set_a_threshold(nelbo: Nelbo, images: Path, workspace: Path) -> None:
    at = ["--workspace", workspace, "--no-prefect"]
    assert_refused(nelbo("calibrate", *at), "one of: --normal DIR with --fpr; --labels CSV")
    assert_refused(
        nelbo("calibrate", "--normal", images / "normal", "--objective", "f1", *at), "--objective goes with --labels"
    )
    assert_refused(nelbo("calibrate", "--labels", images / "normal", "--objective", "best", *at), "objective='best'")


def test_usage_errors_are_refused_with_a_suggestion(nelbo: Nelbo) -> None:
    assert_refused(nelbo("score"), "Missing argument 'DIR'", "--help")
    assert_refused(nelbo("scroe"), "No such command 'scroe'. Did you mean 'score'?")
    assert_refused(nelbo("xyz"), "No such command 'xyz'. See --help")
    assert_refused(nelbo("score", "x", "--modle", "y"), "No such option '--modle'", "'--model'")
    assert_refused(nelbo("score", "x", "--set", "epoch=3"), "unknown key 'epoch'. Did you mean epochs?")
    assert nelbo("--version")[:2] == (0, f"nelbo {version('nelbo')}\n")
    assert nelbo("-h") == nelbo("--help")
    assert_refused(nelbo("train", "--normal", "x", "--fpr", "often"), "--fpr", "valid number")
    assert_refused(nelbo("calibrate", "--labels", "x", "--objective", "f1", "--fpr", "0.1"), "labels promise no rate")
    for empty in (["ingest", ""], ["train", "--normal", ""], ["ingest", "x", "--workspace", ""]):
        assert_refused(nelbo(*empty, "--no-prefect"), "''")
    assert_refused(nelbo("ingest", b"\xff".decode("utf-8", "surrogateescape"), "--no-prefect"), "unicode")
    code, out, _ = nelbo()
    assert (code, "Commands" in out) == (0, True)


def test_listing_a_damaged_workspace_is_refused(nelbo: Nelbo, images: Path, workspace: Path, trained: Trained) -> None:
    at = ["--workspace", workspace]
    assert nelbo("score", images / "new", "--no-prefect", *at)[0] == 0
    # A folder that is not a model is not listed.
    shutil.copytree(workspace / "models" / trained[1]["model_id"], workspace / "models" / "old.bak")
    (workspace / "models" / "mtmp").mkdir()
    assert len(json.loads(nelbo("models", "--json", *at)[1])["models"]) == 1
    (scores,) = workspace.glob("scores/*/*/scores.parquet")
    scores.write_bytes(scores.read_bytes()[:100])
    assert_refused(nelbo("batches", *at), "not a readable Parquet file")
    (workspace / "models" / trained[1]["model_id"] / "model.json").write_text("{")
    assert_refused(nelbo("models", *at), "model.json is damaged")
    (workspace / "latest.json").write_text("[1]")
    assert_refused(nelbo("models", *at), "latest.json is damaged")
    checksums = workspace / "models" / trained[1]["model_id"] / "checksums.json"
    checksums.write_text("5")
    assert_refused(nelbo("verify", "--model", trained[1]["model_id"], *at), "damaged")


def test_an_uncalibrated_model_scores_only_on_request(nelbo: Nelbo, images: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 22, seed=9)
    at = ["--workspace", tmp_path / "w", "--no-prefect"]
    code, _, err = nelbo("train", "--normal", tmp_path / "in", *SMALL, *at)
    assert code == 0
    assert "the model is not calibrated" in err
    assert_refused(nelbo("score", images / "new", *at), "is not calibrated", "--uncalibrated")
    assert nelbo("score", images / "new", "--uncalibrated", *at)[0] == 0


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "calibration.json"])
def test_a_flipped_byte_in_a_file_is_refused_with_a_remedy(
    nelbo: Nelbo, images: Path, workspace: Path, name: str
) -> None:
    (file,) = workspace.glob(f"*/*/{name}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    before = sorted(workspace.rglob("*.parquet"))
    at = ("--workspace", workspace)
    of_bundle = ["calibrate", "--normal", images / "normal", "--no-prefect"]
    commands = [["verify"], ["score", images / "new", "--no-prefect"], of_bundle]
    for line in commands[:2] if name == "calibration.json" else commands:
        says = [] if name == "calibration.json" else ["SHA-256", "damaged"]
        assert_refused(nelbo(*line, *at), *says, "Restore it from a copy")
    assert sorted(workspace.rglob("*.parquet")) == before


def test_a_workspace_that_cannot_be_written_is_refused(nelbo: Nelbo, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    at = ["--workspace", tmp_path / "file" / "w"]
    assert_refused(nelbo("train", "--normal", images / "normal", *SMALL, *at), "cannot be written", "--workspace")
    assert_refused(nelbo("ingest", images / "normal", "--no-prefect", *at), "cannot be written")
    assert json.loads(nelbo("doctor", "--json", *at)[1])["workspace_writable"] is False


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as a shell does."""
    line = [sys.executable, "-W", "error", "-c", "from nelbo.flows.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_help_is_quick_and_names_every_command() -> None:
    started = time.perf_counter()
    help_ = command("--help")
    assert command("train", "--help").returncode == 0
    seconds = time.perf_counter() - started
    assert help_.returncode == 0
    for name in ["ingest", "train", "calibrate", "score", "report", "models", "batches", "verify", "doctor", "demo"]:
        assert f" {name} " in help_.stdout
    # The target is one second, which test_imports protects by allowing no slow import; a busy machine takes longer.
    assert seconds < 10


@pytest.mark.slow
def test_a_fresh_process_prints_nothing_else(images: Path, exported: Path, tmp_path: Path) -> None:
    workspace = shutil.copytree(exported, tmp_path / "workspace")
    bad = command("score", images / "new", "--model", "mx", "--workspace", workspace, "--no-prefect")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert len(bad.stderr.splitlines()) == 1
    good = command("score", images / "new", "--workspace", workspace, "--no-prefect", "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["n_images"] == 28


def test_a_prefect_api_that_does_not_answer_is_refused(images: Path, workspace: Path) -> None:
    line = ["ingest", images / "new", "--workspace", workspace]
    asked = command(*line, "--prefect")
    assert_refused((asked.returncode, asked.stdout, asked.stderr), "this needs a Prefect API, and none is configured")
    down = command(*line, PREFECT_API_URL="http://user:secret@127.0.0.1:9/api")
    assert_refused(
        (down.returncode, down.stdout, down.stderr), "http://127.0.0.1:9/api does not answer", "--no-prefect"
    )
    assert "secret" not in down.stderr
    broken = command(*line, PREFECT_API_URL="http://[::1/api")
    # Prefect prints its own messages first.
    assert_refused((broken.returncode, broken.stdout, broken.stderr.splitlines()[-1]), "PREFECT_API_URL")


def test_prefect_is_loaded_only_where_it_may_be_configured(tmp_path: Path) -> None:
    module = "nelbo.flows.orchestration.execution"
    code = f"import sys; from {module} import prefect_api; print(prefect_api(), 'prefect' in sys.modules)"
    (tmp_path / "here").mkdir()
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    plain |= {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}

    def found(**more: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path / "here",
            env=plain | more,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    address = "http://127.0.0.1:9/api"
    assert found() == "None False"
    # Credentials are not repeated.
    assert found(PREFECT_API_URL="http://user:secret@127.0.0.1:9/api") == f"{address} True"
    (tmp_path / "here" / "prefect.toml").write_text(f'[api]\nurl = "{address}"\n')
    assert found() == f"{address} True"
    (tmp_path / "here" / "prefect.toml").unlink()
    # Other programs keep their settings in these files, too.
    project, variables = tmp_path / "here" / "pyproject.toml", tmp_path / "here" / ".env"
    project.write_text('[project]\nname = "mine"\ndependencies = ["prefect"]\n[tool.ruff]\n')
    variables.write_text("MINE=1\n")
    assert found() == "None False"
    project.write_text(f'[tool.prefect.api]\nurl = "{address}"\n')
    assert found() == f"{address} True"
    project.unlink()
    variables.write_text(f'PREFECT_API_URL="{address}"\n')
    assert found() == f"{address} True"
    variables.unlink()
    (tmp_path / ".prefect").mkdir(exist_ok=True)
    profile = f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{address}"\n'
    (tmp_path / ".prefect" / "profiles.toml").write_text(profile)
    assert found() == f"{address} True"
