"""The command line ``nelbo``. What is slow to import is imported by the command that needs it."""

import gc
import logging
import os
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from nelbo.flows.cli.output import (
    LogFormatter,
    one_line,
    print_comparison,
    print_demo,
    print_diagnosis,
    print_pruned,
    print_result,
    print_rows,
    print_verified,
)
from nelbo.flows.inference.signals import ending_on_sigterm, leave_init
from nelbo.flows.workspace.home import provide_home

_AGAIN = " It is safe to run the same command again."

#: Exit code of a signal -> what it did.
_ENDED = {128 + signal.SIGINT: "interrupted", 128 + signal.SIGTERM: "told to end (SIGTERM)"}

app = typer.Typer(
    name="nelbo",
    help="Watch images for anomalies: learn from normal ones, score in nats, keep a promised false-alarm rate.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

WorkspacePath = Annotated[
    str | None, typer.Option("--workspace", help="Folder or URL of all outputs. [default: ./workspace]")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object; logs go to stderr.")]


def _path(text: str) -> Path:
    from nelbo.flows.workspace.home import expand_home

    return Path(expand_home(text))


Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", parser=_path, help="TOML file with settings.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as key=value; repeatable.")]
UsePrefect = Annotated[
    bool | None,
    typer.Option("--prefect/--no-prefect", help="Run through Prefect or directly. [default: if an API is configured]"),
]
ModelName = Annotated[str, typer.Option("--model", help="Model id, or latest.")]
Root = Annotated[
    str | None, typer.Option("--root", help="Folder that a manifest's paths start from. [default: its own]")
]
Fpr = Annotated[float | None, typer.Option("--fpr", help="Promised false-positive rate. [default: 0.05]")]
Images = Annotated[str, typer.Argument(metavar="DIR", help="Folder, CSV or Parquet manifest, or one image.")]
BatchId = Annotated[str | None, typer.Option("--batch-id", help="Name of the batch. [default: from its contents]")]


@app.callback()
def _begin() -> None:
    if not any(name.upper().startswith("NELBO_") for name in os.environ):
        return
    from nelbo.flows.options.options import strange_variables
    from nelbo.flows.workspace.layout import some

    if strange := strange_variables():
        typer.echo(
            f"nelbo: passed over, for they are no settings: {some(strange, 20)}. Kubernetes sets such variables for a "
            "Service named nelbo; docs/settings.md has the names of settings.",
            err=True,
        )


@app.command()
def ingest(
    images: Images,
    batch_id: BatchId = None,
    root: Root = None,
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
    prefect: UsePrefect = None,
) -> None:
    """Write the manifest of a folder, without scoring it."""
    given = {"images": images, "batch_id": batch_id, "root": root, "workspace": workspace}
    _run("ingest", given, config, assignments, prefect, as_json)


@app.command()
def train(
    normal: Annotated[str, typer.Option("--normal", metavar="DIR", help="Normal images: folder or manifest.")],
    fpr: Fpr = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="folder|REGEX",
            help="Keep images of one group on one side of every split: those of a folder, or with the same match in "
            "their path, such as '(part[0-9]+)_'.",
        ),
    ] = None,
    variant_by: Annotated[
        str | None,
        typer.Option(
            "--variant-by",
            metavar="folder|REGEX",
            help="Train a model for each variant of the product, named by the folder or by the match in the path.",
        ),
    ] = None,
    promote: Annotated[bool, typer.Option(help="Make it the model that latest means.")] = True,
    gate: Annotated[
        str | None,
        typer.Option("--gate", metavar="DIR|CSV", help="Promote it only if it is no worse on these held-out images."),
    ] = None,
    root: Root = None,
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
    prefect: UsePrefect = None,
) -> None:
    """Train a model on normal images and calibrate it on held-out ones."""
    given = {
        "normal": normal,
        "fpr": fpr,
        "group_by": group_by,
        "variant_by": variant_by,
        "promote": promote,
        "gate": gate,
        "root": root,
        "workspace": workspace,
    }
    _run("train", given, config, assignments, prefect, as_json)


