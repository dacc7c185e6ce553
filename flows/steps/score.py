"""Steps and composition of ``score``: a batch of images in, verdicts in Parquet out."""

import logging
import platform
from collections.abc import Iterator, Sequence
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
from nelbo.flows.evaluation.differences import warning
from nelbo.flows.inference.ahead import ahead
from nelbo.flows.inference.engines import choose_engine
from nelbo.flows.inference.kept.audit import Draw, audit_keys
from nelbo.flows.inference.kept.near import Near
from nelbo.flows.inference.maps import read_window
from nelbo.flows.inference.models import load_model
from nelbo.flows.inference.pipeline import SCORED_SCHEMA, Drawing, score_files
from nelbo.flows.inference.progress import moved
from nelbo.flows.inference.publishing import AllChangedError, publish
from nelbo.flows.inference.shards import Shard, Target, chunks, plan_shards
from nelbo.flows.inference.signals import keeping
from nelbo.flows.inference.why.looks import read_looks
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.runner import Runner
from nelbo.flows.steps.ingest import Batch, freeze_batch
from nelbo.flows.steps.land import drop_batch, finish_batch, freeze_new, unfinished_batch
from nelbo.flows.steps.report import Reported, show_reported, write_missing_pages, write_report
from nelbo.flows.workspace import catalog, journal
from nelbo.flows.workspace.calibrations.calibration import calibration_of, read_calibration
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import spread

log = logging.getLogger(__name__)

#: How often other jobs may finish the same batch first before this one gives up.
_ATTEMPTS = 5


def score_batch(options: ScoreOptions, runner: Runner) -> dict[str, Any]:
    """Freeze, score shard by shard, publish, report; what the command prints."""
    run = Run("score", options)
    workspace = Workspace.at(options.workspace)
    write_missing_pages(options, runner)
    model_id = catalog.find_model(workspace, options.model)
    calibration_id = calibration_for(workspace, model_id, options.calibration, options.uncalibrated)
    if options.new and options.batch_id is None:
        return _score_new(options, model_id, calibration_id, runner)
    # A damaged model, or an engine that is off, is found before anything is written.
    options = _with_engine(options, model_id)
    batch = runner.call(freeze_batch, options, run)
    return _score_frozen(options, Target(batch.batch_id, model_id, calibration_id, run.run_id), batch, runner, run)


def _score_new(options: ScoreOptions, model_id: str, calibration_id: str | None, runner: Runner) -> dict[str, Any]:
    """What no earlier batch of the folder holds, after the batch that an earlier run has left unfinished."""
    done: list[dict[str, Any]] = []

    def score(batch: Batch, run: Run) -> None:
        target = Target(batch.batch_id, model_id, calibration_id, run.run_id)
        try:
            result = _score_frozen(options, target, batch, runner, run)
        except AllChangedError:
            runner.call(drop_batch, options, batch.batch_id, model_id)
        else:
            runner.call(finish_batch, options, batch.batch_id, model_id)
            done.append(result)

    left = runner.call(unfinished_batch, options)
    if left is not None:
        score(left, Run("score", options))
    run = Run("score", options)
    batch = runner.call(freeze_new, options, run)
    if batch.n_images:
        score(batch, run)
    if not done:
        counts = dict.fromkeys(("n_images", "n_scored", "n_not_scored", "n_anomalous", "n_review"), 0)
        waiting = {"n_waiting": batch.n_waiting + batch.n_images, "n_skipped": batch.n_skipped}
        waiting |= {"n_folders_unlisted": batch.n_folders_unlisted}
        return {"skipped": f"nothing new in {options.images}", "batch_id": None, **counts, **waiting, "batches": []}
    of_both = sum(result["n_anomalous"] for result in done)
    return {**done[-1], "batches": [result["batch_id"] for result in done], "n_anomalous_in_batches": of_both}


def _score_frozen(options: ScoreOptions, target: Target, batch: Batch, runner: Runner, run: Run) -> dict[str, Any]:
    """All steps after the first, and what there is to print of them."""
    runner.rename(f"{target.batch_id} with {target.model_id}")
    workspace = Workspace.at(options.workspace)
    # Loading is none of the time that images take.
    options = _with_engine(options, target.model_id)
    with workspace.using(target.batch_id):
        published = _score_and_publish(options, target, batch, runner, run)
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
        "n_skipped": batch.n_skipped,
        "drift": published["drift"] and {name: published["drift"][name] for name in ("alarm", "findings")},
        "scores": str(workspace.scores(target.model_id, target.batch_id)),
        "flagged": str(workspace.flagged(target.model_id, target.batch_id)),
        "audit": str(workspace.audit(target.model_id, target.batch_id)),
        "near": str(workspace.near(target.model_id, target.batch_id)),
        "report": reported.path,
        **({"cannot_see": reported.cannot_see} if reported.cannot_see else {}),
        "seconds": round(run.seconds, 3),
        **({"metrics": reported.metrics} if reported.metrics else {}),
    }
    if reported.cannot_see:
        log.warning("%s.", reported.cannot_see)
    _tell(result, reported, options, runner)
    return result


