"""Steps of ``sensitivity``: paint defects on normal images, and find out which of them a model sees."""

import logging
from contextlib import closing
from typing import Any

import pyarrow as pa

from nelbo import vae_core
from nelbo.data import SIMULATED_SCHEMA, Manifest, Preprocessing, iter_wholes, normal_in, read_images, write_table
from nelbo.flows.evaluation.sensitivity import seen
from nelbo.flows.inference.maps import Window, read_window
from nelbo.flows.inference.models import read_bundle
from nelbo.flows.inference.painting.simulation import MOST_IMAGES, Unseen, simulate
from nelbo.flows.inference.painting.tiles import n_images, simulate_tiles
from nelbo.flows.inference.pipeline import size_z
from nelbo.flows.options.options import SensitivityOptions
from nelbo.flows.report.card import write_card
from nelbo.flows.runner import Runner
from nelbo.flows.steps.ingest import scan_source
from nelbo.flows.steps.parts import check_normal, each_once
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import unseen_in_training
from nelbo.flows.workspace.runs import Run

log = logging.getLogger(__name__)

#: Fewest normal images that tell enough.
_LEAST_IMAGES = 10


def find_sensitivity(options: SensitivityOptions, runner: Runner) -> dict[str, Any]:
    """Paint defects on normal images, or look up the last result; returns what the command prints."""
    run = Run("sensitivity", options)
    workspace = Workspace.at(options.workspace)
    model_id = catalog.find_model(workspace, options.model)
    n_images = 0
    if options.on is not None:
        n_images = runner.call(paint_and_score, options, model_id, run)
    found = seen(workspace, model_id)
    if found is None:
        raise UsageError(
            f"no simulated defects were painted for model {model_id}. Name normal images that it was not trained on, "
            f"at least {_LEAST_IMAGES}: nelbo sensitivity --on DIR"
        )
    if found.cannot_see:
        log.warning("%s.", found.cannot_see)
    run.record(workspace, model_id=model_id, n_images=n_images)
    return {"model_id": model_id, "run_id": run.run_id, **found.to_dict(), "seconds": round(run.seconds, 3)}


def paint_and_score(options: SensitivityOptions, model_id: str, run: Run) -> int:
    """Keep a model's scores of defects on images that it was not trained on; returns the number of images."""
    workspace = Workspace.at(options.workspace).prepare()
    model = read_bundle(workspace.models / model_id)
    manifest = scan_source(str(options.on), options, find=normal_in).manifest()
    check_normal(str(options.on), manifest.table, "Leave them out.")
    table = each_once(manifest.table)
    table = unseen_in_training(table, workspace, model_id)
    window = read_window(workspace, model_id)
    paint_on = _on_wholes if model.tiles is None else _on_tiles
    try:
        rows = paint_on(model, Manifest(table, manifest.root), options, window)
    except _TooFewError as error:
        raise UsageError(
            f"{options.on} holds {error} usable normal images that model {model_id} was not trained "
            f"on, and {_LEAST_IMAGES} are needed. Add normal images."
        ) from None
    keep(rows, workspace, model_id, run)
    write_card(workspace, model_id)
    return rows["kind"].null_count


class _TooFewError(ValueError):
    """There are only so many images, which are too few."""


def keep(rows: pa.Table, workspace: Workspace, model_id: str, run: Run) -> None:
    """Write a model's scores of simulated defects to their place in the workspace."""
    write_table(rows, workspace.simulated(model_id), SIMULATED_SCHEMA, run.metadata, workspace.staging)


def _on_wholes(
    model: "vae_core.Model", manifest: Manifest, options: SensitivityOptions, window: Window | None
) -> pa.Table:
    table = manifest.table.slice(0, MOST_IMAGES)
    files = Manifest(table, manifest.root).files
    preprocessing = Preprocessing(**model.preprocessing)
    images = read_images(files, preprocessing, limits=options.limits, workers=options.workers)
    readable = pa.array([reason is None for reason in images.reasons], pa.bool_())
    unseen = Unseen(images.pixels, table.filter(readable), size_z(images.parts), window)
    _check_enough(unseen.table.num_rows)
    return simulate(model, vae_core.fast_scorer(model), unseen, options.defect_px, options.seed)


def _on_tiles(
    model: "vae_core.Model", manifest: Manifest, options: SensitivityOptions, window: Window | None
) -> pa.Table:
    # Check this before minutes of work on tiles.
    _check_enough(manifest.table.num_rows)
    table = manifest.table.slice(0, n_images(model, manifest.table))
    files = Manifest(table, manifest.root).files
    preprocessing = Preprocessing(**model.preprocessing)
    with closing(iter_wholes(files, preprocessing, limits=options.limits, workers=options.workers)) as images:
        rows = simulate_tiles(model, images, table, options.defect_px, options.seed, window)
    _check_enough(rows["kind"].null_count)
    return rows


def _check_enough(n: int) -> None:
    if n < _LEAST_IMAGES:
        raise _TooFewError(n)