@app.command()
def calibrate(
    model: ModelName = "latest",
    normal: Annotated[str | None, typer.Option("--normal", metavar="DIR", help="Normal images.")] = None,
    fpr: Fpr = None,
    confidence: Annotated[
        float | None, typer.Option("--confidence", help="Keep the rate in this share of calibrations.")
    ] = None,
    contamination: Annotated[
        float | None, typer.Option("--contamination", help="Share of the images that is anomalous; ends the promise.")
    ] = None,
    review_fpr: Annotated[float | None, typer.Option("--review-fpr", help="Rate of a band for review.")] = None,
    joint: Annotated[str | None, typer.Option("--joint", hidden=True, help="Of 0.1; gone, and without effect.")] = None,
    statistic: Annotated[str | None, typer.Option("--statistic", help="Another statistic than the model's.")] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", metavar="CSV|reviews", help="Manifest with labels 0 and 1, or what reviewers decided."
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option("--objective", help="With --labels: f1, f_beta, youden, cost, recall, fpr or precision."),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option("--target", help="Of f_beta (beta), recall (largest fpr), fpr (least recall) and precision."),
    ] = None,
    costs: Annotated[str | None, typer.Option("--costs", help="Of the objective cost: '[[0, 1], [10, 0]]'.")] = None,
    review_recall: Annotated[
        float | None, typer.Option("--review-recall", help="With --labels: the review band goes down to this recall.")
    ] = None,
    use: Annotated[
        str | None, typer.Option("--use", metavar="ID", help="Go back to a calibration, or take a candidate.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show all calibrations on one batch, change none.")
    ] = False,
    batch: Annotated[str | None, typer.Option("--batch", help="With --compare. [default: scored last]")] = None,
    root: Root = None,
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
    prefect: UsePrefect = None,
) -> None:
    """Find a model's threshold anew, from normal images or from labels; its weights stay as they are."""
    given = {
        "normal": normal,
        "fpr": fpr,
        "confidence": confidence,
        "contamination": contamination,
        "review_fpr": review_fpr,
        "statistic": statistic,
        "labels": labels,
        "objective": objective,
        "target": target,
        "costs": costs,
        "review_recall": review_recall,
        "use": use,
        "root": root,
    }
    _check_calibrate(given, compare, batch)
    if compare:
        from nelbo.flows.evaluation.comparison import compare_calibrations
        from nelbo.flows.workspace import catalog

        place = _workspace(workspace, config, assignments)
        print_comparison(compare_calibrations(place, catalog.find_model(place, model), batch), as_json)
        return
    given |= {"model": model, "workspace": workspace, "joint": joint}
    _run("calibrate", given, config, assignments, prefect, as_json)


def _check_calibrate(given: dict[str, Any], compare: bool, batch: str | None) -> None:
    """Options that would be passed over in silence."""
    stray = [name for name, value in given.items() if value is not None]
    if compare and stray:
        raise typer.BadParameter(f"--compare changes nothing, and --{stray[0].replace('_', '-')} would. Leave one out.")
    if batch is not None and not compare:
        raise typer.BadParameter("--batch goes with --compare.")
    others = [name for name in stray if name != "use"]
    if given["use"] is not None and others:
        raise typer.BadParameter(f"--use makes nothing new, and --{others[0].replace('_', '-')} would. Leave one out.")
    if given["costs"] is not None and given["objective"] not in (None, "cost"):
        raise typer.BadParameter(f"--costs goes with --objective cost, not {given['objective']}.")
    of_normals = [name for name in ("fpr", "confidence", "contamination", "review_fpr") if name in stray]
    of_labels = [name for name in ("objective", "target", "costs", "review_recall") if name in stray]
    if given["labels"] is not None and of_normals:
        name = of_normals[0].replace("_", "-")
        raise typer.BadParameter(f"--{name} goes with --normal; labels promise no rate. Leave one of the two out.")
    if given["labels"] == "reviews" and given["root"] is not None:
        raise typer.BadParameter("--root goes with a manifest, and --labels reviews is none. Leave one of the two out.")
    if given["labels"] is None and of_labels:
        raise typer.BadParameter(f"--{of_labels[0].replace('_', '-')} goes with --labels.")


