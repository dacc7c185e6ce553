"""Steps and composition of ``train``: normal images in, a model with a calibrated threshold out."""

import logging
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from nelbo import vae_core
from nelbo.data import normal_in, read_table
from nelbo.flows.evaluation.remedies import remedies
from nelbo.flows.evaluation.sensitivity import best_of, seen
from nelbo.flows.evaluation.thresholds import calibration_needs
from nelbo.flows.inference.area.reading import read_mask
from nelbo.flows.inference.signals import keeping
from nelbo.flows.options.options import ExportOptions, TrainOptions
from nelbo.flows.options.settings import DecodingSettings
from nelbo.flows.options.types import AUTO
from nelbo.flows.report.card import read_card, write_card
from nelbo.flows.runner import Runner
from nelbo.flows.steps.calibrate import calibrate_model
from nelbo.flows.steps.export import export_engine
from nelbo.flows.steps.fit import Fitted, clean_up, fit, kept, model_config, train_config, unseen_rows
from nelbo.flows.steps.ingest import content_id, folders_unlisted, publish_manifest, scan_source
from nelbo.flows.steps.judge import Gated, freeze_gate, judge_candidate
from nelbo.flows.steps.parts import (
    assign_parts,
    check_enough,
    check_normal,
    check_parts,
    first_of_each,
    with_groups,
    with_variants,
    without_test,
)
from nelbo.flows.steps.precision.choosing import Chosen, choose_precision, drop_second
from nelbo.flows.steps.settle import Settled, settle
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.calibrations.calibration import Calibration, describe, read_calibration, standing
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import describe_model
from nelbo.flows.workspace.runs import Run
from nelbo.vae_core.config import BACKBONES, INT8, PRESETS

log = logging.getLogger(__name__)

#: Settings that say how files become pixels.
_DECODED_BY = {"image_size", "channels", "fit", "binarize", "value_range", "locate"}


def train_model(options: TrainOptions, runner: Runner) -> dict[str, Any]:
    """Ingest, split, train, calibrate, and promote if a gate allows it; returns what the command prints."""
    if options.candidates:
        return _train_each(options, runner)
    run = Run("train", options)
    workspace = Workspace.at(options.workspace)
    batch_id = runner.call(freeze_normals, options, run)
    with workspace.using(batch_id):
        if options.gate is None:
            return _train_frozen(options, batch_id, None, runner, run)
        gate_id = runner.call(freeze_gate, options, batch_id, run)
        with workspace.using(gate_id):
            return _train_frozen(options, batch_id, gate_id, runner, run)


def _train_frozen(
    options: TrainOptions, batch_id: str, gate_id: str | None, runner: Runner, run: Run
) -> dict[str, Any]:
    """Run all steps after those that freeze images.

    After a kill at any of them, the same command continues there: the checkpoint of the training is removed last.
    """
    settled = runner.call(settle, options, batch_id)
    _say_preset(options, model_config(settled.options))
    with keeping(partial(kept, settled.options, batch_id)):
        return _train_settled(settled, batch_id, gate_id, runner, run)


def _train_settled(settled: Settled, batch_id: str, gate_id: str | None, runner: Runner, run: Run) -> dict[str, Any]:
    options = settled.options
    workspace = Workspace.at(options.workspace)
    config = model_config(options)
    log.info(
        "training %s at %d x %d x %d (%s), likelihood %s, statistic %s, fpr %g",
        config.preset,
        *options.input_size,
        config.channels,
        options.fit,
        config.likelihood,
        config.statistic,
        options.fpr,
    )
    fitted = runner.call(fit, settled, batch_id, run)
    runner.rename(f"{fitted.model_id} from {batch_id}")
    runner.show("training-history", read_table(workspace.history(fitted.model_id)).to_pylist())
    calibration = None
    if fitted.n_calibration:
        unseen = str(unseen_rows(options, batch_id)) if fitted.crossed else None
        calibrated = runner.call(calibrate_model, options, fitted.model_id, batch_id, run, unseen)
        calibration = read_calibration(workspace, calibrated.calibration_id)
    else:
        log.warning(
            "fpr=%g needs %d calibration %s, more than half of these normals: the model is not calibrated. "
            "Score with --uncalibrated, or train with more images or a larger fpr.",
            options.fpr,
            calibration_needs(options),
            "images" if fitted.n_groups is None else "groups of images",
        )
    chosen = _choose(options, fitted, calibration, batch_id, runner, run)
    # The threshold determines which simulated defects are found.
    write_card(workspace, fitted.model_id)
    runner.show("model-card", read_card(workspace, fitted.model_id))
    sees = seen(workspace, fitted.model_id)
    if sees is not None and sees.cannot_see:
        log.warning(
            "%s. What may help: %s.", sees.cannot_see, ", ".join(remedies(**_made_of(workspace, fitted.model_id)))
        )
    made = _export(options, fitted, runner, run)
    gated = None if gate_id is None else _judge(options, gate_id, fitted.model_id, runner)
    result = _record(run, workspace, batch_id, fitted, calibration)
    verdict = _promoted(options, gated, fitted.model_id, calibration, runner)
    # Clean up only now: after an earlier kill, the same command need not train again.
    runner.call(clean_up, options, batch_id)
    network = {"channels": config.channels} | ({"settled": settled.why} if settled.why else {})
    sensitivity = {"sensitivity": None if sees is None else sees.to_dict()}
    precision = {} if chosen is None else {"precision": chosen.to_dict()}
    return result | network | sensitivity | verdict | precision | ({"engines": made} if made else {})


