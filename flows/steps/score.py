"""Steps and composition of ``score``: a batch of images in, verdicts in Parquet out."""

import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import (
    MEASURED,
    PICTURED_SCHEMA,
    QUALITY,
    SHARD_SCHEMA,
    File,
    Manifest,
    is_there,
    read_metadata,
    read_rows,
    remove_folder,
    write_table,
)
from nelbo.data.decoder.workers import start_ahead
from nelbo.flows.evaluation.differences import warning
from nelbo.flows.inference.ahead import ahead
from nelbo.flows.inference.engines import calibrations_for, choose_engine
from nelbo.flows.inference.kept.audit import Draw, audit_keys
from nelbo.flows.inference.kept.near import Near
from nelbo.flows.inference.maps import read_window
from nelbo.flows.inference.models import load_model
from nelbo.flows.inference.pipeline import SCORED_SCHEMA, Drawing, score_files
from nelbo.flows.inference.progress import moved
from nelbo.flows.inference.publishing import AllChangedError, publish, warn_of
from nelbo.flows.inference.shards import Shard, Target, chunks, plan_shards
from nelbo.flows.inference.signals import keeping
from nelbo.flows.inference.why.looks import read_looks
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.runner import Runner
from nelbo.flows.steps.ingest import Batch, freeze_batch
from nelbo.flows.steps.land import drop_batch, finish_batch, freeze_new, ledger_of, unfinished_batch
from nelbo.flows.steps.report import Reported, show_reported, write_missing_pages, write_report
from nelbo.flows.workspace import catalog, journal
from nelbo.flows.workspace.calibrations.calibration import read_calibration
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import spread
from nelbo.vae_core import precision_of

log = logging.getLogger(__name__)

#: Attempts at a batch that other jobs finish first, before this job gives up.
_ATTEMPTS = 5


def score_batch(options: ScoreOptions, runner: Runner) -> dict[str, Any]:
    """Freeze, score shard by shard, publish, report; returns what the command prints."""
    run = Run("score", options)
    workspace = Workspace.at(options.workspace)
    write_missing_pages(options, runner)
    model_id = catalog.find_model(workspace, options.model)
    calibrations = calibrations_for(workspace, model_id, options.calibration, options.uncalibrated)
    if options.new and options.batch_id is None:
        return _score_new(options, model_id, calibrations, runner)
    start_ahead()
    # Find a damaged model, or an engine whose scores are off, before anything is written.
    options = _with_engine(options, model_id, calibrations)
    batch = runner.call(freeze_batch, options, run)
    return _score_frozen(options, model_id, calibrations, batch, runner, run)


def score_unfinished(
    options: ScoreOptions, model_id: str, calibrations: Mapping[str, str | None], runner: Runner
) -> dict[str, Any] | None:
    """Score the batch of a landing folder that an earlier run has left unfinished; None if nothing of it is left."""
    left = runner.call(unfinished_batch, options)
    if left is None:
        return None
    return _score_taken(options, model_id, calibrations, left, runner, Run("score", options))


def _score_taken(
    options: ScoreOptions,
    model_id: str,
    calibrations: Mapping[str, str | None],
    batch: Batch,
    runner: Runner,
    run: Run,
) -> dict[str, Any] | None:
    """Score and finish a batch that stands in its folder's ledger; None if all its files have changed or gone."""
    try:
        result = _score_frozen(options, model_id, calibrations, batch, runner, run)
    except AllChangedError:
        runner.call(drop_batch, options, batch.batch_id, model_id)
        return None
    runner.call(finish_batch, options, batch.batch_id, model_id)
    return result


def _score_new(
    options: ScoreOptions, model_id: str, calibrations: Mapping[str, str | None], runner: Runner
) -> dict[str, Any]:
    """Score the batch that an earlier run has left unfinished, then the files that no earlier batch holds."""
    with ledger_of(options).following():
        results = [score_unfinished(options, model_id, calibrations, runner)]
        run = Run("score", options)
        batch = runner.call(freeze_new, options, run)
        if batch.n_images:
            results.append(_score_taken(options, model_id, calibrations, batch, runner, run))
    done = [result for result in results if result is not None]
    if not done:
        counts = dict.fromkeys(("n_images", "n_scored", "n_not_scored", "n_anomalous", "n_review"), 0)
        waiting = {"n_waiting": batch.n_waiting + batch.n_images, "n_skipped": batch.n_skipped}
        waiting |= {"n_folders_unlisted": batch.n_folders_unlisted}
        return {"skipped": f"nothing new in {options.images}", "batch_id": None, **counts, **waiting, "batches": []}
    of_both = sum(result["n_anomalous"] for result in done)
    return {**done[-1], "batches": [result["batch_id"] for result in done], "n_anomalous_in_batches": of_both}


