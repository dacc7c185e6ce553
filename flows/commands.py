"""The table of commands: command line, flows, deployments and docs/reference/commands.md are built from it."""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any


@dataclass(frozen=True)
class Command:
    """What a command is called, does and takes.

    function: module and name, imported on first use. It takes the options and, for a flow, a runner, too. What it
        returns or yields is printed.
    model: name of its options model.
    example: a line for a shell.
    """

    name: str
    function: str
    model: str
    help: str
    example: str

    @property
    def is_flow(self) -> bool:
        """Whether it can also run through Prefect: commands made of steps can, those that only read or serve cannot."""
        return self.function.startswith("steps.")

    @property
    def call(self) -> Any:
        """The function."""
        return resolve_name(f"nelbo.flows.{self.function}")

    @property
    def options(self) -> Any:
        """The options model."""
        return resolve_name(f"nelbo.flows.options.options:{self.model}")


_ALL = (
    Command(
        "ingest",
        "steps.ingest:ingest_batch",
        "IngestOptions",
        "Write the manifest of a folder, without scoring it.",
        "nelbo ingest new/ --batch-id night-1",
    ),
    Command(
        "train",
        "steps.train:train_model",
        "TrainOptions",
        "Train a model on normal images and calibrate it on held-out ones.",
        "nelbo train --normal good/ --fpr 0.01 --set seed=1",
    ),
    Command(
        "calibrate",
        "steps.calibrate:recalibrate",
        "CalibrateOptions",
        "Set a model's threshold again, from normal images or from labels; its weights do not change.",
        "nelbo calibrate --labels labels.csv --objective cost --costs '[[0, 1], [10, 0]]'",
    ),
    Command(
        "score",
        "steps.score:score_batch",
        "ScoreOptions",
        "Score images: verdicts, heatmaps of the flagged ones, and a report.",
        "nelbo score new/ --new --min-age 60 --fail-on-anomaly",
    ),
    Command(
        "watch",
        "watching.watch:watch",
        "WatchOptions",
        "Score images as they land in a folder, until stopped: print a line for each, and publish batches.",
        "nelbo watch landing/ --batch-minutes 15",
    ),
    Command(
        "export",
        "steps.export:export_model",
        "ExportOptions",
        "Export a model for a faster engine; refused if a score or a verdict changes.",
        "nelbo export --engine openvino",
    ),
    Command(
        "sensitivity",
        "steps.sensitivity:find_sensitivity",
        "SensitivityOptions",
        "Show which simulated defects a model detects; with --on, paint them on normal images that it has not seen.",
        "nelbo sensitivity --on other-normals/ --defect-px 5,10",
    ),
    Command(
        "report",
        "steps.report:report_batch",
        "ReportOptions",
        "Write the HTML page of a scored batch.",
        "nelbo report --batch night-1",
    ),
    Command(
        "evaluate",
        "cli.evaluation:evaluate",
        "EvaluateOptions",
        "Measure how well a model found the real defects in a scored batch, by kind; with --masks, how well it located "
        "them, too.",
        "nelbo evaluate --batch night-1 --masks ground_truth/",
    ),
    Command(
        "masks",
        "cli.masks.masks:write_masks",
        "MasksOptions",
        "Write the unusual regions of a batch's flagged images: as masks, as COCO annotations, or as a table.",
        "nelbo masks --batch night-1 --format coco --out night-1-masks/",
    ),
    Command(
        "dashboard",
        "dashboard.server:serve_dashboard",
        "DashboardOptions",
        "Serve web pages that show the workspace, until stopped.",
        "nelbo dashboard --port 8502",
    ),
    Command(
        "prune",
        "steps.prune:prune_workspace",
        "PruneOptions",
        "List old batches, runs and leftovers that may be deleted; with --apply, delete them.",
        "nelbo prune --older-than 90d --apply",
    ),
    Command(
        "compact",
        "steps.compact:compact_workspace",
        "CompactOptions",
        "Join the rows of each month's runs, and all reviews, into one file each.",
        "nelbo compact",
    ),
    Command(
        "upgrade",
        "cli.upgrade:upgrade",
        "UpgradeOptions",
        "List what an older version left in the workspace, settings (--config) and deployments; with --apply, bring it "
        "up to date.",
        "nelbo upgrade --apply",
    ),
    Command("models", "cli.readers:models", "Options", "List the models of the workspace.", "nelbo models"),
    Command(
        "calibrations",
        "cli.readers:calibrations",
        "ModelOptions",
        "List the calibrations of a model and what each promises.",
        "nelbo calibrations --model latest",
    ),
    Command(
        "batches", "cli.readers:batches", "Options", "List the scored batches of the workspace.", "nelbo batches --json"
    ),
    Command(
        "verify",
        "cli.readers:verification",
        "ModelOptions",
        "Check a model, its engines and its calibrations against their checksums and ids.",
        "nelbo verify --model latest",
    ),
    Command(
        "doctor",
        "cli.system.doctor:diagnose",
        "Options",
        "Check what this system has, what it lacks, and how to get it; exit with 1 if nelbo cannot run.",
        "nelbo doctor",
    ),
    Command(
        "serve",
        "orchestration.execution:serve",
        "ServeOptions",
        "Run the scheduled deployments from this process until stopped; needs a Prefect server, but no work pool.",
        "nelbo serve --images landing/ --normal good/",
    ),
    Command(
        "deploy",
        "orchestration.execution:deploy",
        "DeployOptions",
        "Register the scheduled deployments for the workers of a Prefect work pool.",
        "nelbo deploy --pool nelbo --images landing/ --normal good/ --gate held-out/ --keep 90d",
    ),
    Command(
        "demo", "cli.demo:run_demo", "DemoOptions", "Run the whole chain on real images of solar cells.", "nelbo demo"
    ),
)

#: Commands by name, in the order of a typical workflow.
COMMANDS = {command.name: command for command in _ALL}
