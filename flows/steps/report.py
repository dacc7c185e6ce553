"""Steps and composition of ``report``: one self-contained HTML page for a batch."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup, escape
from PIL import Image

from nelbo.data import atomic_path, modified, read_table, read_unchanged
from nelbo.data.part.frame import STATUSES
from nelbo.flows.evaluation.by_kind import as_table, by_size
from nelbo.flows.evaluation.differences import warning
from nelbo.flows.evaluation.drift import read_drift
from nelbo.flows.evaluation.evaluations import read_evaluation
from nelbo.flows.evaluation.metrics import as_json, describe_evaluation, evaluate_batch, real_figures
from nelbo.flows.evaluation.sensitivity import seen
from nelbo.flows.inference.area.known import area_of_model
from nelbo.flows.inference.maps import parse_window
from nelbo.flows.options.options import EvaluateOptions, MasksOptions, ReportOptions, ScoreOptions
from nelbo.flows.report import variants
from nelbo.flows.report.card import escape_markdown, read_card
from nelbo.flows.report.cards import N_FIRST, sections
from nelbo.flows.report.curves import render_curves
from nelbo.flows.report.headline import Known, chance, headline, known_of
from nelbo.flows.report.heatmap import colours, png
from nelbo.flows.report.histogram import HEIGHT, WIDTH, Histogram, histogram
from nelbo.flows.report.normals import read_normals
from nelbo.flows.report.pictures import data_url
from nelbo.flows.report.rendering import markdown, script, template
from nelbo.flows.runner import Runner
from nelbo.flows.workspace import catalog, journal
from nelbo.flows.workspace.calibrations.calibration import (
    REVIEWS,
    Calibration,
    caution,
    of_variants,
    promise,
    read_calibration,
)
from nelbo.flows.workspace.errors import NotYetError, UsageError, bad_input
from nelbo.flows.workspace.flagged import iter_flagged, published_run, read_audit, read_near, strangest
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import describe_model
from nelbo.flows.workspace.reviews import labels_of, latest_reviews
from nelbo.flows.workspace.runs import Run, code_version

log = logging.getLogger(__name__)

SHOWN_FLAGGED = 200
SHOWN_NOT_SCORED = 200
#: Columns of scores that the page needs; the others make up most of a large batch.
_COLUMNS = (
    "relative_path",
    "image_id",
    "anomaly_score",
    "p_value",
    "q_value",
    "verdict",
    "variant",
    "reason",
    "statistic",
    "engine",
    "label",
    "scored_at_utc",
    "calibration_id",
)


@dataclass(frozen=True)
class Reported:
    """Where the page is, and what it shows.

    metrics: None if the batch has no labels.
    cannot_see: a warning that the model is blind; None if it is not.
    summary: the page's numbers as Markdown.
    histogram: a data URL of the page's plot; empty if nothing was scored.
    """

    path: str
    metrics: dict[str, Any] | None
    cannot_see: str | None = None
    summary: str = ""
    histogram: str = ""


def report_batch(options: ReportOptions, runner: Runner) -> dict[str, Any]:
    """Write the page of a scored batch again; returns what the command prints."""
    run = Run("report", options)
    workspace = Workspace.at(options.workspace)
    write_missing_pages(options, runner)
    batch_id, model_id = asked(workspace, options)
    runner.rename(f"{batch_id} with {model_id}")
    reported = runner.call(write_report, options, batch_id, model_id)
    run.record(workspace, batch_id=batch_id, model_id=model_id)
    show_reported(reported, {"report": reported.path}, runner)
    ids = {"batch_id": batch_id, "model_id": model_id, "run_id": run.run_id}
    return ids | {"report": reported.path} | ({"metrics": reported.metrics} if reported.metrics else {})


def asked(workspace: Workspace, options: ReportOptions | EvaluateOptions | MasksOptions) -> tuple[str, str]:
    """The batch and the model that the options name; by default the last batch scored, and the model that scored it."""
    batch_id = options.batch and catalog.find_scored(workspace, "batch", options.batch)
    if options.model == "latest":
        model_id: str | None = catalog.find_model(workspace, options.model)
    else:
        model_id = options.model and catalog.find_scored(workspace, "model", options.model)
    found = catalog.published(workspace, batch_id=batch_id, model_id=model_id)
    if found.num_rows:
        newest = found.slice(found.num_rows - 1).to_pylist()[0]
        return newest["batch_id"], newest["model_id"]
    by = "" if model_id is None else f" with model {model_id}"
    if batch_id is None:
        raise NotYetError(f"no batch is scored yet in workspace {workspace.root}{by}. Score one with: nelbo score DIR")
    raise UsageError(
        f"batch {batch_id!r} has no scores in workspace {workspace.root}{by}. "
        "List batches with: nelbo batches, or score it with: nelbo score DIR"
    )


def write_report(options: ReportOptions | ScoreOptions, batch_id: str, model_id: str) -> Reported:
    """Render the page of a batch from its Parquet files; neither its images nor the model are opened."""
    workspace = Workspace.at(options.workspace).prepare()
    path = workspace.scores(model_id, batch_id)
    if not path.exists():
        raise UsageError(f"batch {batch_id!r} is not scored with model {model_id}. Score it with: nelbo score DIR")
    rows = _read(workspace, model_id, batch_id)
    table = rows.scores
    numbers = _numbers(table, workspace, model_id, options)
    code, allowed = script("report.js.j2")
    measures = read_evaluation(workspace, model_id, batch_id)
    page = numbers | {
        "batch_id": batch_id,
        "model_id": model_id,
        "scale": data_url("image/png", png(Image.fromarray(colours(np.linspace(0, 1, 128)[None, :])))),
        "hatched": area_of_model(workspace, model_id) is not None,
        "sections": sections(*rows, read_normals(workspace, model_id)),
        "n_first": N_FIRST,
        "window": parse_window({name.decode(): text.decode() for name, text in table.schema.metadata.items()}),
        "found": STATUSES,
        "variant": variants.named,
        "not_scored": table.filter(pc.is_valid(table["reason"])).select(["relative_path", "reason"]).to_pylist(),
        "n_shown": SHOWN_NOT_SCORED,
        "script": code,
        "script_source": allowed,
        **_model(workspace, model_id),
        "facts": _facts(table),
        "by_kind": [shown for shown in (as_table(measures), by_size(measures)) if shown],
    }
    target = workspace.report(batch_id)
    with atomic_path(target, workspace.staging) as unfinished:
        # File names and reasons are untrusted text: the template escapes everything.
        unfinished.write_text(template("report.html.j2").render(page), encoding="utf-8")
    summary = template("report.md.j2", autoescape=False, finalize=escape_markdown).render(numbers)
    metrics = as_json(numbers["evaluation"])
    return Reported(str(target), metrics, numbers["cannot_see"], summary, _histogram_url(numbers))


def write_missing_pages(options: ReportOptions | ScoreOptions, runner: Runner) -> None:
    """Write the pages of batches whose run published them and was killed before it wrote the page."""
    workspace = Workspace.at(options.workspace)
    for row in journal.published(workspace):
        batch_id, model_id = row["batch_id"], row["model_id"]
        try:
            page = workspace.report(batch_id)
            if not page.exists() or modified(page) < modified(workspace.scores(model_id, batch_id)):
                runner.call(write_report, options, batch_id, model_id)
        except bad_input() as error:
            # The missing page must not stop the present command.
            log.warning("batch %s of a killed run stays without its page: %s", batch_id, error)
        journal.close(workspace, row["run_id"])


def show_reported(reported: Reported, paths: Mapping[str, str], runner: Runner) -> None:
    """Show the page's numbers and its plot where people see the run, with links to the files."""
    links = [
        f"* {name}: [{path}]({Path(path).absolute().as_uri() if '://' not in path else path})"
        for name, path in paths.items()
    ]
    runner.show("report", "\n".join([reported.summary, *links]))
    if reported.histogram:
        runner.show("scores", reported.histogram)