def _score_frozen(
    options: ScoreOptions,
    model_id: str,
    calibrations: Mapping[str, str | None],
    batch: Batch,
    runner: Runner,
    run: Run,
) -> dict[str, Any]:
    """Run all steps after freezing; returns what the command prints."""
    runner.rename(f"{batch.batch_id} with {model_id}")
    workspace = Workspace.at(options.workspace)
    # Load the model first: loading does not count in the time per image.
    options = _with_engine(options, model_id, calibrations)
    target = Target(batch.batch_id, model_id, calibrations[precision_of(options.engine)], run.run_id)
    with workspace.using(target.batch_id):
        published = _score_and_publish(options, target, batch, runner, run)
    result = conclude(options, target, batch.n_skipped, published, runner, run)
    warn_of(result["no_regions"], result.get("cannot_see"), target.calibration_id is not None)
    return result


def conclude(
    options: ScoreOptions, target: Target, n_skipped: int, published: dict[str, Any], runner: Runner, run: Run
) -> dict[str, Any]:
    """Write the page of a published batch; returns what the command prints.

    Args:
        published: the facts about the batch that `publish` returns, with ``images_per_s``.
    """
    workspace = Workspace.at(options.workspace)
    differs = published["drift"]["differs"] if published["drift"] else []
    if differs:
        log.warning("%s", warning(differs))
    reported = runner.call(write_report, options, target.batch_id, target.model_id)
    journal.close(workspace, run.run_id)
    result = {
        "batch_id": target.batch_id,
        "model_id": target.model_id,
        "calibration_id": target.calibration_id,
        "run_id": run.run_id,
        "engine": options.engine,
        "differs": differs,
        **published,
        "n_skipped": n_skipped,
        "drift": published["drift"] and {name: published["drift"][name] for name in ("alarm", "findings")},
        "scores": str(workspace.scores(target.model_id, target.batch_id)),
        "flagged": str(workspace.flagged(target.model_id, target.batch_id)),
        "audit": str(workspace.audit(target.model_id, target.batch_id)),
        "near": str(workspace.near(target.model_id, target.batch_id)),
        "regions": str(workspace.regions(target.model_id, target.batch_id)),
        "report": reported.path,
        **({"cannot_see": reported.cannot_see} if reported.cannot_see else {}),
        "seconds": round(run.seconds, 3),
        **({"metrics": reported.metrics} if reported.metrics else {}),
    }
    _tell(result, reported, options, runner)
    return result


def _with_engine(options: ScoreOptions, model_id: str, calibrations: Mapping[str, str | None]) -> ScoreOptions:
    """The options with the name of an engine that is loaded, and whose fit has one of the calibrations."""
    engine = choose_engine(Workspace.at(options.workspace), model_id, options.engine, calibrations)
    return options.model_copy(update={"engine": engine})


def _tell(result: dict[str, Any], reported: Reported, options: ScoreOptions, runner: Runner) -> None:
    """Show people the result beside the run, and announce the events that others may wait for."""
    paths = {name: result[name] for name in ("scores", "flagged", "report")}
    shown = {name: value for name, value in result.items() if isinstance(value, str | int | float)}
    runner.show("summary", [{"what": name, "value": value} for name, value in shown.items()])
    show_reported(reported, paths, runner)
    ids = {name: result[name] for name in ("batch_id", "model_id", "calibration_id", "run_id")}
    about = {**ids, "workspace": options.workspace, "images": options.images}
    counts = {name: value for name, value in result.items() if name.startswith("n_")}
    runner.announce("nelbo.scores.ready", f"batch.{result['batch_id']}", **about, **counts, **paths)
    if result["drift"] and result["drift"]["alarm"]:
        findings = [one["sentence"] for one in result["differs"]] + result["drift"]["findings"]
        runner.announce("nelbo.drift.detected", f"batch.{result['batch_id']}", **about, findings=findings)


def _score_and_publish(options: ScoreOptions, target: Target, batch: Batch, runner: Runner, run: Run) -> dict[str, Any]:
    """Score and publish the batch; returns facts about it, and its speed. A failed run's shards stay for the next."""
    for left in reversed(range(_ATTEMPTS)):
        started = run.seconds
        try:
            shards = plan_shards(options, target, batch.n_images)
            parts = chunks(shards, options.runner)
            with keeping(partial(_finished, shards)):
                n_scored = sum(runner.map(score_shards, parts, [sum(shard.size for shard in part) for part in parts]))
                images_per_s = n_scored / (run.seconds - started)
                known = {
                    "n_waiting": batch.n_waiting,
                    "n_folders_unlisted": batch.n_folders_unlisted,
                    "images_per_s": images_per_s,
                }
                published = runner.call(publish, shards, replace(run, facts=known))
        except FileNotFoundError:
            # Another job on this batch has published it and tidied up: the shards that both jobs shared are gone.
            if not left:
                raise
            log.info("another job has published batch %s: the shards that it removed are scored again", target.batch_id)
            continue
        remove_folder(target.staging(options))
        return published | {"images_per_s": round(images_per_s, 1)}
    raise AssertionError("the last attempt returns or raises")


