"""Steps and composition of ``prune``: what is old and unused in a workspace, and its removal."""

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nelbo.data import COMMIT, Place, modified, read_table, remove_folder
from nelbo.flows.options.options import PruneOptions
from nelbo.flows.runner import Runner
from nelbo.flows.steps.land import unfinished_batches
from nelbo.flows.workspace.layout import Workspace, is_id
from nelbo.flows.workspace.models import describe_model
from nelbo.flows.workspace.tables import MONTH_FILE, RUN_FILE
from nelbo.vae_core import ENGINES, exported_files

log = logging.getLogger(__name__)

_PUBLISHED = re.compile(r"(?:scores|flagged)/model_id=([^/]+)/batch_id=([^/]+)/(?:scores|flagged)\.parquet")


@dataclass(frozen=True)
class Old:
    """Something that may go.

    paths: files, or one folder with all that is in it, below the workspace; in the order of their deletion.
    on_disk: it lies in the workspace's folder on this machine.
    """

    kind: str
    name: str
    paths: tuple[str, ...]
    size_bytes: int
    modified: float
    on_disk: bool = False


def prune_workspace(options: PruneOptions, runner: Runner) -> dict[str, Any]:
    """Remove what is old and unused, or only say what that is; what the command prints."""
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
    """What may go, in the order of deletion: what readers see as the commit of a batch comes first.

    Args:
        before: seconds since 1970; what was changed later stays.
    """
    workspace = Workspace.at(options.workspace)
    scores = list(_published(workspace, "scores"))
    old_scores = [item for item in scores if item.modified < before]
    kept = {item.name for item in scores} - {item.name for item in old_scores}
    kept_batches = {name.partition("/")[2] for name in kept}
    candidates = [
        *old_scores,
        *(item for item in _published(workspace, "flagged") if item.name not in kept),
        *(item for item in _singles(workspace, "reports", "*.html") if item.name not in kept_batches),
        *_manifests(workspace, kept_batches, before),
        *(item for item in _singles(workspace, "runs", "*.parquet") if _whole_run_file(item, before)),
        *_folders(workspace),
        *(_models(workspace, kept) if options.models else ()),
    ]
    return [item for item in candidates if item.modified < before]


def remove_old(options: PruneOptions, old: list[Old], before: float) -> None:
    """Delete what was found, unless it was changed since; killed midway, the same command does the rest."""
    workspace = Workspace.at(options.workspace)
    for item in old:
        root: Place = workspace.local if item.on_disk else workspace.root
        if item.kind == "model":
            workspace.forget(item.name)
        with _hold(workspace, item) as is_free:
            for path in item.paths if is_free else ():
                _remove(root, path, before)


@contextmanager
def _hold(workspace: Workspace, item: Old) -> Iterator[bool]:
    """Let nobody replace, or begin to use, what is looked at a last time and deleted; false if it is in use."""
    if item.kind == "manifests":
        with workspace.unused(item.name) as is_free:
            yield is_free
    elif item.kind in ("scores", "flagged"):
        with workspace.lock():
            yield True
    else:
        yield True


def _remove(root: Place, path: str, before: float) -> None:
    place = root / path
    if not _plain(root, path):
        log.warning("%s has become a link, and is left alone", place)
    elif place.is_dir():
        if _newest(place)[0] < before:
            remove_folder(place)
    else:
        # Gone already: another prune was faster.
        with suppress(FileNotFoundError):
            if modified(place) < before:
                place.unlink()
        if isinstance(place, Path):
            _remove_empty(root, place.parent)


def _remove_empty(root: Place, folder: Path) -> None:
    """Folders that hold nothing any more, up to the workspace's own ones."""
    while folder.parent != root and folder != root:
        try:
            folder.rmdir()
        except OSError:
            # Something else is in it, or it is gone.
            return
        folder = folder.parent


def _plain(root: Place, path: str) -> bool:
    """Whether no part of the way is a link; object stores have none."""
    if not isinstance(root, Path):
        return True
    steps = [root / path, *(root / path).parents]
    return not any(step.is_symlink() for step in steps[: steps.index(root)])


def _found(workspace: Workspace, pattern: str) -> Iterator[tuple[Place, str, float, int]]:
    """Regular files of a pattern: where, path below the workspace, time and size."""
    # A bucket's own name ends in a slash.
    prefix = len(str(workspace.root).rstrip("/")) + 1
    places: list[Place] = list(workspace.root.glob(pattern))
    for place in sorted(places, key=str):
        path = str(place)[prefix:]
        with suppress(FileNotFoundError):
            if _plain(workspace.root, path) and place.is_file():
                yield place, path, modified(place), place.stat().st_size


def _published(workspace: Workspace, kind: str) -> Iterator[Old]:
    for _, path, when, size in _found(workspace, f"{kind}/model_id=*/batch_id=*/{kind}.parquet"):
        found = _PUBLISHED.fullmatch(path)
        if found and is_id(found[1]) and is_id(found[2]):
            yield Old(kind, f"{found[1]}/{found[2]}", (path,), size, when)


def _singles(workspace: Workspace, folder: str, pattern: str) -> Iterator[Old]:
    for place, path, when, size in _found(workspace, f"{folder}/{pattern}"):
        if is_id(place.stem):
            yield Old(folder, place.stem, (path,), size, when)