@app.command()
def score(
    images: Images,
    model: ModelName = "latest",
    calibration: Annotated[str | None, typer.Option("--calibration", help="Calibration id. [default: current]")] = None,
    uncalibrated: Annotated[bool, typer.Option("--uncalibrated", help="Numbers only, no verdicts.")] = False,
    fdr: Annotated[
        float | None, typer.Option("--fdr", help="Count the images that may be listed at this false discovery rate.")
    ] = None,
    batch_id: BatchId = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="keras, openvino, onnx, or auto: the fastest exported. [default: auto]"),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Only what no earlier batch of that folder holds; nothing if that is nothing.")
    ] = False,
    min_age: Annotated[
        float | None,
        typer.Option("--min-age", metavar="SECONDS", help="With --new: younger files wait. [default: 10]"),
    ] = None,
    runner: Annotated[
        str | None, typer.Option("--runner", help="Where shards are scored: local or dask. [default: local]")
    ] = None,
    dask_address: Annotated[
        str | None, typer.Option("--dask-address", help="With --runner dask: tcp://host:8786 of its scheduler.")
    ] = None,
    fail_on_anomaly: Annotated[bool, typer.Option("--fail-on-anomaly", help="Exit with 3 if any is found.")] = False,
    root: Root = None,
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
    prefect: UsePrefect = None,
) -> None:
    """Score images: verdicts, heatmaps of the flagged ones, and a report."""
    if uncalibrated and (fdr is not None or calibration is not None):
        name = "--fdr" if fdr is not None else "--calibration"
        raise typer.BadParameter(f"--uncalibrated gives no verdicts, and {name} asks for some. Leave one out.")
    if min_age is not None and not new:
        raise typer.BadParameter("--min-age goes with --new.")
    given = {
        "images": images,
        "model": model,
        "calibration": calibration,
        "uncalibrated": uncalibrated,
        "fdr": fdr,
        "batch_id": batch_id,
        "engine": engine,
        "new": new,
        "min_age_s": min_age,
        "runner": runner,
        "dask_address": dask_address,
        "root": root,
        "workspace": workspace,
    }
    result = _run("score", given, config, assignments, prefect, as_json)
    if fail_on_anomaly and result.get("n_anomalous_in_batches", result["n_anomalous"]):
        raise typer.Exit(3)


@app.command()
def export(
    engine: Annotated[str, typer.Option("--engine", help="openvino or onnx; or keras, to check it before each run.")],
    model: ModelName = "latest",
    normal: Annotated[
        str | None,
        typer.Option("--normal", metavar="DIR", help="Images to compare on. [default: the calibration's]"),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", help="Largest difference, relative to |distortion| + rate. [default: 1e-05]"),
    ] = None,
    root: Root = None,
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
    prefect: UsePrefect = None,
) -> None:
    """Make a model ready for a faster engine; refused if a score or a verdict changes."""
    given = {
        "engine": engine,
        "model": model,
        "normal": normal,
        "tolerance": tolerance,
        "root": root,
        "workspace": workspace,
    }
    _run("export", given, config, assignments, prefect, as_json)


