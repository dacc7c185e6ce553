"""Steps and composition of ``prune``: find what is old and unused in a workspace, and remove it."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nelbo.data import COMMIT, Place, modified, read_table, remove_folder
from nelbo.flows.options.options import PruneOptions
from nelbo.flows.runner import Runner
from nelbo.flows.steps.land import unfinished_batches
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.calibrations.calibration import FILES
from nelbo.flows.workspace.flagged import BESIDE
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.tables import MONTH_FILE, RUN_FILE
from nelbo.vae_core import ALL_ENGINES, exported_files

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Old:
    """Something that may be deleted.

    paths: files, or one folder with all its contents, below the workspace; in the order of their deletion.
    on_disk: whether it lies in the workspace's folder on this machine.
    """

    kind: str
    name: str
    paths: tuple[str, ...]
    size_bytes: int
    modified: float
    on_disk: bool = False


def prune_workspace(options: PruneOptions, runner: Runner) -> dict[str, Any]:
    """Remove what is old and unused, or only list it; returns what the command prints."""
    before = time.time() - options.older_than_s
    old = runner.call(find_old, options, before)
    if options.apply:
        runner.call(remove_old, options, old, before)
    return {
        "older_than": options.older_than,
        "applied": options.apply,
        "n": len(old),
        "size_bytes": sum(item.size_bytes for item in old),
        "items": [
            {
                "kind": item.kind,
                "name": item.name,
                "size_bytes": item.size_bytes,
                "modified_utc": f"{datetime.fromtimestamp(item.modified, UTC):%Y-%m-%dT%H:%M:%SZ}",
            }
            for item in old
        ],
    }


def find_old(options: PruneOptions, before: float) -> list[Old]:
    """What may be deleted, in the order of deletion: scores, which readers take for the commit of a batch, come first.

    Args:
        before: seconds since 1970; what was changed later stays.
    """
    workspace = Workspace.at(options.workspace)
    scores = list(_listed(workspace, "scores"))
    old_scores = [item for item in scores if item.modified < before]
    kept = {item.name for item in scores} - {item.name for item in old_scores}
    kept_batches = {name.partition("/")[2] for name in kept}
    candidates = [
        *old_scores,
        *(item for kind in (*BESIDE, "evaluations") for item in _listed(workspace, kind) if item.name not in kept),
        *(item for item in _listed(workspace, "reports") if item.name not in kept_batches),
        *_manifests(workspace, kept_batches, before),
        *(item for item in _listed(workspace, "runs") if _whole_run_file(item, before)),
        *_leftovers(workspace),
        *(_models(workspace, kept) if options.models else ()),
    ]
    return [item for item in candidates if item.modified < before]


def remove_old(options: PruneOptions, old: list[Old], before: float) -> None:
    """Delete what was found, unless it has changed since; after a kill, the same command does the rest."""
    workspace = Workspace.at(options.workspace)
    for item in old:
        root: Place = workspace.local if item.on_disk else workspace.root
        if item.kind == "model":
            pointers.forget(workspace, item.name)
        with _hold(workspace, item) as is_free:
            for path in item.paths if is_free else ():
                _remove(root, path, before)


@contextmanager
def _hold(workspace: Workspace, item: Old) -> Iterator[bool]:
    """Keep others from replacing an item or beginning to use it, while it is deleted; yields False if it is in use."""
    if item.kind == "manifests":
        with workspace.unused(item.name) as is_free:
            yield is_free
    elif item.kind in ("scores", *BESIDE):
        with workspace.lock():
            yield True
    else:
        yield True


def _remove(root: Place, path: str, before: float) -> None:
    place = root / path
    if not catalog.is_plain(root, path):
        log.warning("%s has become a link, and is left alone", place)
    elif place.is_dir():
        if catalog.newest_inside(place)[0] < before:
            remove_folder(place)
    else:
        # Another prune may have been faster.
        with suppress(FileNotFoundError):
            if modified(place) < before:
                place.unlink()
        if isinstance(place, Path):
            _remove_empty(root, place.parent)


def _remove_empty(root: Place, folder: Path) -> None:
    """Remove folders that have become empty, up to the workspace's own folders."""
    while folder.parent != root and folder != root:
        try:
            folder.rmdir()
        except OSError:
            # The folder holds something else, or is gone.
            return
        folder = folder.parent