def _numbers(
    table: pa.Table, workspace: Workspace, model_id: str, options: ReportOptions | ScoreOptions
) -> dict[str, Any]:
    """The numbers and sentences on a batch, for its page and beside the run."""
    calibration_id = table["calibration_id"][0].as_py()
    calibration = read_calibration(workspace, calibration_id) if calibration_id else None
    threshold = calibration.threshold if calibration else None
    counts = _counts(table)
    evaluation, n_left_out = evaluate_batch(table, calibration, workspace, model_id)
    sees = seen(workspace, model_id, calibration)
    cannot_see = None if sees is None else sees.cannot_see
    drift = read_drift(table)
    known = known_of(table, labels_of(latest_reviews(workspace))) if calibration else Known([], False)
    return {
        "calibration": calibration,
        "statistic": table["statistic"][0].as_py(),
        "counts": counts,
        "variants": variants.count(table),
        "promises": {one["variant"]: one["promise"] for one in of_variants(calibration)} if calibration else {},
        "headline": headline(counts, threshold),
        "known": known.said,
        "chance": chance(counts, threshold, blind=cannot_see is not None, defects=known.defects),
        "cannot_see": cannot_see,
        "real": real_figures(as_json(evaluation)) if evaluation else None,
        "promise": _promise(calibration) if calibration else None,
        "discoveries": _discoveries(table, options.fdr),
        "fdr": options.fdr,
        "drift": drift,
        # Batches of earlier versions have no drift.
        "differs": warning(drift.get("differs", [])) if drift else None,
        "histogram": _histogram(table, calibration),
        "plot": (WIDTH, HEIGHT),
        "alone": False,
        "evaluation": evaluation,
        "metrics": describe_evaluation(evaluation) if evaluation else [],
        "n_left_out": n_left_out,
    }


