"""Each command once: the command line, the flows, their deployments and docs/commands.md are made of it."""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any


@dataclass(frozen=True)
class Command:
    """What a command is called, does and takes.

    function: module and name, imported when it is wanted. It takes the options, and a flow's a runner, too; what it
        returns is printed, or each that it yields.
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
        """Whether it runs through Prefect, too: what is made of steps does, what only reads or serves does not."""
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
        "Find a model's threshold anew, from normal images or from labels; its weights stay as they are.",
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
        "export",
        "steps.export:export_model",
        "ExportOptions",
        "Make a model ready for a faster engine; refused if a score or a verdict changes.",
        "nelbo export --engine openvino",
    ),
    Command(
        "sensitivity",
        "steps.sensitivity:find_sensitivity",
        "SensitivityOptions",
        "Say what a model sees of simulated defects; with --on, paint them on normal images that it has not seen.",
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
        "Say how well a scored batch finds real defects, by kind; with --masks, where they are, too.",
        "nelbo evaluate --batch night-1 --masks ground_truth/",
    ),
    Command(
        "dashboard",
        "dashboard.server:serve_dashboard",
        "DashboardOptions",
        "Serve the web pages over the workspace, until stopped.",
        "nelbo dashboard --port 8502",
    ),
    Command(
        "prune",
        "steps.prune:prune_workspace",
        "PruneOptions",
        "Say which old batches, runs and leftovers may go, or delete them with --apply.",
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
        "Say what an older version left in workspace, settings (--config) and deployments; bring it up to date with "
        "--apply.",
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
        "Say what this system has and lacks, and how to get it; exit with 1 if nelbo cannot run.",
        "nelbo doctor",
    ),
    Command(
        "serve",
        "orchestration.execution:serve",
        "ServeOptions",
        "Run the scheduled deployments from this process until stopped; needs a Prefect server, and no pool.",
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

#: By name, in the order of their work.
COMMANDS = {command.name: command for command in _ALL}