def _with_engine(options: ScoreOptions, model_id: str) -> ScoreOptions:
    """The same, with the name of an engine that is loaded."""
    engine = choose_engine(Workspace.at(options.workspace), model_id, options.engine)
    return options.model_copy(update={"engine": engine})


def _tell(result: dict[str, Any], reported: Reported, options: ScoreOptions, runner: Runner) -> None:
    """What people see beside the run, and what others may wait for."""
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
    """What there is to say of the batch, and its speed. Shards of a run that fails stay for the next one."""
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
            # Another job on this batch has published it and tidied up: the shards that both share are gone.
            if not left:
                raise
            log.info("another job has just published batch %s: what it removed is scored again", target.batch_id)
            continue
        remove_folder(target.staging(options))
        return published | {"images_per_s": round(images_per_s, 1)}
    raise AssertionError("the last attempt returns or raises")


def _finished(shards: Sequence[Shard]) -> str:
    """What of an unfinished batch the same command does not score again."""
    n_finished = sum(shard.is_finished for shard in shards)
    return f"{n_finished:,} of {len(shards):,} shards are scored and kept" if n_finished else ""


def calibration_for(workspace: Workspace, model_id: str, name: str | None, uncalibrated: bool) -> str | None:
    """The id of the calibration that is asked for, or of the current one; None for numbers without verdicts."""
    if uncalibrated:
        return None
    calibration = calibration_of(workspace, model_id, name)
    if calibration is None:
        raise UsageError(
            f"model {model_id} is not calibrated, so there are no verdicts. "
            "Calibrate it with: nelbo calibrate --normal DIR, or ask for numbers only with --uncalibrated."
        )
    return calibration.calibration_id


def score_shards(shards: Sequence[Shard]) -> int:
    """Decode, score and write shards of a batch, in their order, all at once; how many files were scored now."""
    shards = [shard for shard in shards if not shard.is_finished]
    if not shards:
        return 0
    options, target = shards[0].options, shards[0].target
    workspace = Workspace.at(options.workspace)
    model = load_model(workspace, target.model_id, options.engine)
    calibration = read_calibration(workspace, target.calibration_id) if target.calibration_id else None
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
            # Again: had it gone meanwhile, images would stand there as unreadable.
            _check_root(root)
            write_table(_with_scores(table, found), shard.path, SHARD_SCHEMA)
    return sum(shard.size for shard in shards)


def _usable(listed: Sequence[pa.Table], root: str) -> Iterator[File]:
    """The files of some shards to open: not those that the manifest found unusable."""
    for table in listed:
        _check_root(root)
        yield from Manifest(table.filter(pc.is_null(table["reason"])), root).files


def _draw(listed: Sequence[pa.Table], options: ScoreOptions, target: Target) -> Drawing:
    """What says of the usable files of some shards, in their order, which are kept: for the audit, or as near."""
    usable = [table.filter(pc.is_null(table["reason"]))["relative_path"].to_pylist() for table in listed]
    audit = Draw([audit_keys(paths, target.batch_id, options.audit_seed) for paths in usable], options.audit)
    near = Near()
    return lambda eligible, scores: audit(eligible) | near(eligible, scores)


def _cut(scored: Iterator[pa.Table], listed: Sequence[pa.Table]) -> Iterator[pa.Table]:
    """Scored rows that come some at a time, as many together as each shard has usable files."""
    rows = SCORED_SCHEMA.empty_table()
    for table in listed:
        n, parts = table["reason"].null_count, [rows]
        while sum(part.num_rows for part in parts) < n:
            parts.append(next(scored))
            moved(parts[-1].num_rows)
        rows = pa.concat_tables(parts)
        yield rows.slice(0, n)
        rows = rows.slice(n)


def _with_scores(listed: pa.Table, scored: pa.Table) -> pa.Table:
    """A shard's rows: files of the manifest with their scores; `scored` has the usable ones."""
    usable = np.asarray(pc.is_null(listed["reason"]))
    found = spread({name: scored[name] for name in scored.column_names}, usable)
    columns = {name: listed[name] for name in ("relative_path", "image_id", "label", "width_px", "height_px")}
    columns |= {
        name: found[name] for name in (*MEASURED, *QUALITY, "why", "drops_colour", "part", *PICTURED_SCHEMA.names)
    }
    columns |= {
        "reason": pc.coalesce(listed["reason"], found["reason"]),
        "scored_at_utc": pa.array([datetime.now(UTC)] * len(usable), pa.timestamp("us", tz="UTC")),
    }
    return pa.table(columns)


def _check_root(root: str) -> None:
    """That a batch's folder or archive is there: without it, each of its files would seem to be unreadable or gone."""
    if not is_there(root):
        raise UsageError(
            f"{root} is not there on {platform.node()}, and images in it are to be scored. Mount it, or make it "
            "visible there under the same path; then run the same command again."
        )