def _choose(
    options: TrainOptions,
    fitted: Fitted,
    calibration: Calibration | None,
    batch_id: str,
    runner: Runner,
    run: Run,
) -> Chosen | None:
    """Calibrate the second fit on the same images, and decide whether to use it; None if there is no second fit."""
    if not fitted.has_second:
        # An earlier training of the same model may have left one.
        drop_second(Workspace.at(options.workspace), fitted.model_id)
        return None
    ids = None
    if calibration is not None:
        unseen = str(unseen_rows(options, batch_id, INT8)) if fitted.crossed else None
        # This calibration becomes current once the second fit is chosen.
        second = runner.call(calibrate_model, options, fitted.model_id, batch_id, run, unseen, INT8, False)
        ids = (calibration.calibration_id, second.calibration_id)
    return runner.call(choose_precision, options, fitted.model_id, ids)


def _say_preset(asked: TrainOptions, config: vae_core.VAEConfig) -> None:
    """Log which preset follows from a size, if the options set a size and no preset."""
    if asked.image_size != TrainOptions.model_fields["image_size"].default and asked.preset == AUTO:
        log.info(
            "image_size=%dx%d brings the preset %s%s; preset=... asks for another",
            *asked.image_size,
            config.preset,
            "" if config.is_pixels else f" with the backbone {config.backbone}",
        )


def _train_each(options: TrainOptions, runner: Runner) -> dict[str, Any]:
    """Train several models, keep one, and promote it if the gate allows."""
    each = [_as_named(options, name) for name in options.candidates]
    made = [train_model(one, runner) for one in each]
    workspace = Workspace.at(options.workspace)
    kept = best_of([seen(workspace, one["model_id"]) for one in made])
    tried = []
    for number, (name, one) in enumerate(zip(options.candidates, made, strict=True)):
        sees = one["sensitivity"] or {}
        numbers = {key: sees.get(key) for key in ("auroc", "auroc_low", "auroc_high", "found", "blind")}
        tried.append({"name": name, "model_id": one["model_id"], **numbers, "kept": number == kept})
    result, options = made[kept], options.model_copy(update={"candidates": ()})
    gated = None
    if options.gate is not None:
        gate_id = runner.call(freeze_gate, options, result["batch_id"], Run("train", options))
        with workspace.using(gate_id):
            gated = _judge(options, gate_id, result["model_id"], runner)
    calibration = read_calibration(workspace, result["calibration_id"]) if result["calibration_id"] else None
    return result | {"tried": tried} | _promoted(options, gated, result["model_id"], calibration, runner)


def _as_named(options: TrainOptions, name: str) -> TrainOptions:
    """The options for one preset or backbone, without promotion."""
    if name in PRESETS:
        network = {"preset": name, "backbone": None}
    elif name in BACKBONES:
        network = {"preset": "features", "backbone": name}
    else:
        raise UsageError(
            f"try={name!r}: expected presets ({', '.join(PRESETS)}) or backbones ({', '.join(BACKBONES)})."
        )
    return options.model_copy(update={**network, "head": None, "promote": False, "gate": None, "candidates": ()})


def _made_of(workspace: Workspace, model_id: str) -> dict[str, Any]:
    described = describe_model(workspace, model_id)
    return {name: described[name] for name in ("config", "training")}