def _manifests(workspace: Workspace, kept_batches: set[str], before: float) -> Iterator[Old]:
    """Those that no scored batch, calibration or model goes back to, no unfinished batch, and no command at work."""
    used = kept_batches | set(_sources(workspace)) | set(unfinished_batches(workspace))
    used |= {item.name.rpartition(".")[2] for item in _folders(workspace) if item.modified >= before}
    for place, path, when, size in _found(workspace, "manifests/batch_id=*/manifest.parquet"):
        batch_id = place.parent.name.removeprefix("batch_id=")
        if is_id(batch_id) and batch_id not in used:
            with workspace.unused(batch_id) as is_free:
                if is_free:
                    yield Old("manifests", batch_id, (path,), size, when)


def _sources(workspace: Workspace) -> Iterator[str]:
    for name in workspace.calibration_ids():
        yield str(_described(workspace, name).get("batch_id"))
    for name in workspace.model_ids():
        yield str(describe_model(workspace, name)["training"].get("batch_id"))


def _described(workspace: Workspace, calibration_id: str) -> dict[str, Any]:
    try:
        content = json.loads((workspace.calibrations / calibration_id / "calibration.json").read_text("utf-8"))
    except (OSError, ValueError):
        # A damaged calibration is for `verify` to report.
        return {}
    return content if isinstance(content, dict) else {}


def _whole_run_file(item: Old, before: float) -> bool:
    """A run's own row, or a month of rows that is over and old as a whole."""
    file = f"{item.name}.parquet"
    month = MONTH_FILE.fullmatch(file)
    if month is None:
        return RUN_FILE.fullmatch(file) is not None
    return f"{datetime.fromtimestamp(before, UTC):%Y-%m}" > month[1]


def _folders(workspace: Workspace) -> Iterator[Old]:
    """What unfinished jobs left behind, and decoded images; a job that is at work has written lately."""
    roots = [
        (workspace.root, "_staging", False),
        (workspace.local, "checkpoints", True),
        (workspace.local, "cache", True),
    ]
    if workspace.local != workspace.root:
        roots.append((workspace.local, "_staging", True))
    for root, kind, on_disk in roots:
        parent = root / kind
        if not _plain(root, kind) or not parent.is_dir():
            continue
        places: list[Place] = list(parent.iterdir())
        for place in sorted(places, key=str):
            path = f"{kind}/{place.name}"
            if _plain(root, path):
                when, size = _newest(place)
                yield Old(kind.strip("_"), place.name, (path,), size, when, on_disk)


def _newest(place: Place) -> tuple[float, int]:
    """When anything in a folder (or the file itself) was last changed, and the bytes of it all."""
    if isinstance(place, Path):
        inside = [place, *place.rglob("*")]
        status = [path.lstat() for path in inside if path.is_symlink() or path.exists()]
        return max((found.st_mtime for found in status), default=0.0), sum(found.st_size for found in status)
    files = place.fs.find(place.path, detail=True)
    return (
        max((place.fs.modified(name).timestamp() for name in files), default=0.0),
        sum(int(found["size"]) for found in files.values()),
    )


def _models(workspace: Workspace, kept: set[str]) -> Iterator[Old]:
    """Models that are neither latest nor behind a kept batch, and calibrations that no kept model or batch uses."""
    used = {name.partition("/")[0] for name in kept} | {workspace.promoted()}
    going = [model_id for model_id in _ids(workspace, "models/*/model.json") if model_id not in used]
    in_use = {workspace.calibration(model_id) for model_id in workspace.model_ids() if model_id not in going}
    for name in kept:
        model_id, _, batch_id = name.partition("/")
        in_use |= set(
            read_table(workspace.scores(model_id, batch_id), ["calibration_id"])["calibration_id"].to_pylist()
        )
    for calibration_id in _ids(workspace, "calibrations/*/calibration.json"):
        if calibration_id not in in_use:
            files = ("scores.parquet", "calibration.json")
            yield from _whole(workspace, "calibration", calibration_id, f"calibrations/{calibration_id}", files)
    for model_id in going:
        engines = (f"engines/{model_id}/{name}/{file}" for name in ENGINES for file in reversed(exported_files(name)))
        speeds = f"engines/{model_id}/speeds.json"
        about = (
            *engines,
            speeds,
            f"history/{model_id}.parquet",
            *(f"cards/{model_id}{end}" for end in (".md", ".svg", "-parts.png", "-variants.png")),
        )
        files = ("weights.safetensors", "model.json")
        yield from _whole(workspace, "model", model_id, f"models/{model_id}", files, about)


def _ids(workspace: Workspace, pattern: str) -> list[str]:
    """Folders by the file that is deleted last, so that one that was half deleted is found again."""
    return [place.parent.name for place, *_ in _found(workspace, pattern) if is_id(place.parent.name)]


def _whole(
    workspace: Workspace, kind: str, name: str, folder: str, files: tuple[str, ...], about: tuple[str, ...] = ()
) -> Iterator[Old]:
    """A folder that readers find by its checksums, which go first; then what else is kept of it, and the rest."""
    paths = [f"{folder}/{COMMIT}", *about, *(f"{folder}/{file}" for file in files)]
    found = [path for path in paths if _plain(workspace.root, path) and (workspace.root / path).is_file()]
    times = [modified(workspace.root / path) for path in found]
    sizes = [(workspace.root / path).stat().st_size for path in found]
    if found:
        yield Old(kind, name, tuple(found), sum(sizes), max(times))