@app.command()
def report(
    batch: Annotated[str | None, typer.Option("--batch", help="Batch id. [default: scored last]")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model id. [default: scored it last]")] = None,
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
    prefect: UsePrefect = None,
) -> None:
    """Write the HTML page of a scored batch."""
    given = {"batch": batch, "model": model, "workspace": workspace}
    _run("report", given, config, assignments, prefect, as_json)


@app.command()
def dashboard(
    workspace: WorkspacePath = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others than this machine need a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8501,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Serve the web pages over the workspace, until stopped."""
    from nelbo.flows.dashboard.server import serve_dashboard

    serve_dashboard(str(_workspace(workspace, config, assignments).root), host, port)


@app.command()
def prune(
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="Such as 90d, 12h or 4w.")],
    apply: Annotated[bool, typer.Option("--apply", help="Delete; without it, only say what would be.")] = False,
    models: Annotated[bool, typer.Option("--models", help="Models and calibrations that nothing uses, too.")] = False,
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
    prefect: UsePrefect = None,
) -> None:
    """Say which old batches, runs and leftovers may go, or delete them with --apply."""
    given = {"older_than": older_than, "apply": apply, "models": models, "workspace": workspace}
    result = _execute("prune", given, config, assignments, prefect)
    if as_json:
        print_result(result, as_json)
    else:
        print_pruned(result)


@app.command()
def compact(
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
    prefect: UsePrefect = None,
) -> None:
    """Join the rows of each month's runs, and all reviews, into one file each."""
    _run("compact", {"workspace": workspace}, config, assignments, prefect, as_json)


@app.command()
def models(
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """List the models of the workspace."""
    from nelbo.flows.workspace import catalog

    print_rows("models", catalog.models(_workspace(workspace, config, assignments)).to_pylist(), as_json)


@app.command()
def calibrations(
    model: ModelName = "latest",
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """List the calibrations of a model and what each promises."""
    from nelbo.flows.evaluation.comparison import list_calibrations
    from nelbo.flows.workspace import catalog

    place = _workspace(workspace, config, assignments)
    print_rows("calibrations", list_calibrations(place, catalog.find_model(place, model)), as_json)


@app.command()
def batches(
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """List the scored batches of the workspace."""
    from nelbo.flows.workspace import catalog

    print_rows("batches", catalog.batches(_workspace(workspace, config, assignments)).to_pylist(), as_json)


@app.command()
def verify(
    model: ModelName = "latest",
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Check a model, its engines and its calibrations against their checksums and ids."""
    from nelbo.flows.steps.verify import verify

    print_verified(verify(_workspace(workspace, config, assignments), model), as_json)


@app.command()
def doctor(
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Say what this system has and lacks, and how to get it; exit with 1 if nelbo cannot run."""
    from nelbo.flows.cli.doctor import diagnose

    found = diagnose(_workspace(workspace, config, assignments))
    if as_json:
        print_result(found, as_json)
    else:
        print_diagnosis(found)
    if not found["ok"]:
        raise typer.Exit(_fail(1, "this system lacks what nelbo cannot run without; the lines above say what to do."))


Landing = Annotated[str | None, typer.Option("--images", metavar="DIR", help="Landing folder of new images.")]
Accepted = Annotated[str | None, typer.Option("--normal", metavar="DIR", help="Normal images to learn from.")]
Gate = Annotated[
    str | None, typer.Option("--gate", metavar="DIR", help="Held-out images on which a new model must not do worse.")
]
Line = Annotated[
    str | None,
    typer.Option("--line", help="What is watched, in all names on the server. [default: workspace's folder]"),
]
Keep = Annotated[
    str | None,
    typer.Option("--keep", metavar="AGE", help="Delete what is older each month, such as 90d. [default: never]"),
]


@app.command()
def serve(
    images: Landing = None,
    normal: Accepted = None,
    gate: Gate = None,
    line: Line = None,
    keep: Keep = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Runs at the same time.")] = 2,
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Run the scheduled deployments from this process, until it is stopped; needs a Prefect server, and no pool."""
    places = {"images": images, "normal": normal, "gate": gate, "workspace": workspace}
    deployments = _planned(places, config, assignments, line, keep)
    from nelbo.flows.orchestration import deployments as project

    print_rows("deployments", project.describe(deployments), as_json)
    project.run(deployments, limit)


@app.command()
def deploy(
    pool: Annotated[str, typer.Option("--pool", help="Prefect work pool whose workers run them.")],
    images: Landing = None,
    normal: Accepted = None,
    gate: Gate = None,
    line: Line = None,
    keep: Keep = None,
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Register the scheduled deployments for the workers of a Prefect work pool."""
    places = {"images": images, "normal": normal, "gate": gate, "workspace": workspace}
    deployments = _planned(places, config, assignments, line, keep, pool)
    from nelbo.flows.orchestration import deployments as project

    print_rows("deployments", project.register(deployments, pool), as_json)


def _planned(
    given: dict[str, Any],
    config: Path | None,
    assignments: list[str] | None,
    line: str | None,
    keep: str | None,
    pool: str | None = None,
) -> Any:
    """A line's deployments for the places that are named; what is left out, and what else is there, is said."""
    from nelbo.flows.orchestration.execution import check_api

    check_api()
    from nelbo.flows.orchestration.deployments import check_server, plan

    deployments, left_out = plan(given, config, assignments or (), line, keep)
    for name, option in left_out.items():
        typer.echo(f"nelbo: {name} is left out: it needs {option}", err=True)
    for note in check_server(deployments, pool):
        typer.echo(f"nelbo: {note}", err=True)
    return deployments


@app.command()
def demo(
    workspace: WorkspacePath = None,
    as_json: Json = False,
    config: Config = None,
    assignments: Assignments = None,
    prefect: UsePrefect = None,
) -> None:
    """Run the whole chain on real images of solar cells."""
    from nelbo.flows.cli.demo import run_demo
    from nelbo.flows.options.options import TrainOptions, make_options

    options = make_options(TrainOptions, {"normal": "elpv-dataset", "workspace": workspace}, config, assignments or ())
    result = run_demo(options, prefect)
    if as_json:
        print_result(result, as_json)
    else:
        print_demo(result)


def _run(
    name: str,
    given: dict[str, Any],
    config: Path | None,
    assignments: list[str] | None,
    prefect: bool | None,
    as_json: bool,
) -> dict[str, Any]:
    result = _execute(name, given, config, assignments, prefect)
    print_result(result, as_json)
    return result


def _execute(
    name: str, given: dict[str, Any], config: Path | None, assignments: list[str] | None, prefect: bool | None
) -> dict[str, Any]:
    from nelbo.flows.options import options as settings
    from nelbo.flows.orchestration.execution import execute

    options = settings.make_options(settings.OPTIONS[name], given, config, assignments or ())
    return execute(name, options, prefect)


def _workspace(path: str | None, config: Path | None, assignments: list[str] | None) -> Any:
    """The workspace of a command that only reads, after what killed ones have left in it."""
    from nelbo.flows.options.options import Options, make_options
    from nelbo.flows.workspace.journal import settle
    from nelbo.flows.workspace.layout import Workspace

    workspace = Workspace.at(make_options(Options, {"workspace": path}, config, assignments or ()).workspace)
    settle(workspace)
    return workspace


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    logger = logging.getLogger("nelbo")
    logger.setLevel(logging.INFO)
    logger.handlers = [handler]
    # Prefect has a handler at the root, which would say everything twice.
    logger.propagate = False


def _use_utf8() -> None:
    """Begin anew where the locale is of another encoding: names of files are UTF-8, and so is all that is written."""
    wanted = {"PYTHONUTF8": "1"}
    if sys.getfilesystemencoding() != "utf-8" and not wanted.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | wanted)  # noqa: S606 - ourselves


def main() -> None:
    """Run the command line: exit code 2 and one line for bad input, 1 for a failure midway."""
    _use_utf8()
    # Odd files are recorded in their rows; Pillow need not warn of each.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with suppress(AttributeError):
        # A locale may lack a letter of a file's name.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    leave_init()
    with ending_on_sigterm():
        sys.exit(_exit_code())


def _exit_code() -> int:
    code: Any
    try:
        _log_to_stderr()
        provide_home()
        _refuse_credentials(sys.argv[1:])
        code = app(standalone_mode=False)
    except TyperException as error:
        # Typer's own box of several lines would be no line for a log.
        code = _fail(2, f"{error.format_message()} Say --help for what is possible.")
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except SystemExit as end:
        code = end.code
    except Exception as error:
        code = _fail_by(error)
    if code in _ENDED:
        # The interpreter would look through millions of objects for what it may bury; the system takes all at once.
        gc.freeze()
        _fail(code, f"{_ENDED[code]}.{_AGAIN}")
    return code if isinstance(code, int) else 0


def _fail_by(error: Exception) -> int:
    """Say in one line what went wrong; the exit code. In Python's development mode what nobody foresaw is raised."""
    from nelbo.data import SpaceError
    from nelbo.flows.workspace.errors import bad_input, store_errors

    if isinstance(error, bad_input()):
        return _fail(2, str(error))
    if isinstance(error, (*store_errors(), FloatingPointError, RuntimeError)):
        # Numbers that overflowed will do so again, and a full disk asks for space first.
        said = isinstance(error, FloatingPointError | SpaceError)
        return _fail(1, f"{error}{'' if said else _AGAIN}")
    if sys.flags.dev_mode:
        raise error
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}, at line {place.lineno} of {Path(place.filename).name}"
    how = "Please report it; with PYTHONDEVMODE=1 in the environment the same command says where it came from."
    return _fail(1, f"an error that nobody foresaw ({what}). {how}")


def _refuse_credentials(arguments: list[str]) -> None:
    """Before anything is said of the arguments, of stray ones too."""
    if any(":" in argument for argument in arguments):
        from nelbo.flows.options.options import refuse_credentials

        refuse_credentials(arguments)


def _fail(code: int, message: str) -> int:
    typer.echo(f"nelbo: {one_line(message)}", err=True)
    return code
