"""Steps of ``sensitivity``: normal images in, what a model sees of defects painted on them out."""

import logging
from typing import Any

import pyarrow as pa

from nelbo import vae_core
from nelbo.data import SIMULATED_SCHEMA, Manifest, Preprocessing, normal_in, read_images, write_table
from nelbo.flows.evaluation.sensitivity import seen
from nelbo.flows.inference.maps import Window, read_window
from nelbo.flows.inference.models import read_bundle
from nelbo.flows.inference.painting.simulation import MOST_IMAGES, Unseen, simulate
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

#: Fewer normal images say too little.
_LEAST_IMAGES = 10


def find_sensitivity(options: SensitivityOptions, runner: Runner) -> dict[str, Any]:
    """Paint defects on normal images, or show what was found when that was done last; what the command prints."""
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
    """Keep what a model says of defects on images that it was not trained on; how many images there were."""
    workspace = Workspace.at(options.workspace).prepare()
    model = read_bundle(workspace.models / model_id)
    if model.tiles is not None:
        raise UsageError(
            f"model {model_id} sees tiles, and simulated defects are painted on whole images. Try it on real ones: "
            "nelbo evaluate"
        )
    manifest = scan_source(str(options.on), options, find=normal_in).manifest()
    check_normal(str(options.on), manifest.table, "Leave them out.")
    table = each_once(manifest.table)
    table = unseen_in_training(table, workspace, model_id)
    table = table.slice(0, MOST_IMAGES)
    window = read_window(workspace, model_id)
    unseen = _decoded(Manifest(table, manifest.root), Preprocessing(**model.preprocessing), options, window)
    n_images = unseen.table.num_rows
    if n_images < _LEAST_IMAGES:
        raise UsageError(
            f"{options.on} holds {n_images} usable normal images that model {model_id} was not trained "
            f"on, and {_LEAST_IMAGES} are needed. Add normal images."
        )
    rows = simulate(model, vae_core.fast_scorer(model), unseen, options.defect_px, options.seed)
    keep(rows, workspace, model_id, run)
    write_card(workspace, model_id)
    return n_images


def keep(rows: pa.Table, workspace: Workspace, model_id: str, run: Run) -> None:
    """Put what a model says of simulated defects where it is looked for."""
    write_table(rows, workspace.simulated(model_id), SIMULATED_SCHEMA, run.metadata, workspace.staging)


def _decoded(
    manifest: Manifest, preprocessing: Preprocessing, options: SensitivityOptions, window: Window | None
) -> Unseen:
    images = read_images(manifest.files, preprocessing, limits=options.limits, workers=options.workers)
    readable = [reason is None for reason in images.reasons]
    table = manifest.table.filter(pa.array(readable, pa.bool_()))
    return Unseen(images.pixels, table, size_z(images.parts), window)