def _listed(workspace: Workspace, kind: str) -> Iterator[Old]:
    """Files of a kind, each named by its ids."""
    for row in catalog.with_times(workspace, catalog.find(workspace, kind)).to_pylist():
        *ids, path, size_bytes, when = row.values()
        yield Old(kind, "/".join(ids), (path,), size_bytes, when)


def _manifests(workspace: Workspace, kept_batches: set[str], before: float) -> Iterator[Old]:
    """Manifests that no scored batch, calibration, model, unfinished batch or running command uses."""
    used = kept_batches | catalog.sources(workspace) | set(unfinished_batches(workspace))
    used |= {item.name.rpartition(".")[2] for item in _leftovers(workspace) if item.modified >= before}
    for item in _listed(workspace, "manifests"):
        if item.name not in used:
            with workspace.unused(item.name) as is_free:
                if is_free:
                    yield item


def _whole_run_file(item: Old, before: float) -> bool:
    """A run's own row, or a month of rows that is over and old as a whole."""
    file = f"{item.name}.parquet"
    month = MONTH_FILE.fullmatch(file)
    if month is None:
        return RUN_FILE.fullmatch(file) is not None
    return f"{datetime.fromtimestamp(before, UTC):%Y-%m}" > month[1]


def _leftovers(workspace: Workspace) -> Iterator[Old]:
    """What unfinished jobs left behind, and decoded images; a job at work has written recently."""
    for root, path in catalog.leftovers(workspace):
        kind, _, name = path.partition("/")
        when, size_bytes = catalog.newest_inside(root / path)
        yield Old(kind.strip("_"), name, (path,), size_bytes, when, on_disk=root != workspace.root)


def _models(workspace: Workspace, kept: set[str]) -> Iterator[Old]:
    """Models that are neither latest nor behind a kept batch, and calibrations that no kept model or batch uses."""
    watched = catalog.behind_kept_batches(workspace)
    used = {name.partition("/")[0] for name in kept} | {pointers.promoted(workspace)} | watched
    # This file is deleted last: a model that is half deleted still has it.
    found = catalog.find(workspace, "model.json")["model_id"].to_pylist()
    going = [model_id for model_id in found if model_id not in used]
    staying = [model_id for model_id in catalog.model_ids(workspace) if model_id not in going]
    in_use = watched | {
        pointers.current_calibration(workspace, model_id, precision)
        for model_id in staying
        for precision in pointers.PRECISIONS
    }
    for name in kept:
        model_id, _, batch_id = name.partition("/")
        in_use |= set(
            read_table(workspace.scores(model_id, batch_id), ["calibration_id"])["calibration_id"].to_pylist()
        )
    for calibration_id in catalog.find(workspace, "calibration.json")["calibration_id"].to_pylist():
        if calibration_id not in in_use:
            paths = [f"calibrations/{calibration_id}/{file}" for file in (COMMIT, *reversed(FILES))]
            yield from _whole(workspace, "calibration", calibration_id, paths)
    for model_id in going:
        paths = [
            f"models/{model_id}/{COMMIT}",
            *(f"engines/{model_id}/{name}/{file}" for name in ALL_ENGINES for file in _files_of_engine(name)),
            f"engines/{model_id}/speeds.json",
            *(f"{kind}/{model_id}.parquet" for kind in ("history", "sensitivity", "looks", "normals")),
            *(f"cards/{model_id}{end}" for end in (".md", ".svg")),
            *(f"cards/{model_id}-{name}.png" for name in ("parts", "variants", "strangest", "simulated")),
            f"models/{model_id}/weights.safetensors",
            f"models/{model_id}/model.json",
        ]
        yield from _whole(workspace, "model", model_id, paths)


def _whole(workspace: Workspace, kind: str, name: str, paths: Sequence[str]) -> Iterator[Old]:
    """The existing files of something that readers find by its checksums, which are deleted first."""
    found = [path for path in paths if catalog.is_plain(workspace.root, path) and (workspace.root / path).is_file()]
    if found:
        times, sizes = zip(*(catalog.newest_inside(workspace.root / path) for path in found), strict=True)
        yield Old(kind, name, tuple(found), sum(sizes), max(times))


def _files_of_engine(name: str) -> Iterator[str]:
    yield from reversed(exported_files(name))
    # Files of version 0.1, where maps had a graph of their own.
    yield from (file.replace("scores", "maps") for file in ALL_ENGINES[name].files)
