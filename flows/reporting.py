"""Steps and composition of ``report``: one self-contained HTML page for a batch."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from data import File, ImageError, Limits, Place, atomic_path, modified, read_table, read_thumbnail
from flows.calibrations import Calibration, read_calibration
from flows.drift import read_drift
from flows.errors import NotYetError, UsageError
from flows.heatmap import colours, png
from flows.histogram import HEIGHT, WIDTH, histogram
from flows.metrics import as_json, evaluate_batch
from flows.models import describe_model, load_model, look_again
from flows.rendering import template
from flows.run import Run, code_version
from flows.runner import Runner
from flows.settings import DecodingSettings, ReportOptions, ScoreOptions
from flows.workspace import Workspace, is_id

SHOWN_FLAGGED = 200
SHOWN_NOT_SCORED = 200
_THUMBNAIL_PX = 192


@dataclass(frozen=True)
class Reported:
    """Where the page is, and what else shows it.

    metrics: None where the batch has no labels.
    histogram: a data URL of the plot on it; empty where nothing was scored.
    """

    path: str
    metrics: dict[str, Any] | None
    headline: str = ""
    histogram: str = ""


@dataclass(frozen=True)
class Card:
    """A flagged image on the page; pictures are data URLs, empty where the file is gone."""

    path: str
    row: dict[str, Any]
    original: str
    reconstruction: str
    heatmap: str


def report_batch(options: ReportOptions, runner: Runner) -> dict[str, Any]:
    """Write the page of a scored batch again; what the command prints."""
    run = Run("report", options)
    workspace = Workspace.at(options.workspace)
    batch_id, model_id = _asked(workspace, options)
    runner.rename(f"{batch_id} with {model_id}")
    reported = runner.call(write_report, options, batch_id, model_id)
    run.record(workspace, batch_id=batch_id, model_id=model_id)
    result = {"batch_id": batch_id, "model_id": model_id, "run_id": run.run_id, "report": reported.path}
    return result | ({"metrics": reported.metrics} if reported.metrics else {})


def _asked(workspace: Workspace, options: ReportOptions) -> tuple[str, str]:
    """The batch and the model asked for; of what is not said, the one that was scored, or scored with, last."""
    batch_id = options.batch
    models = workspace.model_ids() if options.model is None else [workspace.model(options.model)]
    paths = [path for model in models for path in _scored(workspace, model, batch_id)]
    if paths:
        newest = max(paths, key=modified)
        return newest.parent.name.removeprefix("batch_id="), newest.parents[1].name.removeprefix("model_id=")
    by = "" if options.model is None else f" with model {models[0]}"
    if batch_id is None:
        raise NotYetError(f"no batch is scored yet in workspace {workspace.root}{by}. Score one with: nelbo score DIR")
    raise UsageError(
        f"batch {batch_id!r} has no scores in workspace {workspace.root}{by}. "
        "List batches with: nelbo batches, or score it with: nelbo score DIR"
    )


def _scored(workspace: Workspace, model_id: str, batch_id: str | None) -> list[Place]:
    """Scores of a model: of one batch if it has them, or of all."""
    if batch_id is not None:
        path = workspace.scores(model_id, batch_id)
        return [path] if path.exists() else []
    found = workspace.scores(model_id, "b").parents[1].glob("batch_id=*/scores.parquet")
    return [path for path in found if is_id(path.parent.name.removeprefix("batch_id="))]


def write_report(options: ReportOptions | ScoreOptions, batch_id: str, model_id: str) -> Reported:
    """Render the page of a batch from its Parquet files, its images and the model."""
    workspace = Workspace.at(options.workspace).prepare()
    path = workspace.scores(model_id, batch_id)
    if not path.exists():
        raise UsageError(f"batch {batch_id!r} is not scored with model {model_id}. Score it with: nelbo score DIR")
    table = read_table(path)
    flagged = read_table(workspace.flagged(model_id, batch_id)).sort_by([("anomaly_score", "descending")])
    calibration_id = table["calibration_id"][0].as_py()
    calibration = read_calibration(workspace, calibration_id) if calibration_id else None
    model = load_model(workspace, model_id)
    root = table.schema.metadata[b"nelbo.root"].decode()
    evaluation, n_left_out = evaluate_batch(table, calibration, workspace, model_id)
    counts = _counts(table)
    context = {
        "batch_id": batch_id,
        "model_id": model_id,
        "headline": _headline(counts, calibration),
        "counts": counts,
        "calibration": calibration,
        "promise": calibration.threshold.describe() if calibration else None,
        "discoveries": _discoveries(table, options.fdr),
        "fdr": options.fdr,
        "drift": read_drift(table),
        "histogram": _histogram(table, calibration),
        "plot": (WIDTH, HEIGHT),
        "alone": False,
        "scale": _png_url(Image.fromarray(colours(np.linspace(0, 1, 128)[None, :], 1.0))),
        "cards": _cards(flagged.slice(0, SHOWN_FLAGGED), model, root, options),
        "n_flagged": flagged.num_rows,
        "not_scored": _not_scored(table),
        "n_shown": SHOWN_NOT_SCORED,
        "evaluation": evaluation,
        "n_left_out": n_left_out,
        "config": model.config.to_dict(),
        "training_warnings": describe_model(workspace, model_id)["training"].get("warnings", []),
        "model_card": _model_card(workspace, model_id),
        "facts": _facts(table, root),
    }
    target = workspace.report(batch_id)
    with atomic_path(target, workspace.staging) as unfinished:
        # File names and reasons are untrusted text: the template escapes everything.
        unfinished.write_text(template("report.html.j2").render(context), encoding="utf-8")
    return Reported(str(target), as_json(evaluation), context["headline"], _histogram_url(context))


def _histogram_url(context: dict[str, Any]) -> str:
    """The plot by itself, with the colours that the page else gives it."""
    if context["histogram"] is None:
        return ""
    plot = template("histogram.svg.j2").render(context | {"alone": True})
    return _url("image/svg+xml", plot.encode())


def _counts(table: pa.Table) -> dict[str, int]:
    found = table["verdict"].cast(pa.string()).to_pylist()
    words = {name: found.count(name) for name in ("anomalous", "review", "normal", "not_scored")}
    return words | {"images": len(found), "scored": len(found) - words["not_scored"]}


def _headline(counts: dict[str, int], calibration: Calibration | None) -> str:
    n_scored = counts["scored"]
    if calibration is None:
        return f"{n_scored:,} of {counts['images']:,} images scored, without verdicts: the model is not calibrated."
    threshold = calibration.threshold
    text = f"{counts['anomalous']:,} of {n_scored:,} scored images are anomalous"
    if threshold.review is not None:
        text += f", {counts['review']:,} for review"
    if threshold.fpr is None:
        return f"{text}; no promised rate."
    expected = f"about {threshold.fpr * n_scored:,.0f} false alarms would be normal"
    return f"{text}; at the promised {100 * threshold.fpr:.3g} %, {expected}."


def _discoveries(table: pa.Table, fdr: float | None) -> list[str] | None:
    """Paths of the images that may be listed at that rate, the strangest first."""
    if fdr is None or table["q_value"].null_count == table.num_rows:
        return None
    rows = table.filter(pc.less_equal(table["q_value"], fdr)).sort_by([("anomaly_score", "descending")])
    return rows["relative_path"].to_pylist()


def _histogram(table: pa.Table, calibration: Calibration | None) -> Any:
    scores = table["anomaly_score"].drop_null().to_numpy()
    if not len(scores):
        return None
    if calibration is None:
        return histogram(scores, np.empty(0), None)
    threshold = calibration.threshold
    return histogram(scores, calibration.normal_scores, threshold.value, threshold.review)


def _cards(flagged: pa.Table, model: Any, root: str, decoding: DecodingSettings) -> list[Card]:
    """Pictures of flagged images: the original upright, what the model makes of it, where it differs."""
    rows = flagged.to_pylist()
    files = [File(root, row["relative_path"], row["image_id"]) for row in rows]
    cards = []
    for row, file, look in zip(rows, files, look_again(model, files, decoding), strict=True):
        # The file may have gone since it was scored; the heatmap is still there.
        original = _thumbnail(file, decoding.limits) if look else ""
        reconstruction = _jpeg_url(_picture(look.reconstruction)) if look else ""
        heatmap = _url("image/png", row.pop("heatmap_png"))
        cards.append(Card(row["relative_path"], row, original, reconstruction, heatmap))
    return cards


def _thumbnail(file: File, limits: Limits) -> str:
    try:
        return _url("image/jpeg", read_thumbnail(file, _THUMBNAIL_PX, limits))
    except ImageError:
        return ""


def _picture(pixels: np.ndarray) -> Image.Image:
    """(h, w, c) in [0, 1] as an 8-bit picture."""
    values = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def _jpeg_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return _url("image/jpeg", buffer.getvalue())


def _png_url(picture: Image.Image) -> str:
    return _url("image/png", png(picture))


def _url(kind: str, content: bytes | None) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}" if content else ""


def _not_scored(table: pa.Table) -> list[dict[str, Any]]:
    rows = table.filter(pc.equal(table["verdict"].cast(pa.string()), "not_scored"))
    return rows.select(["relative_path", "reason"]).to_pylist()


def _model_card(workspace: Workspace, model_id: str) -> str | None:
    card = workspace.card(model_id)
    return f"{card.parent.name}/{card.name}" if card.exists() else None


def _facts(table: pa.Table, root: str) -> dict[str, str]:
    metadata = table.schema.metadata
    return {
        "images from": root,
        "scored at (UTC)": f"{pc.max(table['scored_at_utc']).as_py():%Y-%m-%d %H:%M:%S}",
        "run": metadata[b"nelbo.run_id"].decode(),
        "scored by nelbo": metadata[b"nelbo.code_version"].decode(),
        "page by nelbo": code_version(),
        "config hash": metadata[b"nelbo.config_hash"].decode()[:16],
    }