def _export(options: TrainOptions, fitted: Fitted, runner: Runner, run: Run) -> list[str]:
    """Export the model for its engines, before it can become the latest; returns the engines' names."""
    common = {"workspace", *DecodingSettings.model_fields}
    # Engines are compared on the calibration's images, or without a calibration on all that it was made from.
    images = set() if fitted.n_calibration else {"normal", "root"}
    engines = vae_core.usual_engines(model_config(options)) if options.engines is None else options.engines
    for engine in engines:
        asked = ExportOptions(**options.model_dump(include=common | images), engine=engine)
        runner.call(export_engine, asked, fitted.model_id, run)
    return list(engines)


def _judge(options: TrainOptions, gate_id: str, model_id: str, runner: Runner) -> Gated:
    gated = runner.call(judge_candidate, options, gate_id, model_id)
    runner.show("gate", gated.to_markdown())
    for finding in gated.failed:
        log.warning("model %s is not promoted, latest stays %s: %s", model_id, gated.serving_id, finding)
    return gated


def _promoted(
    options: TrainOptions, gated: Gated | None, model_id: str, calibration: Calibration | None, runner: Runner
) -> dict[str, Any]:
    """Promote a model if the options ask for it and no gate objects; returns what to print about it."""
    promoted = options.promote and (gated is None or gated.passed)
    if promoted:
        _promote(Workspace.at(options.workspace), model_id, calibration, runner)
    return {"promoted": promoted} | ({"gate": gated.to_dict()} if gated else {})


def _promote(workspace: Workspace, model_id: str, calibration: Calibration | None, runner: Runner) -> None:
    """Make it the model that ``latest`` refers to, and announce a change."""
    before = pointers.promoted(workspace)
    pointers.promote(workspace, model_id)
    if model_id != before:
        runner.announce(
            "nelbo.model.promoted",
            f"model.{model_id}",
            model_id=model_id,
            workspace=str(workspace.root),
            calibration_id=calibration.calibration_id if calibration else None,
            replaces=before,
        )


def _record(
    run: Run, workspace: Workspace, batch_id: str, fitted: Fitted, calibration: Calibration | None
) -> dict[str, Any]:
    """Publish the run's row; returns what to print about the model."""
    n_images = fitted.n_train + fitted.n_validation + fitted.n_calibration
    n_unlisted = folders_unlisted(workspace, batch_id)
    said = describe(calibration) if calibration else dict.fromkeys(("calibration_id", "fpr", "threshold", "promise"))
    ids = {"model_id": fitted.model_id, "calibration_id": said["calibration_id"]}
    run.record(workspace, batch_id=batch_id, n_images=n_images, n_folders_unlisted=n_unlisted, fpr=said["fpr"], **ids)
    # A model's first calibration is current; if the same model is trained again, another one may be.
    stands = standing(calibration, pointers.current_calibration(workspace, fitted.model_id)) if calibration else {}
    counts = {name: value for name, value in asdict(fitted).items() if name.startswith("n_")}
    return {
        **ids,
        "batch_id": batch_id,
        "run_id": run.run_id,
        # The promise may count fewer images than are held out.
        **counts,
        **said,
        **stands,
        "calibrate_on": "cross" if fitted.crossed else "held_out",
        "data": [finding.to_dict() for finding in fitted.findings],
        "n_folders_unlisted": n_unlisted,
        "seconds": round(run.seconds, 3),
    }


def freeze_normals(options: TrainOptions, run: Run) -> str:
    """Ingest the normal images, check that they can be trained on, and publish their manifest; returns its id."""
    # Check the settings before an hour of hashing and decoding, not after it.
    solved = model_config(options).is_linear
    train_config(options)
    mask = read_mask(options.ignore, options)
    manifest = scan_source(options.normal, options, find=normal_in).manifest()
    table = with_groups(options.normal, manifest.table, options.group_by)
    check_parts(options.normal, table)
    table = with_variants(options.normal, without_test(table), options.variant_by)
    check_normal(options.normal, table, "Leave them out, or give them the split 'test'.")
    usable = list(first_of_each(table))
    check_enough(options.normal, len(usable), table.num_rows)
    assign_parts(table, usable, options, solved)
    workspace = Workspace.at(options.workspace).prepare()
    kept = replace(manifest, table=table)
    # Another seed, rate or limit splits the same files differently, and near-duplicates depend on the decoding.
    how = (options.calibrate_on,) if solved else ()
    alike = (options.model_dump(include=_DECODED_BY),) if options.group_alike else ()
    area = () if mask is None and options.crop is None else (mask, options.crop)
    batch_id = content_id("t", kept.content_hash(), options.seed, options.fpr, options.limits, *how, *alike, *area)
    publish_manifest(kept, workspace, batch_id, run)
    return batch_id