def _finished(shards: Sequence[Shard]) -> str:
    """The work on an unfinished batch that the same command does not repeat."""
    n_finished = sum(shard.is_finished for shard in shards)
    return f"{n_finished:,} of {len(shards):,} shards are scored and kept" if n_finished else ""


def score_shards(shards: Sequence[Shard]) -> int:
    """Decode, score and write shards of a batch, in order, in one pass; returns how many files were scored now."""
    shards = [shard for shard in shards if not shard.is_finished]
    if not shards:
        return 0
    options, target = shards[0].options, shards[0].target
    workspace = Workspace.at(options.workspace)
    model = load_model(workspace, target.model_id, options.engine)
    calibration = read_calibration(workspace, target.calibration_id) if target.calibration_id else None
    if calibration is not None:
        calibration.check_fit(model)
    looks = read_looks(workspace, target.model_id)
    manifest = workspace.manifest(target.batch_id)
    root = read_metadata(manifest)["nelbo.root"]
    first, last = shards[0], shards[-1]
    rows = read_rows(manifest, first.start, last.start + last.size - first.start)
    listed = [rows.slice(shard.start - first.start, shard.size) for shard in shards]
    draw, window = _draw(listed, options, target), read_window(workspace, target.model_id)
    found = score_files(model, _usable(listed, root), options, calibration, looks, draw, window)
    with closing(ahead(found)) as scored:
        for shard, table, found in zip(shards, listed, _cut(scored, listed), strict=True):
            # Check again: if the root vanished meanwhile, its images would be recorded as unreadable.
            _check_root(root)
            write_table(with_scores(table, found), shard.path, SHARD_SCHEMA)
    return sum(shard.size for shard in shards)


def _usable(listed: Sequence[pa.Table], root: str) -> Iterator[File]:
    """The files of some shards to open: all but those that the manifest found unusable."""
    for table in listed:
        _check_root(root)
        yield from Manifest(table.filter(pc.is_null(table["reason"])), root).files


def _draw(listed: Sequence[pa.Table], options: ScoreOptions, target: Target) -> Drawing:
    """A function that says which usable files of some shards are kept, in order: for the audit or as nearly flagged."""
    usable = [table.filter(pc.is_null(table["reason"]))["relative_path"].to_pylist() for table in listed]
    audit = Draw([audit_keys(paths, target.batch_id, options.audit_seed) for paths in usable], options.audit)
    near = Near()
    return lambda eligible, scores: audit(eligible) | near(eligible, scores)


def _cut(scored: Iterator[pa.Table], listed: Sequence[pa.Table]) -> Iterator[pa.Table]:
    """Regroup scored rows, which come some at a time, into as many as each shard has usable files."""
    rows = SCORED_SCHEMA.empty_table()
    for table in listed:
        n, parts = table["reason"].null_count, [rows]
        while sum(part.num_rows for part in parts) < n:
            parts.append(next(scored))
            moved(parts[-1].num_rows)
        rows = pa.concat_tables(parts)
        yield rows.slice(0, n)
        rows = rows.slice(n)


def with_scores(listed: pa.Table, scored: pa.Table) -> pa.Table:
    """A shard's rows: files of the manifest with their scores; `scored` has the usable ones."""
    usable = np.asarray(pc.is_null(listed["reason"]))
    found = spread({name: scored[name] for name in scored.column_names}, usable)
    columns = {name: listed[name] for name in ("relative_path", "image_id", "label", "width_px", "height_px")}
    columns |= {
        name: found[name]
        for name in (*MEASURED, *QUALITY, "why", "drops_colour", "part", *PICTURED_SCHEMA.names, "regions")
    }
    columns |= {
        "reason": pc.coalesce(listed["reason"], found["reason"]),
        "scored_at_utc": pa.array([datetime.now(UTC)] * len(usable), pa.timestamp("us", tz="UTC")),
    }
    return pa.table(columns)


def _check_root(root: str) -> None:
    """Check that a batch's folder or archive is there: without it, each file would seem unreadable or gone."""
    if not is_there(root):
        raise UsageError(
            f"{root} is not there on {platform.node()}, which has to score images in it. Mount it, or make it "
            "visible there under the same path; then run the same command again."
        )