def _promise(calibration: Calibration) -> str:
    text = promise(calibration)
    return f"{text}; {caution(calibration)}" if calibration.labels_from == REVIEWS else text


def _counts(table: pa.Table) -> dict[str, int]:
    found = {row["values"]: row["counts"] for row in table["verdict"].cast(pa.string()).value_counts().to_pylist()}
    words = {name: found.get(name, 0) for name in ("anomalous", "review", "normal", "not_scored")}
    return words | {"images": table.num_rows, "scored": table.num_rows - words["not_scored"]}


def _discoveries(table: pa.Table, fdr: float | None) -> list[str] | None:
    """Paths of the images that may be listed at this false discovery rate, the strangest first."""
    if fdr is None or table["q_value"].null_count == table.num_rows:
        return None
    rows = table.filter(pc.less_equal(table["q_value"], fdr)).sort_by([("anomaly_score", "descending")])
    return rows["relative_path"].to_pylist()


def _histogram(table: pa.Table, calibration: Calibration | None) -> Histogram | None:
    scores = table["anomaly_score"].drop_null().to_numpy()
    if not len(scores):
        return None
    if calibration is None:
        return histogram(scores, np.empty(0), None)
    threshold = calibration.threshold
    return histogram(scores, calibration.normal_scores, threshold.value, threshold.review)


def _histogram_url(numbers: dict[str, Any]) -> str:
    """The plot by itself, with the colours that the page would otherwise give it."""
    if numbers["histogram"] is None:
        return ""
    plot = template("histogram.svg.j2").render(numbers | {"alone": True})
    return data_url("image/svg+xml", plot.encode())


class _Rows(NamedTuple):
    """Rows of a batch, all by one run.

    scores: all rows.
    flagged: the strangest flagged rows.
    n_flagged: the number of all flagged rows.
    kept: other rows with pictures: the nearly flagged ones, and the audit sample.
    """

    scores: pa.Table
    flagged: pa.Table
    n_flagged: int
    kept: pa.Table


def _read(workspace: Workspace, model_id: str, batch_id: str) -> _Rows:
    path, ids = workspace.scores(model_id, batch_id), (workspace, model_id, batch_id)
    while True:
        table = read_table(path, _COLUMNS)
        run_id = table.schema.metadata[b"nelbo.run_id"].decode()
        flagged, n_flagged = read_unchanged(lambda: strangest(iter_flagged(*ids), SHOWN_FLAGGED))
        kept = read_unchanged(lambda: pa.concat_tables([read_near(*ids), read_audit(*ids)]))
        if published_run(*ids) == run_id:
            return _Rows(table, flagged, n_flagged, kept)


def _model(workspace: Workspace, model_id: str) -> dict[str, Any]:
    """What the page says about the model; little if the model no longer exists."""
    try:
        described = describe_model(workspace, model_id)
    except bad_input() as error:
        return {"config": {}, "training_warnings": [], "model_card": escape(error)}
    return {
        "config": described["config"],
        "training_warnings": described["training"].get("warnings", []),
        "model_card": _model_card(workspace, model_id),
    }


def _model_card(workspace: Workspace, model_id: str) -> Markup:
    """The model's card with its curves; or why there is none, if a file that it is made from is gone."""
    try:
        curves = data_url("image/svg+xml", render_curves(read_table(workspace.history(model_id))).encode())
        return markdown(read_card(workspace, model_id, {"curves": curves}), level=3)
    except bad_input() as error:
        return escape(error)


def _facts(table: pa.Table) -> dict[str, str]:
    metadata = table.schema.metadata
    return {
        "images from": metadata[b"nelbo.root"].decode(),
        "scored at (UTC)": f"{pc.max(table['scored_at_utc']).as_py():%Y-%m-%d %H:%M:%S}",
        "run": metadata[b"nelbo.run_id"].decode(),
        "config hash": metadata[b"nelbo.config_hash"].decode()[:16],
        "scored by": f"nelbo {metadata[b'nelbo.code_version'].decode()}, engine {table['engine'][0].as_py()}",
        "page made by": f"nelbo {code_version()}",
    }
